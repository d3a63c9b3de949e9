"""Cameras: an RTSP relay, and an FFmpeg for each camera that plays a clip into it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from sentinel_pipeline.lab.rtsp_relay import RtspRelay


@contextmanager
def camera(clip: Path, url: str, *, skip: float = 0.0) -> Iterator[None]:
    """Play ``clip`` to ``url`` in real time, over and over; its packets are copied. ``skip``: seconds to start at."""
    command = ["ffmpeg", "-hide_banner", "-nostdin", "-loglevel", "error", "-re", "-stream_loop", "-1"]
    command += ["-ss", str(skip), "-i", str(clip), "-an", "-c", "copy", "-f", "rtsp", "-rtsp_transport", "tcp", url]
    with ending(subprocess.Popen(command, stdin=subprocess.DEVNULL)):
        yield


@contextmanager
def ending(process: subprocess.Popen[bytes]) -> Iterator[subprocess.Popen[bytes]]:
    """End a process when the block ends, by force after 5 s."""
    try:
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()
        process.wait()


@contextmanager
def cameras(relay: RtspRelay, clip: Path, count: int) -> Iterator[list[str]]:
    """Play ``clip`` as ``count`` cameras that are out of step, and return their URLs."""
    with ExitStack() as stack:
        for number in range(count):
            stack.enter_context(camera(clip, relay.url(f"camera{number}"), skip=number * 2 % 20))
        for number in range(count):
            relay.wait_for_publisher(f"camera{number}", timeout=20)
        yield [relay.url(f"camera{number}") for number in range(count)]


@contextmanager
def relay() -> Iterator[RtspRelay]:
    """Run a relay in this process."""
    with RtspRelay() as made:
        yield made


PYTHON = sys.executable
