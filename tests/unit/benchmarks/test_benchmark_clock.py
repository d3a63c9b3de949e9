"""The clock in the picture: what is written can be read, also after compression, and damage is noticed."""

from __future__ import annotations

import av
import numpy as np
import pytest
from benchmarks import clock


@pytest.mark.parametrize("now", [0.0, 1.234, 12345.678, 16777.215])
@pytest.mark.parametrize("size", [(1280, 720), (640, 360)])
def test_clock_survives_a_round_trip(now: float, size: tuple[int, int]) -> None:
    """Milliseconds come back exactly, in a picture that is dark or bright around the clock."""
    for level in (16, 235):
        luma = np.full((size[1], size[0]), level, np.uint8)
        clock.stamp(luma, now)
        assert clock.read(luma) == int(now * 1000)


def test_clock_survives_x264() -> None:
    """The blocks are large enough for a low bit rate."""
    encoder = av.CodecContext.create("libx264", "w")
    encoder.width, encoder.height, encoder.pix_fmt = 640, 360, "yuv420p"
    encoder.bit_rate, encoder.framerate = 300_000, 25
    encoder.options = {"preset": "ultrafast", "tune": "zerolatency"}
    decoder = av.CodecContext.create("h264", "r")
    read = []
    noise = np.random.default_rng(1)
    for number in range(20):
        frame = av.VideoFrame(640, 360, "yuv420p")
        for chroma in frame.planes[1:]:  # a new frame's memory is whatever was there before
            np.frombuffer(chroma, np.uint8)[:] = 128
        plane = frame.planes[0]
        luma = np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)[:360, :640]
        luma[:] = noise.integers(60, 190, luma.shape, np.uint8)
        clock.stamp(luma, number * 0.04)
        frame.pts = number
        for packet in encoder.encode(frame):
            for shown in decoder.decode(packet):
                got = shown.planes[0]
                read.append(clock.read(np.frombuffer(got, np.uint8).reshape(-1, got.line_size)[:360, :640]))
    assert read
    assert read == [number * 40 for number in range(len(read))]


def test_clock_that_is_half_hidden_cannot_be_read() -> None:
    """A label over some blocks makes the picture unreadable instead of wrong."""
    luma = np.zeros((360, 640), np.uint8)
    clock.stamp(luma, 77.777)
    luma[-20:, 100:300] = 200
    assert clock.read(luma) is None


def test_elapsed_time_goes_on_when_the_clock_wraps() -> None:
    """The clock has 24 bits of milliseconds; a picture stamped before the wrap is not minus four hours old."""
    period = (1 << 24) / 1000
    luma = np.zeros((360, 640), np.uint8)
    clock.stamp(luma, period - 0.010)
    taken = clock.read(luma)
    assert taken is not None
    assert clock.elapsed_ms(taken, period + 0.030) == pytest.approx(40, abs=1.1)
