"""How soon a camera's picture is published: after the camera has answered, and after its first keyframe.

The program is started on a camera that is there. The camera answers when the relay counts a player (PLAY, RFC 2326);
published is when the relay gets the first packet of the output. There are two kinds of cameras. One makes its next
picture a keyframe for everybody who comes. The other sends whatever comes next in its group of pictures of 2 s, so that
the wait for a keyframe is anything from 0 to 2 s, whoever reads it: an FFmpeg on the same camera shows that. What comes
after the keyframe is ours. The camera program tells when each keyframe goes out.
"""

from __future__ import annotations

import argparse
import signal
import subprocess
import threading
import time
from contextlib import ExitStack
from dataclasses import dataclass

from benchmarks import cameras, program, report, transcode
from benchmarks.figures import Figure, Target, quantile
from benchmarks.latency import BITRATE, FPS, start_clock_camera
from sentinel_pipeline.lab.rtsp_relay import RtspRelay

_POLL = 0.002


@dataclass(frozen=True, slots=True)
class Start:
    """One start of the program, in ms. ``ffmpeg``: an FFmpeg, from the camera's answer to its first picture."""

    answered: float  # from the camera's answer to the first published packet, as the next two
    keyed: float
    started: float
    wait: float  # of it, from the answer to the keyframe
    ffmpeg: float


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
        "--starts", type=int, default=0, help="starts on each kind of camera (default 12, 2 with --quick)"
    )
    return made


def measure(options: argparse.Namespace) -> int:
    """Measure and report."""
    results = report.Report("startup", options)
    starts = options.starts or (2 if options.quick else 12)
    keyed = [_start(number, begins_with_keyframe=True) for number in range(starts)]
    joined = [_start(number, begins_with_keyframe=False) for number in range(starts)]
    answered = tuple(start.answered for start in keyed)
    results.add(Figure("camera answered to first published packet", "ms", answered, None, Target(1000)))
    results.add(Figure("  slowest of ten", "ms", (quantile(answered, 0.9),)))
    results.add(Figure("the same, joined in mid-group", "ms", tuple(start.answered for start in joined)))
    results.add(Figure("  of it, wait for the camera's next keyframe", "ms", tuple(start.wait for start in joined)))
    results.add(Figure("  ffmpeg, answered to first picture decoded", "ms", tuple(start.ffmpeg for start in joined)))
    both = [*keyed, *joined]
    published = tuple(start.keyed for start in both)
    results.add(Figure("keyframe sent to first published packet", "ms", published, None, Target(100)))
    results.add(Figure("program started to camera asked to play", "ms", tuple(s.started - s.answered for s in both)))
    results.note(f"1280x720, {FPS} fps, a keyframe every 2 s; the first camera sends one more to whoever comes")
    results.note("a wait of 0 to 2 s (1 s on average) is the camera's: no target can be held against it")
    return results.finish()


def _start(number: int, *, begins_with_keyframe: bool) -> Start:
    """Start the program once. ``number`` moves the start within the group of pictures."""
    with ExitStack() as stack:
        relay = stack.enter_context(cameras.relay())
        source = relay.url("camera")
        camera = start_clock_camera(stack, source)
        keyframes = Keyframes(camera)
        keyframes.start()
        stack.callback(keyframes.join)
        stack.callback(camera.terminate)  # which ends what the thread reads
        relay.wait_for_publisher("camera", timeout=30)
        program.pause(1.0 + number * 0.17 % 2)
        publish = {"url": relay.url("ours"), "fps": FPS, "bitrate": f"{BITRATE // 1000}k"}
        config = program.configuration({"camera": {"source": source, "publish": publish}})
        started = time.monotonic()
        running = stack.enter_context(program.program(config))
        answered = _answered(relay, running)
        if begins_with_keyframe:
            camera.send_signal(signal.SIGUSR1)
        published = _first_packet(relay, "ours", 20.0)
        # A keyframe sent while the relay was still answering PLAY goes to the player as well.
        keyframe = keyframes.first_since(answered - 0.005)
        if keyframe is None or keyframe > published:
            raise RuntimeError("the output began without a keyframe of the camera")
        program.pause(2 * (number * 0.618 % 1))  # FFmpeg comes at any time of the group as well, evenly spread
        ffmpeg = 0.0 if begins_with_keyframe else _ffmpeg(relay, source)
    times = (published - answered, published - keyframe, published - started, keyframe - answered, ffmpeg)
    return Start(*(1000 * each for each in times))


def _answered(relay: RtspRelay, running: program.Program) -> float:
    try:
        relay.wait_for_reader("camera", 20)
    except TimeoutError as exc:
        raise RuntimeError(f"the program did not connect: {running.look()['streams']}") from exc
    return time.monotonic()


def _ffmpeg(relay: RtspRelay, source: str) -> float:
    """Return the seconds that an FFmpeg needs from the camera's answer to the end, which is its first picture."""
    command = [*transcode.FFMPEG, "-threads", "1", *transcode.rtsp(source), "-an", "-frames:v", "1", "-f", "null", "-"]
    # What it says of pictures that refer to earlier ones is to be expected.
    silent = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    with cameras.ending(silent) as probe:
        relay.wait_for_reader("camera", 20, readers=2)
        answered = time.monotonic()
        probe.wait(20)
        return time.monotonic() - answered


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
