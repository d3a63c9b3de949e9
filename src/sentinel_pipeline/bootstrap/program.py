"""Builds everything in order on one ExitStack, and takes it down in reverse.

outbox → emitter (one delivery per sink) → models → streams → API
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

import structlog

from sentinel_pipeline.application.commands import Commands
from sentinel_pipeline.application.event.emitter import EventEmitter
from sentinel_pipeline.application.event.outages import Condition
from sentinel_pipeline.application.event.system_events import SystemEvents
from sentinel_pipeline.application.stream.manager import StreamManager
from sentinel_pipeline.bootstrap.left_open import left_open
from sentinel_pipeline.bootstrap.needs import check_classes, needs_ffmpeg, used_models, watched
from sentinel_pipeline.bootstrap.sinks import delivery_settings, make_transport
from sentinel_pipeline.bootstrap.workers import worker_factory
from sentinel_pipeline.domain.errors import ConfigError, OutboxError, SentinelError
from sentinel_pipeline.domain.system_events import Part, outbox_damaged
from sentinel_pipeline.infrastructure.inference.detector import ModelDetector, open_detector
from sentinel_pipeline.infrastructure.storage.outbox import SqliteOutbox
from sentinel_pipeline.infrastructure.storage.outbox_reader import OutboxReader
from sentinel_pipeline.infrastructure.storage.place import ensure_place
from sentinel_pipeline.infrastructure.transport.audience import AudienceWatch
from sentinel_pipeline.infrastructure.video.ffmpeg_binary import find_ffmpeg
from sentinel_pipeline.infrastructure.video.jpeg import encode_jpeg
from sentinel_pipeline.interface.api.app import make_app
from sentinel_pipeline.interface.api.server import ApiServer, bind
from sentinel_pipeline.interface.config import Config, ConfigProblems, load_config
from sentinel_pipeline.interface.report import make_report

log = structlog.get_logger(__name__)


class Running:
    """A running program: what the API, the live table and the report read."""

    DRAIN = 1.0  # seconds that the sinks get at the end to take what is pending; the rest stays in the outbox

    def __init__(
        self,
        config: Config,
        manager: StreamManager,
        emitter: EventEmitter,
        outbox: SqliteOutbox,
        detectors: Mapping[str, ModelDetector],
        events: SystemEvents,
        started: float,
    ) -> None:
        self._config, self._has_ffmpeg = config, needs_ffmpeg(config)
        self._manager, self._emitter, self._outbox = manager, emitter, outbox
        self._detectors, self._events, self._started = detectors, events, started
        self.api_url = ""

    def report(self) -> dict[str, Any]:
        """Return the report of design section 7."""
        return self._report(self._manager.snapshot())

    def reload(self) -> None:
        """Apply the streams of the configuration's file as it is now: what has changed there, and nothing else.

        A file with faults changes nothing. Other sections need a restart, which is said.
        """
        try:
            new = load_config(self._config.path, os.environ)
            check_classes(new, self._detectors)
        except SentinelError as exc:
            faults = [str(fault) for fault in exc.problems] if isinstance(exc, ConfigProblems) else [str(exc)]
            log.error("the configuration cannot be used: nothing is changed", faults=faults)  # noqa: TRY400 - the user's
            return
        loaded = {spec.id: spec for spec in self._config.models if spec.id in self._detectors}
        used = used_models(new)
        missing = any(loaded.get(spec.id) != spec for spec in new.models if spec.id in used)
        if missing or needs_ffmpeg(new) > self._has_ffmpeg:
            log.error(
                "the new streams need a model, or FFmpeg, that is not loaded: nothing is changed", remedy="restart"
            )
            return
        sections = ("models", "sinks", "outbox", "api", "runtime")
        others = [name for name in sections if getattr(new, name) != getattr(self._config, name)]
        if others:
            log.warning("these sections have changed and need a restart", sections=others)
        self._manager.apply(new.streams)
        self._config = replace(self._config, streams=new.streams)
        self._events.keep(*watched(self._config))
        log.info("the configuration's streams are applied", streams=len(new.streams))

    def models(self) -> dict[Part, Condition]:
        """Return how the models are doing that a stream uses."""
        used = used_models(self._config)
        return {Part("model", name): each.condition() for name, each in self._detectors.items() if name in used}

    def finish(self) -> dict[str, Any]:
        """Stop the streams, let the sinks take what is pending, and return the last report.

        The streams' states are those before the stop, and so are their counts, save those of events.
        """
        streams = self._manager.snapshot()
        self._manager.stop()
        for name, after in self._manager.snapshot().items():  # the end of a stream has closed its incidents
            if name in streams:
                streams[name] |= {key: after[key] for key in ("events", "events_lost")}
        self._emitter.flush(self.DRAIN)
        return self._report(streams)

    def _report(self, streams: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
        return make_report(
            streams=streams,
            sinks=self._emitter.snapshot(),
            outbox=self._outbox.snapshot(),
            models={name: detector.snapshot() for name, detector in self._detectors.items()},
            started=self._started,
        )


@contextmanager
def running(config: Config) -> Iterator[Running]:
    """Build and start everything that ``config`` asks for; leaving takes it down. Raises ``SentinelError``."""
    started = time.monotonic()
    ffmpeg = find_ffmpeg(config.runtime.ffmpeg) if needs_ffmpeg(config) else ""
    try:
        ensure_place(config.outbox.path)
    except OutboxError as exc:
        raise ConfigError(exc.args[0], remedy=exc.remedy) from exc
    with ExitStack() as stack:
        outbox = stack.enter_context(
            SqliteOutbox(
                config.outbox.path,
                max_size=config.outbox.max_size,
                max_age=config.outbox.max_age,
                when_full=config.outbox.when_full,
            )
        )
        commands = Commands(encode_jpeg)
        transports = {spec.id: make_transport(spec, commands) for spec in config.sinks}
        settings = {spec.id: delivery_settings(spec) for spec in config.sinks}
        emitter = stack.enter_context(EventEmitter(outbox, transports, settings))
        streams_down, parts_down, unfinished = left_open(OutboxReader(config.outbox.path))
        events = stack.enter_context(SystemEvents(emitter.emit, streams_down=streams_down, parts_down=parts_down))
        for event in unfinished:
            events.tell(event)
        events.watch(emitter.conditions)
        outbox.on_replaced(lambda r: events.tell(outbox_damaged(r.reason, str(r.aside or ""), r.rescued, r.at)))
        detectors = {
            spec.id: stack.enter_context(open_detector(spec))
            for spec in config.models
            if spec.id in used_models(config)
        }
        check_classes(config, detectors)
        audiences = stack.enter_context(AudienceWatch())
        snapshots = any("snapshot" in spec.allow_commands for spec in config.sinks)
        manager = stack.enter_context(StreamManager(worker_factory(detectors, events, audiences, ffmpeg, snapshots)))
        commands.open(manager)
        program = Running(config, manager, emitter, outbox, detectors, events, started)
        events.watch(program.models)
        events.watch(manager.publishers)
        app = make_app(program.report, config.api.token)
        listener = stack.enter_context(bind(config.api.host, config.api.port))
        manager.apply(config.streams)  # before the first question is answered
        events.keep(*watched(config))  # an earlier life may have left open what is in its file no more
        program.api_url = stack.enter_context(ApiServer(app, listener)).url
        yield program
