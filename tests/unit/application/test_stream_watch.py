"""What is noticed about a camera: lost, found, another size."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest

from sentinel_pipeline.application.event.stream_events import Posted, StreamEvents
from sentinel_pipeline.application.stream.health import StreamHealth
from sentinel_pipeline.application.stream.watch import StreamWatch
from sentinel_pipeline.domain.frame import Frame
from sentinel_pipeline.domain.streams import StreamState


class Picture:
    """A picture that has only a size."""

    def __init__(self, width: int, height: int) -> None:
        self.width, self.height = width, height

    def yuv420p(self) -> Any:
        raise AssertionError("nobody needs the pixels")

    def luma(self, *_: int) -> Any:
        raise AssertionError("nobody needs the pixels")

    def bgr(self) -> Any:
        return np.zeros((self.height, self.width, 3), np.uint8)

    def rgb(self, width: int, height: int) -> Any:
        return np.zeros((height, width, 3), np.uint8)


def frame(captured_at: float, size: tuple[int, int] = (64, 36), received_ago: float = 0.0) -> Frame:
    return Frame(Picture(*size), 0, 0.0, captured_at, time.monotonic() - received_ago)


def watched() -> tuple[StreamWatch, list[Posted]]:
    posted: list[Posted] = []
    return StreamWatch(StreamEvents("gate", lambda _: None, posted.append)), posted


def told(posted: list[Posted]) -> list[str]:
    return [post.event.type.removeprefix("SYSTEM_") for post in posted]


def test_watch_tells_loss_and_return_in_the_camera_s_own_time() -> None:
    """A camera whose clock is behind is lost at its own time, so that its events stay in order."""
    watch, posted = watched()
    behind = time.time() - 7.0
    watch.frame(frame(behind, received_ago=3.0))
    watch.lost("no frame for 3 s")
    watch.frame(frame(behind + 5.0))
    assert told(posted) == ["STREAM_DOWN", "STREAM_UP"]
    assert abs(posted[0].event.ts - (behind + 3.0)) < 0.2
    assert posted[1].event.ts == behind + 5.0


def test_watch_tells_of_a_camera_that_was_never_there() -> None:
    """The first failed try is a loss, at the time of this machine."""
    watch, posted = watched()
    watch.lost("cannot connect")
    watch.lost("cannot connect")
    assert told(posted) == ["STREAM_DOWN"]
    assert abs(posted[0].event.ts - time.time()) < 0.5


def test_watch_tells_of_another_size_also_across_a_reconnect() -> None:
    """Each change of the picture's size is told once, with the time of the picture that has it."""
    watch, posted = watched()
    watch.frame(frame(1.0))
    watch.frame(frame(2.0))
    watch.frame(frame(3.0, (128, 72)))
    watch.lost("gone")
    watch.frame(frame(9.0))
    assert told(posted) == ["RESOLUTION_CHANGED", "STREAM_DOWN", "STREAM_UP", "RESOLUTION_CHANGED"]
    assert (posted[0].event.details["from"], posted[0].event.details["to"]) == ([64, 36], [128, 72])
    assert posted[0].event.ts == 3.0


@pytest.mark.parametrize("keep", [True, False])
def test_watch_keeps_the_newest_picture_only_for_those_who_ask(keep: bool) -> None:
    """Where snapshots are allowed it is there, also while the camera is away; else it takes no memory."""
    watch = StreamWatch(keep_newest=keep)
    assert watch.newest is None
    first, second = frame(1.0), frame(2.0, (128, 72))
    watch.frame(first)
    watch.frame(second)
    watch.lost("gone")
    assert watch.newest is (second if keep else None)


def test_watch_hears_of_losses_from_the_stream_s_health() -> None:
    """A move to RECONNECTING or FAILED is a loss with its reason; connecting, running and stopping are not."""
    health, losses = StreamHealth("gate"), []
    health.on_loss = losses.append
    health.move(StreamState.CONNECTING)
    health.move(StreamState.RUNNING)
    health.move(StreamState.RECONNECTING, "no frame")
    health.move(StreamState.FAILED, "401")
    health.move(StreamState.STOPPED, "stopped")
    assert losses == ["no frame", "401"]
