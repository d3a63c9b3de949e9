"""Publishing only while somebody watches, and what a report of several outputs says."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Condition
from typing import Any

import numpy as np
import pytest

from sentinel_pipeline.application.pipeline.publishing import Publishing
from sentinel_pipeline.application.ports import Audience, OutputReport, SinkReport
from sentinel_pipeline.application.stream.health import StreamHealth
from sentinel_pipeline.domain.frame import Frame
from sentinel_pipeline.domain.overlay import Overlay
from sentinel_pipeline.domain.streams import PublishSpec, StreamState
from sentinel_pipeline.infrastructure.video.images import BgrImage

IMAGE = BgrImage(np.zeros((4, 4, 3), np.uint8))
FPS = 50


class Theatre:
    """A sink that keeps (slot, alone) of each picture, an audience that the test seats, and the stage itself."""

    def __init__(self) -> None:
        self.changed = Condition()
        self.written: list[tuple[int, bool]] = []
        self.audience = Audience(watched=False)
        self.health = StreamHealth("x")
        self.health.move(StreamState.CONNECTING)
        self.health.move(StreamState.RUNNING)

    def write(self, _frame: Frame, _overlay: Overlay, slot: int, *, alone: bool = False) -> None:
        with self.changed:
            self.written.append((slot, alone))
            self.changed.notify_all()

    def report(self) -> SinkReport:
        output = OutputReport("rtsp://h/x", "running", published=len(self.written), restarts=1, dropped=2)
        return SinkReport("running", published=len(self.written), restarts=1, dropped=2, outputs=(output,))

    def close(self) -> None:
        pass

    def until(self, count: int) -> list[tuple[int, bool]]:
        with self.changed:
            assert self.changed.wait_for(lambda: len(self.written) >= count, 6)
            return list(self.written)


@contextmanager
def publishing(theatre: Theatre, **spec: Any) -> Iterator[Publishing]:
    """Run a stage that has got its first picture, and repeats it from then on."""
    made = PublishSpec("rtsp://h/x", fps=FPS, **spec)
    stage = Publishing("x", made, 2, lambda _: theatre, lambda _: Overlay(), theatre.health, lambda: theatre.audience)
    stage.start()
    try:
        stage.offer(Frame(IMAGE, 0, 0.0, 0.0, time.monotonic()))
        yield stage
    finally:
        stage.close()
        assert stage.join(5)


def test_publishing_sends_a_key_frame_now_and_then_while_nobody_watches() -> None:
    """Two seconds lie between two pictures, each decodable alone; the audience is in the report."""
    theatre = Theatre()
    with publishing(theatre, when="watched", watch=("http://h/",)) as stage:
        (first, alone), (second, also_alone) = theatre.until(2)
        assert (alone, also_alone) == (True, True)
        assert second - first == 2 * FPS
        assert stage.report().audience == Audience(watched=False)
    assert len(theatre.written) < 4


def test_publishing_goes_to_the_full_rate_with_the_first_watcher() -> None:
    """The first picture after somebody has come is decodable alone, the next ones follow slot by slot."""
    theatre = Theatre()
    with publishing(theatre, when="watched", watch=("http://h/",)):
        theatre.until(1)
        theatre.audience = Audience(watched=True)
        asked = time.monotonic()
        written = theatre.until(12)[1:]
        assert time.monotonic() - asked < 1.0
    assert written[0][1]
    assert [alone for _, alone in written[1:11]] == [False] * 10
    slots = [slot for slot, _ in written]
    assert slots == list(range(slots[0], slots[0] + len(slots)))


@pytest.mark.parametrize("when", ["always", "watched"])
def test_publishing_always_publishes_when_it_cannot_know(when: str) -> None:
    """Without ``watched`` nobody is asked; with it, a server that does not answer counts as watched, and it is said."""
    theatre = Theatre()
    theatre.audience = Audience(watched=when == "watched", reason="h:9997 cannot be asked")
    with publishing(theatre, when=when, watch=("http://h/",)) as stage:
        theatre.until(20)
        report = theatre.health.snapshot()["publish"]
    told = {"watched": True, "reason": "h:9997 cannot be asked"} if when == "watched" else None
    assert report["audience"] == told
    assert stage.report().published >= 20


def test_publishing_counts_the_pictures_that_nobody_saw() -> None:
    """A camera's picture that is not published for want of an audience is a drop with a cause of its own."""
    theatre = Theatre()
    with publishing(theatre, when="watched", watch=("http://h/",)) as stage:
        theatre.until(1)
        for number in range(1, 11):
            stage.offer(Frame(IMAGE, number, number / 10, 0.0, time.monotonic()))
            theatre.until(1)
            with theatre.changed:
                theatre.changed.wait_for(lambda: False, 0.05)
        dropped = theatre.health.snapshot()["dropped_by"]
    assert dropped.get("unwatched", 0) >= 5
    assert sum(dropped.values()) >= 9


def test_publishing_reports_every_output_and_counts_on_when_reopened() -> None:
    """The report names each URL with its own counts; they go on when the sink is closed and opened again."""
    theatre = Theatre()
    with publishing(theatre, on_signal_loss="stop") as stage:
        theatre.until(3)
        theatre.health.move(StreamState.RECONNECTING, "gone")
        with theatre.changed:
            assert theatre.changed.wait_for(lambda: False, 0.2) is False
        before = len(theatre.written)
        theatre.health.move(StreamState.RUNNING)
        stage.offer(Frame(IMAGE, 1, 1.0, 0.0, time.monotonic()))
        theatre.until(before + 1)
        (output,) = theatre.health.snapshot()["publish"]["outputs"]
    assert output["url"] == "rtsp://h/x"
    assert output["state"] == "running"
    assert (output["restarts"], output["dropped"]) == (2, 4)
    assert output["published"] > before
