"""The map: builds everything in order on one ExitStack, and takes it down in reverse.

outbox → emitter (one delivery per sink) → models → streams → API
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from threading import Event as Flag
from types import FrameType
from typing import Any

import structlog
from rich.console import Console

from sentinel_pipeline.application.event.delivery import DeliverySettings
from sentinel_pipeline.application.event.emitter import EventEmitter
from sentinel_pipeline.application.pipeline.pipeline import Pipeline
from sentinel_pipeline.application.ports import EventTransport, FrameSink, FrameSource
from sentinel_pipeline.application.stream.health import StreamHealth
from sentinel_pipeline.application.stream.manager import StreamManager
from sentinel_pipeline.application.stream.worker import StreamWorker
from sentinel_pipeline.domain.errors import SentinelError
from sentinel_pipeline.domain.settings import SinkSpec
from sentinel_pipeline.domain.streams import PublishSpec, StreamSpec
from sentinel_pipeline.domain.timeline import Timeline
from sentinel_pipeline.infrastructure.inference.detector import ModelDetector, open_detector
from sentinel_pipeline.infrastructure.storage.outbox import SqliteOutbox
from sentinel_pipeline.infrastructure.storage.place import ensure_place
from sentinel_pipeline.infrastructure.transport.http_sink import HttpSink
from sentinel_pipeline.infrastructure.transport.ws_sink import WebSocketSink
from sentinel_pipeline.infrastructure.video.encoded_sink import EncodedSink
from sentinel_pipeline.infrastructure.video.encoder import check_codec
from sentinel_pipeline.infrastructure.video.ffmpeg_binary import ffmpeg_version, find_ffmpeg
from sentinel_pipeline.infrastructure.video.sources import open_source
from sentinel_pipeline.interface.api.app import make_app
from sentinel_pipeline.interface.api.server import ApiServer
from sentinel_pipeline.interface.config import Config
from sentinel_pipeline.interface.live import LiveTable
from sentinel_pipeline.interface.logs import configure_logging
from sentinel_pipeline.interface.report import ensure_writable, make_report, write_report

log = structlog.get_logger(__name__)

EXIT_WITHIN = 4.5  # seconds from the signal to the end, always; the promise is 5


class Running:
    """A running program: what the API, the live table and the report read."""

    DRAIN = 1.0  # seconds that the sinks get at the end to take what is pending; the rest stays in the outbox

    def __init__(
        self,
        manager: StreamManager,
        emitter: EventEmitter,
        detectors: Mapping[str, ModelDetector],
        started: float,
    ) -> None:
        self._manager, self._emitter, self._detectors, self._started = manager, emitter, detectors, started
        self.api_url = ""

    def report(self) -> dict[str, Any]:
        """Return the report of design section 7."""
        return self._report(self._manager.snapshot())

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
            models={name: detector.snapshot() for name, detector in self._detectors.items()},
            started=self._started,
        )


@contextmanager
def running(config: Config) -> Iterator[Running]:
    """Build and start everything that ``config`` asks for; leaving takes it down. Raises ``SentinelError``."""
    started = time.monotonic()
    ffmpeg = find_ffmpeg(config.runtime.ffmpeg) if any(s.publish for s in config.streams) else ""
    with ExitStack() as stack:
        outbox = stack.enter_context(
            SqliteOutbox(
                config.outbox.path,
                max_size=config.outbox.max_size,
                max_age=config.outbox.max_age,
                when_full=config.outbox.when_full,
            )
        )
        transports = {spec.id: make_transport(spec) for spec in config.sinks}
        settings = {spec.id: DeliverySettings(spec.max_events, spec.max_wait) for spec in config.sinks}
        emitter = stack.enter_context(EventEmitter(outbox, transports, settings))
        detectors = {
            spec.id: stack.enter_context(open_detector(spec))
            for spec in config.models
            if spec.id in used_models(config)
        }
        manager = stack.enter_context(StreamManager(worker_factory(detectors, emitter, ffmpeg)))
        program = Running(manager, emitter, detectors, started)
        app = make_app(program.report, config.api.token)
        program.api_url = stack.enter_context(ApiServer(app, config.api.host, config.api.port)).url
        manager.apply(config.streams)
        yield program


def worker_factory(
    detectors: Mapping[str, ModelDetector], emitter: EventEmitter, ffmpeg: str
) -> Callable[[StreamSpec], StreamWorker]:
    """Return what makes the worker of a stream."""

    def pipeline(spec: StreamSpec, health: StreamHealth) -> Pipeline:
        def sink(publish: PublishSpec) -> FrameSink:
            return EncodedSink(publish, spec.id, ffmpeg)

        detector = detectors[spec.analyse.detect.model] if spec.analyse else None
        return Pipeline(spec, detector, sink, emitter.emit, health)

    def worker(spec: StreamSpec) -> StreamWorker:
        timeline = Timeline()  # stream time goes on across the connections of a stream

        def source() -> FrameSource:
            return open_source(spec.decode, spec.source, timeline=timeline)

        return StreamWorker(spec, open_source=source, make_pipeline=pipeline)

    return worker


def make_transport(spec: SinkSpec) -> EventTransport:
    """Return the transport of a sink."""
    if spec.type == "http":
        return HttpSink(
            spec.url, headers=spec.headers, timeout=spec.timeout, format=spec.format, verify=spec.verify_tls
        )
    return WebSocketSink(
        spec.url, headers=spec.headers, verify=spec.verify_tls, open_timeout=spec.timeout, ack_timeout=spec.timeout
    )


def used_models(config: Config) -> frozenset[str]:
    """Return the ids of the models that a stream asks for: the others are not loaded."""
    return frozenset(stream.analyse.detect.model for stream in config.streams if stream.analyse)


def preflight(config: Config) -> Sequence[tuple[str, SentinelError]]:
    """Try what ``config`` needs of this machine: FFmpeg, the models, the outbox. Return each (where, error)."""
    configure_logging("auto", "error")
    faults: list[tuple[str, SentinelError]] = []

    def attempt(where: str, action: Callable[[], object]) -> None:
        try:
            action()
        except SentinelError as exc:
            faults.append((where, exc))

    if any(stream.publish for stream in config.streams):
        attempt("runtime.ffmpeg", lambda: ffmpeg_version(find_ffmpeg(config.runtime.ffmpeg)))
    for codec in sorted({stream.publish.codec for stream in config.streams if stream.publish}):
        attempt("publish.codec", lambda codec=codec: check_codec(codec))  # type: ignore[misc]
    for spec in config.models:
        attempt(f"models.{spec.id}", lambda spec=spec: open_detector(spec).close())  # type: ignore[misc]
    attempt("outbox.path", lambda: ensure_place(config.outbox.path))
    return faults


def run(config: Config, *, duration: float | None = None, report: Path | None = None, notes: Sequence[str] = ()) -> int:
    """Run ``config`` until SIGTERM, SIGINT or the end of ``duration`` seconds; return the exit code."""
    configure_logging(config.runtime.log_format, config.runtime.log_level)
    if report is not None:
        ensure_writable(report)
    stop = Flag()
    with ending_in_time(stop), running(config) as program:
        log.info("running", streams=len(config.streams), sinks=len(config.sinks), api=program.api_url)
        watch(program, stop, duration, notes)
        arm_exit()
        final = program.finish()
        if report is not None:
            write_report(report, final)
    log.info("stopped")
    return 0


def watch(program: Running, stop: Flag, duration: float | None, notes: Sequence[str]) -> None:
    """Wait for the end; meanwhile show the live table on a terminal, a JSON line every ten seconds otherwise."""
    until = time.monotonic() + duration if duration is not None else float("inf")

    def wait(seconds: float) -> bool:
        stop.wait(max(0.0, min(seconds, until - time.monotonic())))
        return stop.is_set() or time.monotonic() >= until

    if sys.stdout.isatty():
        with LiveTable(Console(), program.report, notes) as table:
            while not wait(0.5):
                table.refresh()
            table.refresh()
    else:
        import orjson

        while not wait(10.0):
            sys.stdout.buffer.write(orjson.dumps(program.report(), option=orjson.OPT_APPEND_NEWLINE))
            sys.stdout.flush()


@contextmanager
def ending_in_time(stop: Flag) -> Iterator[None]:
    """Set ``stop`` at SIGTERM or SIGINT, and end the process ``EXIT_WITHIN`` seconds later whatever still hangs.

    A library call that never returns (a model, a driver) cannot be interrupted from Python; its thread would keep the
    process alive for ever. By then the outbox has every accepted event on disk, and FFmpeg children end at the end of
    their input.
    """

    def on_signal(number: int, _: FrameType | None) -> None:
        if not stop.is_set():
            stop.set()
            arm_exit()
        elif number == signal.SIGINT:
            os._exit(130)  # the second Ctrl-C: somebody is in a hurry

    def on_alarm(_: int, __: FrameType | None) -> None:
        sys.stderr.write("sentinel: something still hangs and is left behind\n")
        sys.stderr.flush()
        os._exit(0)

    handlers = {signal.SIGTERM: on_signal, signal.SIGINT: on_signal, signal.SIGALRM: on_alarm}
    previous = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield
    finally:
        if len(threading.enumerate()) == 1:
            signal.setitimer(signal.ITIMER_REAL, 0)
            for number, handler in previous.items():
                signal.signal(number, handler)
        # Otherwise the alarm stays armed: the interpreter still has to wait for what hangs.


def arm_exit() -> None:
    """Start the countdown to the forced end, once."""
    if signal.getitimer(signal.ITIMER_REAL)[0] == 0:
        signal.setitimer(signal.ITIMER_REAL, EXIT_WITHIN)
