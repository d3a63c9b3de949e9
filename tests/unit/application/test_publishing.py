"""The publishing thread of a stream: its rate, its counts and its states, over sinks that only remember."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from threading import Condition, Event
from typing import Any

import numpy as np

from sentinel_pipeline.application.pipeline.publishing import Publishing
from sentinel_pipeline.application.ports import SinkReport
from sentinel_pipeline.application.stream.health import StreamHealth
from sentinel_pipeline.domain.errors import PublishError
from sentinel_pipeline.domain.frame import Frame
from sentinel_pipeline.domain.overlay import Overlay
from sentinel_pipeline.domain.streams import PublishSpec, StreamState
from sentinel_pipeline.infrastructure.video.images import BgrImage

IMAGE = BgrImage(np.zeros((4, 4, 3), np.uint8))


class Gallery:
    """Opens sinks, remembers what each was given, and lets a test wait for it. ``fail``: the next write raises."""

    def __init__(self) -> None:
        self.changed = Condition()
        self.sinks: list[Remembering] = []
        self.fail: Exception | None = None
        self.make = Remembering

    def open(self, _: PublishSpec) -> Remembering:
        with self.changed:
            self.sinks.append(self.make(self))
            return self.sinks[-1]

    def until(self, condition: Callable[[], Any], what: str) -> None:
        with self.changed:
            assert self.changed.wait_for(condition, 5), what


class Remembering:
    """A sink that keeps (sequence, notice, slot) of each picture."""

    def __init__(self, gallery: Gallery) -> None:
        self._gallery = gallery
        self.written: list[tuple[int, str, int]] = []
        self.closed = False

    def write(self, frame: Frame, overlay: Overlay, slot: int, **_: Any) -> None:
        with self._gallery.changed:
            failure, self._gallery.fail = self._gallery.fail, None
            if failure is not None:
                raise failure
            self.written.append((frame.sequence, overlay.notice, slot))
            self._gallery.changed.notify_all()

    def report(self) -> SinkReport:
        return SinkReport("stopped" if self.closed else "running", published=len(self.written), dropped=1)

    def close(self) -> None:
        with self._gallery.changed:
            self.closed = True
            self._gallery.changed.notify_all()


def frame(sequence: int) -> Frame:
    return Frame(IMAGE, sequence, sequence / 10, 0.0, time.monotonic())


@contextmanager
def publishing(gallery: Gallery, health: StreamHealth, *, delay: float = 0.0, **spec: Any) -> Iterator[Publishing]:
    made = PublishSpec("rtsp://h/x", fps=50, **spec)
    stage = Publishing("x", made, 2, gallery.open, lambda _: Overlay(notice="live"), health, delay=delay)
    stage._REOPEN_AFTER = 0.1
    stage.start()
    try:
        yield stage
    finally:
        stage.close()
        assert stage.join(5)


def running_health() -> StreamHealth:
    health = StreamHealth("x")
    health.move(StreamState.CONNECTING)
    health.move(StreamState.RUNNING)
    return health


def test_publishing_marks_the_last_picture_while_the_camera_is_away() -> None:
    """With ``hold`` the last picture goes on at the output's rate under a notice, and the notice goes with the loss."""
    gallery, health = Gallery(), running_health()
    with publishing(gallery, health) as stage:
        stage.offer(frame(1))
        gallery.until(lambda: gallery.sinks and (1, "live", 0) in gallery.sinks[0].written, "the picture")
        health.move(StreamState.RECONNECTING, "gone")
        written = gallery.sinks[0].written
        gallery.until(lambda: written[-1][1] == "NO SIGNAL", "the notice")
        health.move(StreamState.RUNNING)
        stage.offer(frame(2))
        gallery.until(lambda: written[-1][:2] == (2, "live"), "the next picture")
        slots = [slot for _, _, slot in written]
        assert slots == list(range(slots[-1] + 1))


