"""From frames to the published picture, at a constant rate whatever camera and model do."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace

import structlog

from sentinel_pipeline.application.pipeline.delay_line import DelayLine
from sentinel_pipeline.application.pipeline.mailbox import Mailbox
from sentinel_pipeline.application.pipeline.stage import Stage
from sentinel_pipeline.application.ports import Audience, FrameSink, OutputReport, SinkReport
from sentinel_pipeline.application.stream.health import StreamHealth
from sentinel_pipeline.domain.errors import SentinelError
from sentinel_pipeline.domain.frame import Frame
from sentinel_pipeline.domain.overlay import Overlay
from sentinel_pipeline.domain.pacing import Pacer, Thinning
from sentinel_pipeline.domain.redact import redact
from sentinel_pipeline.domain.streams import PublishSpec, StreamState

log = structlog.get_logger(__name__)


class Publishing(Stage):
    """Publishes one stream in a thread of its own.

    ``offer`` is called by the capture thread. The sink is opened at the first frame and closed by the same thread.

    audience: says without waiting whether somebody watches; counts with ``when: watched`` only.
    delay: seconds for which every picture is held back, so that ``overlay`` knows what to hide in it.
    """

    _REOPEN_AFTER = 5.0  # seconds after which a sink that could not take a picture is opened anew

    def __init__(
        self,
        stream_id: str,
        spec: PublishSpec,
        buffer_size: int,
        open_sink: Callable[[PublishSpec], FrameSink],
        overlay: Callable[[Frame], Overlay],
        health: StreamHealth,
        audience: Callable[[], Audience] | None = None,
        *,
        delay: float = 0.0,
    ) -> None:
        inbox = DelayLine(delay, buffer_size) if delay else Mailbox[Frame](buffer_size)
        super().__init__(f"publish:{stream_id}", inbox, health, "publish_busy")
        self._audience = audience if spec.when == "watched" else None
        self._id, self._spec, self._open_sink, self._overlay = stream_id, spec, open_sink, overlay
        # What the closed sinks have done, and the open one: replaced together, so that nothing is counted twice.
        self._progress: tuple[SinkReport, FrameSink | None] = (
            SinkReport("starting", "waiting for the first picture"),
            None,
        )
        health.sink_report = self.report

    def offer(self, frame: Frame) -> None:
        """Take a frame; never blocks."""
        self._inbox.put(frame)

    def report(self) -> SinkReport:
        """Return how publishing is doing, with the counts of all sinks so far; safe from any thread."""
        earlier, sink = self._progress
        report = _continued(earlier, sink.report()) if sink is not None else earlier
        return report if self._audience is None else replace(report, audience=self._audience())

    def _run(self) -> None:
        while not self._inbox.closed:
            reason = ""
            try:
                try:
                    self._publish()
                finally:
                    self._close_sink()
            except SentinelError as exc:
                reason = str(exc)
                log.warning("publishing failed", stream=self._id, problem=reason)
            except Exception as exc:  # outermost loop of a thread: publishing is opened anew
                reason = f"internal error: {redact(repr(exc))}"
                log.exception("internal error while publishing", stream=self._id)
            self._rest("retrying" if reason else "stopped", reason or "no signal")
            if reason:
                self._pause()
        self._rest("stopped", "")

    def _publish(self) -> None:
        """Write pictures until the end, or until the signal is gone and the operator wants publishing to stop then."""
        if self._spec.on_signal_loss == "hold":
            self._opened()  # ahead of the first picture: what the sink starts takes longer than encoding it
        pacer, pressure, thinning, last = Pacer(self._spec.fps), _Pressure(), Thinning(self._spec.fps), None
        while not self._inbox.closed:
            frame = self._inbox.get(0)
            waited_for_us = frame is not None
            frame = frame or self._inbox.get(pacer.wait(time.monotonic()))
            self._count_drops()
            now = time.monotonic()
            slots = pacer.due(now) if frame is None else pacer.arrive(now, frame.pts)
            slots = pressure.relieve(slots, ours=waited_for_us or frame is None)
            if frame is None:
                lost = self._signal_lost()
                if last is not None:
                    self._write(last, slots, thinning, lost=lost)
                if lost and self._spec.on_signal_loss == "stop":
                    return
                continue
            if last is not None:
                self._write(last, slots[:-1], thinning)
            last = frame  # first: the picture before it must not stay in memory while this one is encoded
            if not slots:
                self._health.drop("rate")
            elif self._write(frame, slots[-1:], thinning):
                self._health.latency_ms.add((time.monotonic() - frame.received_at) * 1000)
            else:
                self._health.drop("unwatched")

    def _write(self, frame: Frame, slots: Sequence[int], thinning: Thinning, *, lost: bool = False) -> bool:
        """Write the picture for those of the slots that are worth it; return whether any was."""
        written = False
        for slot in slots:
            if not thinning.wants(slot, watched=self._audience is None or self._audience().watched):
                continue
            written = True
            self._opened().write(frame, self._picture(frame, lost=lost), slot, alone=thinning.alone)
        return written

    def _opened(self) -> FrameSink:
        earlier, sink = self._progress
        if sink is None:
            sink = self._open_sink(self._spec)
            self._progress = (earlier, sink)
        return sink

    def _picture(self, frame: Frame, *, lost: bool) -> Overlay:
        scene = self._overlay(frame)
        return replace(scene, boxes=(), trails=(), notice="NO SIGNAL") if lost else scene

    def _signal_lost(self) -> bool:
        # The pictures that are still held back were taken before.
        return self._health.state is not StreamState.RUNNING and not len(self._inbox)

    def _close_sink(self) -> None:
        earlier, sink = self._progress
        if sink is not None:
            try:
                sink.close()
            finally:
                self._progress = (_continued(earlier, sink.report()), None)

    def _rest(self, state: str, reason: str) -> None:
        earlier, sink = self._progress
        self._progress = (replace(earlier, state=state, reason=reason), sink)

    def _pause(self) -> None:
        """Wait a while before the sink is opened anew, letting the frames meanwhile go."""
        until = time.monotonic() + self._REOPEN_AFTER
        while not self._inbox.closed and (left := until - time.monotonic()) > 0:
            if self._inbox.get(left) is not None:
                self._health.drop("publish_failed")
        self._count_drops()


class _Pressure:
    """Leaves slots empty while drawing and encoding cannot keep up: repeats would take the time that new pictures need.

    A single hiccup is filled up, as a late camera is. Filling up when every picture takes too long would take longer
    each time, until a second of repeats stood between any two pictures.
    """

    def __init__(self) -> None:
        self._behind = False

    def relieve(self, slots: range, *, ours: bool) -> range:
        """Return the slots to write out of those due; ``ours``: no camera was waited for, the delay is our own."""
        overdue = ours and len(slots) > 1
        relieved = slots[-1:] if overdue and self._behind else slots
        self._behind = overdue or (ours and self._behind)
        return relieved


def _continued(earlier: SinkReport, now: SinkReport) -> SinkReport:
    """Return ``now`` with its counts on top of those of the sinks before it."""
    return replace(
        now,
        reason=now.reason or (earlier.reason if now.state == earlier.state else ""),
        published=earlier.published + now.published,
        restarts=earlier.restarts + now.restarts,
        dropped=earlier.dropped + now.dropped,
        outputs=tuple(_output_continued(earlier.outputs, output) for output in now.outputs),
    )


def _output_continued(earlier: Sequence[OutputReport], now: OutputReport) -> OutputReport:
    before = next((output for output in earlier if output.url == now.url), None)
    if before is None:
        return now
    return replace(
        now,
        published=before.published + now.published,
        restarts=before.restarts + now.restarts,
        dropped=before.dropped + now.dropped,
    )
