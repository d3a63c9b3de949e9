"""The map: builds everything in order on one ExitStack, and takes it down in reverse.

outbox → emitter (one delivery per sink) → models → streams → API
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import structlog
from rich.console import Console

from sentinel_pipeline.application.commands import Commands
from sentinel_pipeline.application.event.delivery import DeliverySettings
from sentinel_pipeline.application.event.emitter import EventEmitter
from sentinel_pipeline.application.event.outages import Condition
from sentinel_pipeline.application.event.system_events import SystemEvents
from sentinel_pipeline.application.pipeline.pipeline import Pipeline
from sentinel_pipeline.application.ports import EventTransport, FrameSink, FrameSource
from sentinel_pipeline.application.stream.health import StreamHealth
from sentinel_pipeline.application.stream.manager import StreamManager
from sentinel_pipeline.application.stream.worker import StreamWorker
from sentinel_pipeline.domain.errors import ConfigError, OutboxError, SentinelError
from sentinel_pipeline.domain.events import Event
from sentinel_pipeline.domain.models import ModelSpec
from sentinel_pipeline.domain.redact import redact
from sentinel_pipeline.domain.settings import SinkSpec
from sentinel_pipeline.domain.streams import PublishSpec, StreamSpec
from sentinel_pipeline.domain.system_events import Outage, Part, open_outages, outbox_damaged
from sentinel_pipeline.domain.timeline import Timeline
from sentinel_pipeline.infrastructure.allocator import keep_little_memory
from sentinel_pipeline.infrastructure.inference.detector import ModelDetector, open_detector
from sentinel_pipeline.infrastructure.storage.outbox import SqliteOutbox
from sentinel_pipeline.infrastructure.storage.outbox_reader import OutboxReader
from sentinel_pipeline.infrastructure.storage.place import ensure_place
from sentinel_pipeline.infrastructure.transport.audience import AudienceWatch
from sentinel_pipeline.infrastructure.transport.http_sink import HttpSink
from sentinel_pipeline.infrastructure.transport.ws_sink import WebSocketSink
from sentinel_pipeline.infrastructure.video.encoded_sink import EncodedSink
from sentinel_pipeline.infrastructure.video.encoder import check_codec
from sentinel_pipeline.infrastructure.video.ffmpeg_binary import ffmpeg_version, find_ffmpeg
from sentinel_pipeline.infrastructure.video.jpeg import encode_jpeg
from sentinel_pipeline.infrastructure.video.sources import open_source
from sentinel_pipeline.interface.api.app import make_app
from sentinel_pipeline.interface.api.server import ApiServer, bind
from sentinel_pipeline.interface.config import Config, ConfigProblems, load_config
from sentinel_pipeline.interface.ending import Ending
from sentinel_pipeline.interface.live import LiveTable
from sentinel_pipeline.interface.logs import configure_logging
from sentinel_pipeline.interface.outlet import Outlet
from sentinel_pipeline.interface.report import ensure_writable, make_report, write_report

log = structlog.get_logger(__name__)

RECENT_EVENTS = 5000  # among which the last word on each stream and sink is looked for at the start


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

        The streams' states are those before the stop, and so are their counts: what was true while the program ran.
        """
        streams = self._manager.snapshot()
        self._manager.stop()
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
        streams_down, parts_down = left_open(config.outbox.path)
        events = stack.enter_context(SystemEvents(emitter.emit, streams_down=streams_down, parts_down=parts_down))
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


def worker_factory(
    detectors: Mapping[str, ModelDetector],
    events: SystemEvents,
    audiences: AudienceWatch,
    ffmpeg: str,
    snapshots: bool,
) -> Callable[[StreamSpec], StreamWorker]:
    """Return what makes the worker of a stream. ``snapshots``: somebody may ask for its newest picture."""

    def pipeline(spec: StreamSpec, health: StreamHealth) -> Pipeline:
        def sink(publish: PublishSpec) -> FrameSink:
            encoded = EncodedSink(publish, spec.id, ffmpeg)
            encoded.start()
            return encoded

        detector = detectors[spec.analyse.detect.model] if spec.analyse else None
        private = detectors[spec.privacy.model] if spec.privacy else None
        own = events.stream(spec.id)
        audience = audiences.follow(spec.publish.watch) if spec.publish and spec.publish.watch else None
        return Pipeline(spec, detector, sink, own.emit, health, own, audience, keep_newest=snapshots, private=private)

    def worker(spec: StreamSpec) -> StreamWorker:
        timeline = Timeline()  # stream time goes on across the connections of a stream

        def source(health: StreamHealth) -> FrameSource:
            return open_source(
                spec.decode,
                spec.source,
                timeline=timeline,
                idle=lambda: health.idle,
                on_packet=health.received.tick,
                ffmpeg=ffmpeg,
                prompt=spec.publish is not None,
            )

        return StreamWorker(spec, open_source=source, make_pipeline=pipeline)

    return worker


def left_open(outbox: Path) -> tuple[dict[str, Outage], dict[Part, Outage]]:
    """Return what was down when the program last ended, streams and other parts: so that their ends are told, once."""
    try:
        newest = [Event.from_wire(stored.body) for stored in OutboxReader(outbox).list(RECENT_EVENTS)]
    except (OutboxError, ValueError) as exc:
        log.warning("what was down before the start is not known", reason=redact(str(exc)))
        return {}, {}
    return open_outages(newest)


