"""From a file to the configuration, or to everything that is wrong with it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError

from sentinel_pipeline.domain.models import ModelSpec
from sentinel_pipeline.domain.settings import ApiSpec, OutboxSpec, RuntimeSpec, SinkSpec
from sentinel_pipeline.domain.streams import StreamSpec
from sentinel_pipeline.interface.config import translate
from sentinel_pipeline.interface.config.combinations import check_process, check_sinks, check_streams
from sentinel_pipeline.interface.config.explain import explain
from sentinel_pipeline.interface.config.problems import ConfigProblems, Problem
from sentinel_pipeline.interface.config.process_sections import ApiSection, OutboxSection
from sentinel_pipeline.interface.config.reading import read_document
from sentinel_pipeline.interface.config.references import check_detection, check_models
from sentinel_pipeline.interface.config.root_section import RootSection
from sentinel_pipeline.interface.config.section import Section
from sentinel_pipeline.interface.config.tree import Document
from sentinel_pipeline.interface.config.unsupported import refuse_unsupported

S = TypeVar("S", bound=Section)


@dataclass(frozen=True, slots=True)
class Config:
    """A checked configuration in values of the domain. Paths are absolute; disabled streams are left out.

    path: the file it came from.
    """

    models: tuple[ModelSpec, ...]
    streams: tuple[StreamSpec, ...]
    sinks: tuple[SinkSpec, ...]
    outbox: OutboxSpec
    api: ApiSpec
    runtime: RuntimeSpec
    path: Path


def load_config(path: Path, environ: Mapping[str, str]) -> Config:
    """Read, check and translate a YAML or JSON file.

    ``environ``: what ``${VAR}`` is looked up in. Files are named relative to the folder of ``path``.
    Raises ``ConfigProblems`` with everything that is wrong; no message carries a secret.
    """
    base = path.absolute().parent
    document, problems = read_document(path, environ)
    root, faults = _validate(document)
    problems += faults
    problems += refuse_unsupported(document)
    problems += _cross_checks(document, base, environ)
    if problems or root is None:
        raise ConfigProblems(problems)
    streams = translate.stream_specs(root.streams.items(), base)
    return Config(
        models=translate.model_specs(root.models, streams, base),
        streams=streams,
        sinks=tuple(translate.sink_spec(name, section) for name, section in root.sinks.items()),
        outbox=translate.outbox_spec(root.outbox, base),
        api=translate.api_spec(root.api),
        runtime=translate.runtime_spec(root.runtime, base),
        path=path.absolute(),
    )


def load_api(path: Path, environ: Mapping[str, str]) -> ApiSpec:
    """Read the section ``api`` only: who asks a running program need not know the cameras' passwords.

    Raises ``ConfigProblems`` with what is wrong with that section, or with the file as YAML.
    """
    return translate.api_spec(_section(path, environ, "api", ApiSection))


def load_outbox(path: Path, environ: Mapping[str, str]) -> OutboxSpec:
    """Read the section ``outbox`` only; see ``load_api``."""
    return translate.outbox_spec(_section(path, environ, "outbox", OutboxSection), path.absolute().parent)


def _section(path: Path, environ: Mapping[str, str], name: str, kind: type[S]) -> S:
    document, found = read_document(path, environ)
    problems = [problem for problem in found if problem.where.partition(".")[0] in ("", name)]
    try:
        section = kind.model_validate(document.root.plain().get(name))
    except ValidationError as exc:
        errors = exc.errors(include_url=False, include_input=False)
        problems += explain([{**error, "loc": (name, *error["loc"])} for error in errors], document)
    if problems:
        raise ConfigProblems(problems)
    return section


def _validate(document: Document) -> tuple[RootSection | None, list[Problem]]:
    try:
        return RootSection.model_validate(document.root.plain()), []
    except ValidationError as exc:
        return None, explain(exc.errors(include_url=False, include_input=False), document)


def _cross_checks(document: Document, base: Path, environ: Mapping[str, str]) -> Iterator[Problem]:
    yield from check_models(document, base)
    yield from check_detection(document, base)
    yield from check_streams(document, base)
    yield from check_sinks(document)
    yield from check_process(document, base, environ)
