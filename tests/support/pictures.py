"""Pictures for tests of publishing, and a driver that writes them at a rate until something has happened."""

from __future__ import annotations

import subprocess
import tempfile
import threading
import time
from collections.abc import Callable

import numpy as np

from sentinel_pipeline.domain.frame import Frame, Pixels
from sentinel_pipeline.infrastructure.video.canvas import Canvas
from sentinel_pipeline.infrastructure.video.encoder import H264Encoder
from sentinel_pipeline.infrastructure.video.luma import shrink
from sentinel_pipeline.infrastructure.video.nut_muxer import NutMuxer


class PlanarImage:
    """A picture in one shade of grey with a bright square in the middle; read-only planes, as a decoder's are."""

    def __init__(self, width: int, height: int, shade: int = 90) -> None:
        self.width, self.height = width, height
        half = (-(-height // 2), -(-width // 2))
        y = np.full((height, width), shade, np.uint8)
        y[height // 2 - 8 : height // 2 + 8, width // 2 - 8 : width // 2 + 8] = 200
        self._planes = (y, np.full(half, 128, np.uint8), np.full(half, 128, np.uint8))
        for plane in self._planes:
            plane.flags.writeable = False

    def yuv420p(self) -> tuple[Pixels, Pixels, Pixels]:
        return self._planes

    def luma(self, width: int) -> Pixels:
        return shrink(self._planes[0], width)

    def bgr(self) -> Pixels:
        raise NotImplementedError

    def rgb(self, width: int, height: int) -> Pixels:
        raise NotImplementedError


def frame(width: int = 640, height: int = 360, shade: int = 90, sequence: int = 0) -> Frame:
    return Frame(PlanarImage(width, height, shade), sequence, sequence / 25, 1.0, 0.0)


def encoded_pieces(count: int) -> list[bytes]:
    """Return what a child gets for ``count`` pictures, one piece each, and the end of the stream."""
    encoder, canvas = H264Encoder(320, 180, 25), Canvas(320, 180)
    muxer = NutMuxer(encoder.format)
    pieces = []
    for slot in range(count):
        for packet in encoder.encode(canvas.take(PlanarImage(320, 180, 60 + slot % 100))[0], slot):
            pieces.append(muxer.mux(packet))
    return [*pieces, muxer.close()]


def until(condition: Callable[[], object], timeout_s: float, what: str) -> None:
    """Poll ``condition``, for what gives no signal. Raises ``AssertionError`` when it stays false for ``timeout_s``."""
    deadline = time.monotonic() + timeout_s
    pause = threading.Event()
    while not condition():
        assert time.monotonic() < deadline, f"waited {timeout_s:g} s in vain for {what}"
        pause.wait(0.02)


def drive(
    write: Callable[[int], object], done: Callable[[], bool], *, timeout_s: float = 20.0, fps: float = 25.0
) -> float:
    """Call ``write(0)``, ``write(1)`` … at ``fps`` until ``done()``; return the longest time that a call took.

    Raises ``AssertionError`` when ``done`` does not come true within ``timeout_s``.
    """
    pause = threading.Event()
    started = time.monotonic()
    longest = 0.0
    slot = 0
    while not done():
        before = time.monotonic()
        assert before - started < timeout_s, f"waited {timeout_s:g} s in vain"
        write(slot)
        longest = max(longest, time.monotonic() - before)
        slot += 1
        pause.wait(max(0.0, started + slot / fps - time.monotonic()))
    return longest


def drive_command(
    write: Callable[[int], object], command: list[str], *, timeout_s: float = 30.0, fps: float = 25.0
) -> str:
    """Run ``command`` while writing pictures until it ends; return its stdout. ``AssertionError`` carries stderr."""
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=err)
        try:
            drive(write, lambda: process.poll() is not None, timeout_s=timeout_s, fps=fps)
        finally:
            process.kill()
            process.wait(5)
            err.seek(0)
            complaint = err.read()
        assert process.returncode == 0, complaint
        out.seek(0)
        return out.read()