def watched(config: Config) -> tuple[frozenset[str], frozenset[Part]]:
    """Return the ids of the streams, and all parts, that can be down."""
    parts = {Part("sink", spec.id) for spec in config.sinks} | {Part("model", name) for name in used_models(config)}
    for stream in config.streams:
        urls = stream.publish.urls if stream.publish else ()
        parts |= {Part("publisher", redact(url), stream.id) for url in urls}
    return frozenset(stream.id for stream in config.streams), frozenset(parts)


def make_transport(spec: SinkSpec, commands: Commands) -> EventTransport:
    """Return the transport of a sink. Raises ``ConfigError`` when the library that it needs is not installed."""
    if spec.type == "mqtt":
        return make_mqtt_sink(spec)
    if spec.type == "http":
        return HttpSink(
            spec.url, headers=spec.headers, timeout=spec.timeout, format=spec.format, verify=spec.verify_tls
        )
    return WebSocketSink(
        spec.url,
        headers=spec.headers,
        verify=spec.verify_tls,
        open_timeout=spec.timeout,
        ack_timeout=spec.timeout,
        commands=commands.run,
        allow_commands=spec.allow_commands,
    )


def make_mqtt_sink(spec: SinkSpec) -> EventTransport:
    """Return an MQTT sink. Raises ``ConfigError`` when the extra ``brokers`` is not installed."""
    try:
        from sentinel_pipeline.infrastructure.transport.mqtt_sink import MqttSink
    except ImportError as exc:
        raise ConfigError(
            f"the sink {spec.id} needs a library that is not installed: {exc.name}",
            remedy="pip install 'sentinel-pipeline[brokers]'",
        ) from exc
    return MqttSink(spec.url, timeout=spec.timeout, verify=spec.verify_tls, discovery=spec.discovery)


def delivery_settings(spec: SinkSpec) -> DeliverySettings:
    """Return how a sink is served; the loop's own time limit must not cut off what the sink's ``timeout`` allows.

    One send connects, greets, sends and hears the answer, each with that timeout.
    """
    return DeliverySettings(spec.max_events, spec.max_wait, send_timeout=max(120.0, 4 * spec.timeout + 10.0))


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


def try_model(config: Config, spec: ModelSpec) -> None:
    """Load a model and see that it has the classes that the streams ask it for. Raises ``SentinelError``."""
    with open_detector(spec) as detector:
        check_classes(config, {spec.id: detector})


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
    for codec in sorted({stream.publish.codec for stream in config.streams if stream.publish}):
        attempt("publish.codec", lambda codec=codec: check_codec(codec))  # type: ignore[misc]
    for spec in config.models:
        attempt(f"models.{spec.id}", lambda spec=spec: try_model(config, spec))  # type: ignore[misc]
    commands = Commands(encode_jpeg)
    for sink in config.sinks:
        attempt(f"sinks.{sink.id}", lambda sink=sink: make_transport(sink, commands))  # type: ignore[misc]
    attempt("outbox.path", lambda: ensure_place(config.outbox.path))
    return faults


def run(config: Config, *, duration: float | None = None, report: Path | None = None) -> int:
    """Run ``config`` until SIGTERM, SIGINT or the end of ``duration`` seconds; return the exit code.

    At SIGHUP the configuration's file is read again.
    """
    keep_little_memory()  # before Ending, whose thread would have an arena of its own
    with Ending(reloads=True) as ending:
        return run_until(ending, config, duration=duration, report=report)


def run_until(
    ending: Ending,
    config: Config,
    *,
    duration: float | None = None,
    report: Path | None = None,
    notes: Sequence[str] = (),
) -> int:
    """Run ``config`` until ``ending`` is asked for or ``duration`` seconds are over; return the exit code."""
    configure_logging(config.runtime.log_format, config.runtime.log_level)
    if report is not None:
        ensure_writable(report)
    with running(config) as program:
        log.info("running", streams=len(config.streams), sinks=len(config.sinks), api=program.api_url)
        watch(program, ending, duration, notes)
        ending.begin()
        final = program.finish()
        if report is not None:
            write_report(report, final)
    log.info("stopped")
    return 0


def watch(program: Running, ending: Ending, duration: float | None, notes: Sequence[str]) -> None:
    """Wait for the end; meanwhile show the live table on a terminal, a JSON line every ten seconds otherwise."""
    until = time.monotonic() + duration if duration is not None else float("inf")

    def wait(seconds: float) -> bool:
        if ending.heard(max(0.0, min(seconds, until - time.monotonic()))):
            program.reload()
        return ending.asked.is_set() or time.monotonic() >= until

    if sys.stdout.isatty():
        try:
            with LiveTable(Console(), program.report, notes) as table:
                while not wait(0.5):
                    table.refresh()
                table.refresh()
        except OSError:
            log.warning("the terminal is gone; the program goes on")
        else:
            return
    import orjson

    outlet = Outlet(1, 1.0)
    while not wait(10.0):
        outlet.write(orjson.dumps(program.report()).decode())
