"""Pydantic's errors in words for the person who edits the file."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

from pydantic_core import ErrorDetails

from sentinel_pipeline.interface.config.fields import FAULT
from sentinel_pipeline.interface.config.guide import example_of, keys_of, schema_at, sections_with
from sentinel_pipeline.interface.config.problems import Problem, Steps, key_shown
from sentinel_pipeline.interface.config.suggestions import closest, did_you_mean, listing
from sentinel_pipeline.interface.config.tree import Document

Location = tuple[str | int, ...]


def explain(errors: Iterable[ErrorDetails], document: Document) -> list[Problem]:
    """Return a problem for each error, except where the value could not even be made out (that is reported already)."""
    problems = []
    for error in errors:
        path = without_tags(error["loc"])
        if error["type"].startswith("union_tag"):
            path = (*path, error["ctx"]["discriminator"].strip("'"))
        if not document.broken(path):
            problems.append(_teller(error["type"])(error, path, document))
    return problems


def _teller(kind: str) -> Callable[[ErrorDetails, Steps, Document], Problem]:
    return _TELL.get(kind, _other)


def without_tags(location: Location) -> Steps:
    """Return the path in the file: pydantic adds the kind of a rule or a sink, and ``[key]`` for a key itself."""
    steps = list(location)
    if steps[-1:] == ["[key]"]:
        steps.pop()
    if steps[0:1] == ["sinks"] and len(steps) > 2:
        del steps[2]
    if steps[0:1] == ["streams"] and steps[2:4] == ["analyse", "rules"] and len(steps) > 5:
        del steps[5]
    return tuple(steps)


def _own(error: ErrorDetails, path: Steps, document: Document) -> Problem:
    context = error["ctx"]
    at_key = error["loc"][-1] == "[key]"
    value = f'"{key_shown(str(path[-1]))}"' if at_key else document.shown(path)
    message = context["message"].replace("{value}", value)
    return document.problem(path, message, context["remedy"], at_key=at_key)


def _unknown_key(error: ErrorDetails, path: Steps, document: Document) -> Problem:
    key, schema = str(path[-1]), schema_at(error["loc"][:-1])
    known = keys_of(schema)
    inside = sections_with(key, schema) if closest(key, known) is None else []
    remedy = f"it belongs under `{inside[0]}`" if inside else did_you_mean(key, known)
    return document.problem(path, f"`{key_shown(key)}` is not known here", remedy, at_key=True)


def _missing(error: ErrorDetails, path: Steps, document: Document) -> Problem:
    key = str(path[-1])
    return document.problem(path, f"`{key}` is missing", f"add `{example_of(key, schema_at(error['loc'][:-1]))}`")


def _no_kind(error: ErrorDetails, path: Steps, document: Document) -> Problem:
    kinds = list(schema_at(error["loc"])["discriminator"]["mapping"])
    return document.problem(path, f"`{path[-1]}` is missing", f"add `{path[-1]}:` with {listing(kinds)}")


def _wrong_kind(error: ErrorDetails, path: Steps, document: Document) -> Problem:
    return _choice(path, list(schema_at(error["loc"])["discriminator"]["mapping"]), document)


def _wrong_choice(error: ErrorDetails, path: Steps, document: Document) -> Problem:
    return _choice(path, re.findall(r"'([^']*)'", error["ctx"]["expected"]), document)


def _choice(path: Steps, known: list[str], document: Document) -> Problem:
    return document.problem(
        path, f"{document.shown(path)} is not possible here", did_you_mean(document.name(path), known)
    )


def _expected(what: str, remedy: str) -> Callable[[ErrorDetails, Steps, Document], Problem]:
    def tell(_error: ErrorDetails, path: Steps, document: Document) -> Problem:
        return document.problem(path, f"{document.shown(path)} is not {what}", remedy)

    return tell


def _other(error: ErrorDetails, path: Steps, document: Document) -> Problem:
    return document.problem(path, f"{document.shown(path)} is not possible here: {error['type'].replace('_', ' ')}")


_mapping = _expected("a mapping", "write keys and values: {key: value}, or indented lines `key: value`")
_list = _expected("a list", "write [one, two], or indented lines `- one`")
_truth = _expected("a truth value", "write true or false")

_TELL: dict[str, Callable[[ErrorDetails, Steps, Document], Problem]] = {
    FAULT: _own,
    "extra_forbidden": _unknown_key,
    "missing": _missing,
    "union_tag_not_found": _no_kind,
    "union_tag_invalid": _wrong_kind,
    "literal_error": _wrong_choice,
    "model_type": _mapping,
    "model_attributes_type": _mapping,
    "dict_type": _mapping,
    "list_type": _list,
    "tuple_type": _list,
    "string_type": _expected("text", "put it in quotes"),
    "bool_type": _truth,
    "bool_parsing": _truth,
}
