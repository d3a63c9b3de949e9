"""What a configuration needs of the program: FFmpeg, models, classes; and what of it can be down."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sentinel_pipeline.domain.errors import ConfigError
from sentinel_pipeline.domain.redact import redact
from sentinel_pipeline.domain.system_events import Part
from sentinel_pipeline.infrastructure.inference.detector import ModelDetector
from sentinel_pipeline.interface.config import Config


def needs_ffmpeg(config: Config) -> bool:
    """Return whether a child ffmpeg will be needed: to publish, and to read what PyAV cannot."""
    return any(stream.publish or stream.source.startswith("srt://") for stream in config.streams)


def used_models(config: Config) -> frozenset[str]:
    """Return the ids of the models that a stream asks for: the others are not loaded."""
    return frozenset(model for stream in config.streams for model in stream.models)


def check_classes(config: Config, detectors: Mapping[str, ModelDetector]) -> None:
    """Raise ``ConfigError`` when a stream looks for, or hides, what its model has no class for.

    The file alone says that only where it names the labels; otherwise the model's own file does. What is not loaded is
    left out.
    """
    for stream in config.streams:
        asked: list[tuple[str, str, Sequence[str]]] = []
        if stream.analyse:
            asked.append(("analyse.detect.classes", stream.analyse.detect.model, stream.analyse.detect.classes))
        if stream.privacy:
            asked.append(("privacy.blur", stream.privacy.model, stream.privacy.classes))
        for where, model, classes in asked:
            known = detectors[model].labels if model in detectors else classes
            if unknown := [name for name in classes if name not in known]:
                raise ConfigError(
                    f"streams.{stream.id}.{where}: the model {model} has no class {', '.join(unknown)}",
                    remedy=f"write some of {', '.join(known[:20])}",
                )


def watched(config: Config) -> tuple[frozenset[str], frozenset[Part]]:
    """Return the ids of the streams, and all parts, that can be down."""
    parts = {Part("sink", spec.id) for spec in config.sinks} | {Part("model", name) for name in used_models(config)}
    for stream in config.streams:
        urls = stream.publish.urls if stream.publish else ()
        parts |= {Part("publisher", redact(url), stream.id) for url in urls}
    return frozenset(stream.id for stream in config.streams), frozenset(parts)
