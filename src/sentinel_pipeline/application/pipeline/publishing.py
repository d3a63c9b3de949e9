"""From frames to the published picture, at a constant rate whatever camera and model do."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from threading import Thread

import structlog

from sentinel_pipeline.application.pipeline.mailbox import Mailbox
from sentinel_pipeline.application.ports import FrameSink, SinkReport
from sentinel_pipeline.application.stream.health import StreamHealth
from sentinel_pipeline.domain.errors import SentinelError
from sentinel_pipeline.domain.frame import Frame
from sentinel_pipeline.domain.overlay import Overlay
from sentinel_pipeline.domain.pacing import Pacer
from sentinel_pipeline.domain.redact import redact
from sentinel_pipeline.domain.streams import PublishSpec, StreamState

log = structlog.get_logger(__name__)


class Publishing:
    """Publishes one stream in a thread of its own.

    ``offer`` is called by the capture thread. The sink is opened at the first frame and closed by the same thread.
    """

    _REOPEN_AFTER = 5.0  # seconds after which a sink that could not take a picture is opened anew

    def __init__(
        self,
        stream_id: str,
        spec: PublishSpec,
        buffer_size: int,
        open_sink: Callable[[PublishSpec], FrameSink],
        overlay: Callable[[float], Overlay],
        health: StreamHealth,
    ) -> None:
        self._id, self._spec, self._open_sink, self._overlay, self._health = stream_id, spec, open_sink, overlay, health
        self._inbox: Mailbox[Frame] = Mailbox(buffer_size)
        self._sink: FrameSink | None = None
        self._final: SinkReport = SinkReport("starting")
        self._thread = Thread(target=self._run, name=f"publish:{stream_id}")
        health.sink_report = self.report

    def start(self) -> None:
        """Begin publishing."""
        self._thread.start()

    def offer(self, frame: Frame) -> None:
        """Take a frame; never blocks."""
        self._inbox.put(frame)

    def close(self) -> None:
        """Tell the thread to end; ``join`` waits for it."""
        self._inbox.close()

    def join(self, timeout: float) -> bool:
        """Return whether the thread has ended within ``timeout`` seconds."""
        if self._thread.ident is not None:
            self._thread.join(timeout)
        return not self._thread.is_alive()

    def report(self) -> SinkReport:
        """Return how publishing is doing; safe from any thread."""
        sink = self._sink
        return sink.report() if sink is not None else self._final

    def _run(self) -> None:
        while not self._inbox.closed:
            try:
                self._publish()
            except SentinelError as exc:
                self._final = replace(self._final, state="retrying", reason=str(exc))
                log.warning("publishing failed", stream=self._id, problem=str(exc))
            except Exception as exc:  # outermost loop of a thread: publishing is opened anew
                self._final = replace(self._final, state="retrying", reason=f"internal error: {redact(repr(exc))}")
                log.exception("internal error while publishing", stream=self._id)
            finally:
                self._close_sink()
            self._pause()
        self._final = replace(self._final, state="stopped")

    def _publish(self) -> None:
        """Write pictures until the end, or until the signal is gone and the operator wants publishing to stop then."""
        pacer, last = Pacer(self._spec.fps), None
        dropped = self._inbox.dropped
        while not self._inbox.closed:
            frame = self._inbox.get(pacer.wait(time.monotonic()))
            if self._inbox.dropped != dropped:
                self._health.drop("publish_busy", self._inbox.dropped - dropped)
                dropped = self._inbox.dropped
            if frame is None:
                if last is not None:
                    self._write(last, pacer.due(time.monotonic()))
                if self._signal_lost() and self._spec.on_signal_loss == "stop":
                    return
                continue
            slots = pacer.arrive(time.monotonic())
            if not slots:
                self._health.drop("rate")
            elif last is not None:
                self._write(last, slots[:-1])
            self._write(frame, slots[-1:])
            if slots:
                self._health.latency_ms.add((time.monotonic() - frame.received_at) * 1000)
            last = frame

    def _write(self, frame: Frame, slots: range) -> None:
        for slot in slots:
            if self._sink is None:
                self._sink = self._open_sink(self._spec)
            self._sink.write(frame, self._picture(frame), slot)

    def _picture(self, frame: Frame) -> Overlay:
        scene = self._overlay(frame.pts) if self._spec.overlay else Overlay()
        return replace(scene, boxes=(), notice="NO SIGNAL") if self._signal_lost() else scene

    def _signal_lost(self) -> bool:
        return self._health.state is not StreamState.RUNNING

    def _close_sink(self) -> None:
        if self._sink is not None:
            before = self._final
            self._sink.close()
            report = self._sink.report()
            self._sink = None
            self._final = replace(report, state=before.state if before.reason else "stopped", reason=before.reason)

    def _pause(self) -> None:
        """Wait a while before the sink is opened anew, letting the frames meanwhile go."""
        until = time.monotonic() + self._REOPEN_AFTER
        while not self._inbox.closed and (left := until - time.monotonic()) > 0:
            if self._inbox.get(left) is not None and self._final.state == "stopped":
                return  # the signal is back
