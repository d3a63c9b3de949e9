"""A camera that sends a picture when it is told to, and nothing meanwhile.

A process of its own (``told_camera.py URL WIDTH HEIGHT X264-PARAMS``): PyAV holds the interpreter while it announces a
stream, and a relay in the same process could not answer. For each line on stdin (``key``, or anything else) it encodes
one picture, sends it, and says its shade.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from typing import Any

SHADES = (40, 70, 100, 130, 160, 190, 220)


class Camera:
    """The camera as the test sees it."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def send(self, *, key: bool = False) -> int:
        """Send one picture and return its shade, the mean of its luma."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write("key\n" if key else "next\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())


@contextmanager
def told_camera(url: str, size: tuple[int, int], params: str = "") -> Iterator[Camera]:
    """Run a camera that publishes H.264 at ``url``; ``params`` as x264 knows them."""
    command = [sys.executable, __file__, url, str(size[0]), str(size[1]), params]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        with process:
            yield Camera(process)
    finally:
        process.kill()


def main(url: str, width: int, height: int, params: str) -> None:
    """Send until stdin ends."""
    import av
    import numpy as np

    noise = np.random.default_rng(5)
    with av.open(url, "w", format="rtsp", options={"rtsp_transport": "tcp"}) as output:
        stream: Any = output.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.codec_context.thread_count, stream.codec_context.gop_size = 1, 250
        stream.options = {"preset": "ultrafast", "tune": "zerolatency", "forced-idr": "1", "x264-params": params}
        for number, line in enumerate(sys.stdin):
            shade = SHADES[number % len(SHADES)]
            luma = noise.integers(shade - 9, shade + 10, (height, width), dtype=np.uint8)
            planes = np.concatenate([luma.reshape(-1), np.full(width * height // 2, 128, np.uint8)])
            frame = av.VideoFrame.from_ndarray(planes.reshape(-1, width), format="yuv420p")
            frame.pts, frame.time_base = number, Fraction(1, 25)
            frame.pict_type = 1 if line == "key\n" else 0
            output.mux(stream.encode(frame))
            sys.stdout.write(f"{shade}\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4])
