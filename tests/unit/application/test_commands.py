"""What a server may ask for."""

from __future__ import annotations

import base64
import time
from typing import Any

import numpy as np
import pytest

from sentinel_pipeline.application.commands import Commands
from sentinel_pipeline.domain.errors import CommandRefused
from sentinel_pipeline.domain.frame import Frame
from sentinel_pipeline.infrastructure.video.images import BgrImage
from sentinel_pipeline.infrastructure.video.jpeg import encode_jpeg


class Streams:
    """One stream with a picture, one without."""

    def __init__(self) -> None:
        pixels = np.zeros((1440, 2560, 3), np.uint8)
        pixels[:, :, 2] = 200  # red
        self.frames = {"gate": Frame(BgrImage(pixels), 0, 0.0, 1_732_406_400.0, time.monotonic() - 2), "dark": None}
        self.restarted: list[str] = []

    def restart(self, stream_id: str) -> None:
        self.restarted.append(self.frames and stream_id if stream_id in self.frames else self.frames[stream_id])

    def newest_frame(self, stream_id: str) -> Any:
        return self.frames[stream_id]


@pytest.fixture
def streams() -> Streams:
    return Streams()


def opened(streams: Streams) -> Commands:
    commands = Commands(encode_jpeg)
    commands.open(streams)
    return commands


def test_commands_snapshot_is_a_jpeg_of_the_newest_picture(streams: Streams) -> None:
    """The answer has a JPEG of at most 1280 pixels with the right colour, and says when the picture was taken."""
    import cv2

    answer = opened(streams).run("snapshot", "gate")
    picture = cv2.imdecode(np.frombuffer(base64.b64decode(answer.pop("data")), np.uint8), cv2.IMREAD_COLOR)
    assert picture is not None
    assert picture.shape == (720, 1280, 3)
    assert [round(float(v), -1) for v in picture.mean(axis=(0, 1))] == [0, 0, 200]
    assert answer.pop("age_s") == pytest.approx(2.0, abs=0.5)
    assert answer == {
        "stream": "gate",
        "captured_at": "2024-11-24T00:00:00.000Z",
        "frame_size": [2560, 1440],
        "content_type": "image/jpeg",
    }


def test_commands_restart_and_ping(streams: Streams) -> None:
    """A restart reaches the stream that was named, a ping needs none."""
    commands = opened(streams)
    assert commands.run("restart_stream", "gate") == {"stream": "gate"}
    assert streams.restarted == ["gate"]
    assert commands.run("ping", None)["ts"] == pytest.approx(time.time(), abs=1)


@pytest.mark.parametrize(
    ("command", "stream", "why"),
    [
        ("snapshot", "nobody", "no stream 'nobody'"),
        ("restart_stream", "nobody", "no stream 'nobody'"),
        ("snapshot", None, "needs a stream"),
        ("snapshot", "dark", "not delivered a picture yet"),
        ("format_disk", "gate", "no command"),
    ],
)
def test_commands_that_cannot_be_carried_out_say_why(streams: Streams, command: str, stream: Any, why: str) -> None:
    """Each refusal is one sentence."""
    with pytest.raises(CommandRefused, match=why):
        opened(streams).run(command, stream)


def test_commands_before_the_streams_are_there() -> None:
    """A command during the start is answered, not lost."""
    with pytest.raises(CommandRefused, match="starting"):
        Commands(encode_jpeg).run("snapshot", "gate")
