"""Tries what a configuration needs of this machine, without running it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from sentinel_pipeline.application.commands import Commands
from sentinel_pipeline.bootstrap.needs import check_classes, needs_ffmpeg
from sentinel_pipeline.bootstrap.sinks import make_transport
from sentinel_pipeline.domain.errors import SentinelError
from sentinel_pipeline.domain.models import ModelSpec
from sentinel_pipeline.infrastructure.inference.detector import open_detector
from sentinel_pipeline.infrastructure.storage.place import ensure_place
from sentinel_pipeline.infrastructure.video.encoder import check_codec
from sentinel_pipeline.infrastructure.video.ffmpeg_binary import ffmpeg_version, find_ffmpeg
from sentinel_pipeline.infrastructure.video.jpeg import encode_jpeg
from sentinel_pipeline.interface.config import Config
from sentinel_pipeline.interface.logs import configure_logging


def preflight(config: Config) -> Sequence[tuple[str, SentinelError]]:
    """Try what ``config`` needs of this machine: FFmpeg, the models, the outbox. Return each (where, error)."""
    configure_logging("auto", "error")
    faults: list[tuple[str, SentinelError]] = []

    def attempt(where: str, action: Callable[[], object]) -> None:
        try:
            action()
        except SentinelError as exc:
            faults.append((where, exc))

    if needs_ffmpeg(config):
        attempt("runtime.ffmpeg", lambda: ffmpeg_version(find_ffmpeg(config.runtime.ffmpeg)))
    encoders = sorted({(stream.publish.codec, stream.publish.preset) for stream in config.streams if stream.publish})
    for encoder in encoders:
        attempt("publish", lambda encoder=encoder: check_codec(*encoder))  # type: ignore[misc]
    for spec in config.models:
        attempt(f"models.{spec.id}", lambda spec=spec: try_model(config, spec))  # type: ignore[misc]
    commands = Commands(encode_jpeg)
    for sink in config.sinks:
        attempt(f"sinks.{sink.id}", lambda sink=sink: make_transport(sink, commands))  # type: ignore[misc]
    attempt("outbox.path", lambda: ensure_place(config.outbox.path))
    return faults


def try_model(config: Config, spec: ModelSpec) -> None:
    """Load a model and see that it has the classes that the streams ask it for. Raises ``SentinelError``."""
    with open_detector(spec) as detector:
        check_classes(config, {spec.id: detector})