def test_publishing_stops_with_the_signal_and_counts_on_after_it() -> None:
    """With ``stop`` the sink is closed with the loss and a new one opened at the next picture; no count starts over."""
    gallery, health = Gallery(), running_health()
    with publishing(gallery, health, on_signal_loss="stop") as stage:
        stage.offer(frame(1))
        gallery.until(lambda: gallery.sinks and gallery.sinks[0].written, "the picture")
        health.move(StreamState.RECONNECTING, "gone")
        gallery.until(lambda: gallery.sinks[0].closed, "the end of the first sink")
        before = len(gallery.sinks[0].written)
        health.move(StreamState.RUNNING)
        stage.offer(frame(2))
        gallery.until(lambda: len(gallery.sinks) == 2 and gallery.sinks[1].written, "the second sink")
        assert gallery.sinks[1].written[0][0] == 2  # the very first picture is shown
        report = stage.report()
        assert report.state == "running"
        assert report.published > before
        assert report.dropped == 2
    final = stage.report()
    assert (final.state, final.published) == ("stopped", sum(len(sink.written) for sink in gallery.sinks))


def test_publishing_of_held_pictures_ends_once_and_marks_none_of_them() -> None:
    """Pictures that were taken before the loss, and are held back to be looked at, go out unmarked; then it ends."""
    gallery, health = Gallery(), running_health()
    with publishing(gallery, health, on_signal_loss="stop", delay=0.3) as stage:
        for i in range(3):
            stage.offer(replace(frame(i), received_at=time.monotonic() + 0.2 * i))  # due 0.2 s apart
        health.move(StreamState.RECONNECTING, "gone")
        gallery.until(lambda: gallery.sinks and gallery.sinks[0].closed, "the end of the sink")
        written = gallery.sinks[0].written
        assert {sequence for sequence, _, _ in written} == {0, 1, 2}
        assert {notice for sequence, notice, _ in written if sequence < 2} == {"live"}
        assert len(gallery.sinks) == 1


def test_publishing_forgets_a_failure_once_it_works_again() -> None:
    """A failing sink is opened anew after a pause, its reason shown only meanwhile, and lost pictures are counted."""
    gallery, health = Gallery(), running_health()
    gallery.fail = PublishError("the encoder is gone")
    with publishing(gallery, health, on_signal_loss="stop") as stage:
        stage._REOPEN_AFTER = 0.5
        stage.offer(frame(1))
        gallery.until(lambda: gallery.sinks and gallery.sinks[0].closed, "the failed sink closed")
        retrying = wait_for(stage.report, lambda report: report.state == "retrying")
        assert retrying.reason == "the encoder is gone"
        stage.offer(frame(2))
        wait_for(health.snapshot, lambda report: report["dropped_by"].get("publish_failed") == 1)
        wait_for(lambda: (stage.offer(frame(3)), len(gallery.sinks))[1], lambda count: count == 2)
        wait_for(stage.report, lambda report: (report.state, report.reason) == ("running", ""))
        health.move(StreamState.RECONNECTING, "gone")
        gallery.until(lambda: gallery.sinks[1].closed, "the end of the second sink")
        wait_for(stage.report, lambda report: (report.state, report.reason) == ("stopped", "no signal"))


def test_publishing_shows_new_pictures_when_it_cannot_keep_up() -> None:
    """Drawing and encoding that take a little too long cost that little, not nearly all pictures and a second."""
    gallery, health, takes = Gallery(), running_health(), 1.3 / 50

    class Slow(Remembering):
        def write(self, frame: Frame, overlay: Overlay, slot: int, **_: Any) -> None:
            Event().wait(takes)
            super().write(frame, overlay, slot)

    gallery.make = Slow
    with publishing(gallery, health) as stage:
        for sequence in range(60):
            stage.offer(frame(sequence))
            Event().wait(1 / 50)
        written = gallery.sinks[0].written
    shown = len({sequence for sequence, _, _ in written})
    assert shown > 0.8 * len(written)
    assert health.latency_ms.snapshot()["p95"] < 400


def wait_for(look: Callable[[], Any], condition: Callable[[Any], bool]) -> Any:
    """Return the first of ``look()`` that ``condition`` likes, looking every 10 ms for at most 5 s."""
    deadline = time.monotonic() + 5
    while not condition(found := look()):
        assert time.monotonic() < deadline, f"still {found}"
        Event().wait(0.01)
    return found
