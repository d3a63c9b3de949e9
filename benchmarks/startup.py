"""How soon a camera's picture is published: after the camera has answered, and after its first keyframe.

The program runs and its camera's server answers nothing yet useful ("not found"); then the program is started on a
camera that is there. The camera answers when the relay counts a player (PLAY, RFC 2326). It sends whatever comes next
in its group of pictures of 2 s, so that the wait for a keyframe is anything from 0 to 2 s, as with most cameras; the
camera program tells when each keyframe goes out. Published is when the relay gets the first packet of the output.
"""

from __future__ import annotations

import argparse
import subprocess
import threading
import time
from contextlib import ExitStack

from benchmarks import cameras, program, report
from benchmarks.figures import Figure, Target, quantile
from benchmarks.latency import BITRATE, FPS, start_clock_camera
from sentinel_pipeline.lab.rtsp_relay import RtspRelay

_POLL = 0.002


class Keyframes(threading.Thread):
    """Collects the times at which a clock camera sends keyframes."""

    def __init__(self, camera: subprocess.Popen[bytes]) -> None:
        super().__init__(name="keyframes")
        self._camera = camera
        self.times: list[float] = []

    def run(self) -> None:
        """Read until the camera ends."""
        assert self._camera.stdout is not None  # noqa: S101
        for line in self._camera.stdout:
            self.times.append(float(line))

    def first_since(self, then: float) -> float | None:
        """Return the time of the first keyframe sent after ``then``."""
        return next((at for at in self.times if at > then), None)


def parser() -> argparse.ArgumentParser:
    """Return the options."""
    made = report.parser(__doc__)
    made.add_argument(
        "--starts", type=int, default=0, help="how often the program is started (default 12, 2 with --quick)"
    )
    return made


def measure(options: argparse.Namespace) -> int:
    """Measure and report."""
    results = report.Report("startup", options)
    runs = [_start(number) for number in range(options.starts or (2 if options.quick else 12))]
    answered = tuple(run[0] for run in runs)
    keyed = tuple(run[1] for run in runs)
    results.add(Figure("camera answered to first published packet", "ms", answered, None, Target(1000)))
    results.add(Figure("  slowest of ten", "ms", (quantile(answered, 0.9),)))
    results.add(Figure("keyframe sent to first published packet", "ms", keyed, None, Target(100)))
    results.add(Figure("program started to first published packet", "ms", tuple(run[2] for run in runs)))
    results.note(
        f"1280x720, {FPS} fps, a keyframe every 2 s; the wait for it is part of the first figure (1 s on average)"
    )
    return results.finish()


def _start(number: int) -> tuple[float, float, float]:
    """Return three durations in ms. ``number`` moves the start within the group of pictures."""
    with ExitStack() as stack:
        relay = stack.enter_context(cameras.relay())
        camera = start_clock_camera(stack, relay.url("camera"))
        keyframes = Keyframes(camera)
        keyframes.start()
        stack.callback(keyframes.join)
        stack.callback(camera.terminate)  # which ends what the thread reads
        relay.wait_for_publisher("camera", timeout=30)
        program.pause(1.0 + number * 0.17 % 2)
        publish = {"url": relay.url("ours"), "fps": FPS, "bitrate": f"{BITRATE // 1000}k"}
        config = program.configuration({"camera": {"source": relay.url("camera"), "publish": publish}})
        started = time.monotonic()
        running = stack.enter_context(program.program(config))
        try:
            relay.wait_for_reader("camera", 20)
        except TimeoutError as exc:
            raise RuntimeError(f"the program did not connect: {running.look()['streams']}") from exc
        answered = time.monotonic()
        published = _first_packet(relay, "ours", 20.0)
        # A keyframe sent while the relay was still answering PLAY goes to the player as well.
        keyframe = keyframes.first_since(answered - 0.005)
        if keyframe is None or keyframe > published:
            raise RuntimeError("the output began without a keyframe of the camera")
    return 1000 * (published - answered), 1000 * (published - keyframe), 1000 * (published - started)


def _first_packet(relay: RtspRelay, path: str, timeout: float) -> float:
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        info = relay.paths().get(path)
        if info is not None and info.packets_in:
            return time.monotonic()
        program.pause(_POLL)
    raise RuntimeError(f"nothing was published within {timeout:g} s")


if __name__ == "__main__":
    report.main(parser, measure)
