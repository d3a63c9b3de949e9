"""From the camera to the published picture, by a clock in the picture, against an FFmpeg on the same camera.

One camera, and at the same time the program (analysing 5 pictures a second and drawing), an FFmpeg transcoding relay
with its best low-latency settings, and three readers: of the camera itself, of ours, of FFmpeg's. All on one machine
and one clock. The camera sends what it has at once (no Nagle's algorithm): what it delayed would be in all three.
"""

from __future__ import annotations

import argparse
import json
import subprocess
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from benchmarks import cameras, program, report, transcode
from benchmarks.figures import Figure, Target
from benchmarks.material import Clip

FPS = 25
BITRATE = 3_000_000
CLIP = Clip(1280, 720, seconds=10, bitrate=3_000_000)
ROOT = Path(__file__).parents[1]


def parser() -> argparse.ArgumentParser:
    """Return the options."""
    made = report.parser(__doc__)
    made.add_argument("--window", type=float, default=0, help="seconds each run is read (default 12, 4 with --quick)")
    made.add_argument("--no-analysis", action="store_true", help="publish only")
    return made


def measure(options: argparse.Namespace) -> int:
    """Measure and report."""
    results = report.Report("latency", options)
    seconds = options.window or (4 if options.quick else 12)
    runs = [_run(seconds, analysed=not options.no_analysis) for _ in range(options.pairs)]
    ours, relay, direct = ([run[name] for run in runs] for name in ("ours", "relay", "direct"))
    for share in ("p50", "p95"):
        mine, theirs = tuple(r[share] for r in ours), tuple(r[share] for r in relay)
        name = f"720p25, camera to published picture, {share}"
        if share == "p50":
            results.add(Figure(name, "ms", mine, theirs, Target(1.0)))
        else:
            results.add(Figure(name, "ms", mine, theirs))
            over = tuple(a - b for a, b in zip(mine, theirs, strict=True))
            results.add(Figure("  p95 beyond the relay's", "ms", over, None, Target(1000 / FPS)))
    for share in ("p50", "p95"):
        results.add(Figure(f"  the camera itself, read directly, {share}", "ms", tuple(r[share] for r in direct)))
    results.note("floor: ffmpeg relay, nobuffer low_delay, one decoder thread, x264 ultrafast zerolatency, passthrough")
    results.note("FFmpeg has no option against Nagle's algorithm in RTSP: the relay's connection has it, ours has not")
    results.note("each figure includes one reader, whose parser waits for the next picture (40 ms)")
    unreadable = sum(r["unreadable"] for run in runs for r in run.values())
    results.note(f"{sum(r['pictures'] for r in ours)} pictures of ours read, {unreadable} unreadable in all streams")
    return results.finish()


def _run(seconds: float, *, analysed: bool) -> dict[str, dict[str, Any]]:
    with ExitStack() as stack:
        relay = stack.enter_context(cameras.relay())
        source = relay.url("camera")
        start_clock_camera(stack, source)
        relay.wait_for_publisher("camera", timeout=30)
        stack.enter_context(cameras.ending(subprocess.Popen(_relay_command(source, relay.url("relay")))))
        stream: dict[str, Any] = {"source": source, "publish": {"url": relay.url("ours"), "fps": FPS, "bitrate": "3M"}}
        if analysed:
            stream["analyse"] = program.analyse(5)
        running = stack.enter_context(program.program(program.configuration({"camera": stream})))
        running.until_running()
        relay.wait_for_publisher("relay", timeout=20)
        readers = {name: _reader(relay.url(path), seconds) for name, path in _READERS.items()}
        return {name: _answer(reader) for name, reader in readers.items()}


_READERS = {"ours": "ours", "relay": "relay", "direct": "camera"}


def start_clock_camera(stack: ExitStack, url: str) -> subprocess.Popen[bytes]:
    """Start a camera with a clock in its picture; its stdout tells the time of each keyframe."""
    command = [cameras.PYTHON, "-m", "benchmarks.clock_camera", str(CLIP.path()), url, str(FPS), str(BITRATE)]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, cwd=ROOT)
    stack.callback(process.stdout.close)  # type: ignore[union-attr]
    return stack.enter_context(cameras.ending(process))


def _relay_command(source: str, target: str) -> list[str]:
    """Return the FFmpeg relay: encoder threads as FFmpeg chooses (slices), which is its quickest way."""
    return [
        *["ffmpeg", "-hide_banner", "-nostdin", "-loglevel", "error", "-fflags", "nobuffer", "-flags", "low_delay"],
        *["-threads", "1", *transcode.rtsp(source), "-an", "-vsync", "passthrough"],
        *transcode.encoder(FPS, BITRATE, threads=0),
        *["-muxdelay", "0", *transcode.to_rtsp(target)],
    ]


def _reader(url: str, seconds: float) -> subprocess.Popen[bytes]:
    command = [cameras.PYTHON, "-m", "benchmarks.clock_reader", url, str(seconds)]
    return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, cwd=ROOT)


def _answer(reader: subprocess.Popen[bytes]) -> dict[str, Any]:
    output, _ = reader.communicate(timeout=60)
    answer: dict[str, Any] = json.loads(output)
    if not answer["pictures"]:
        raise RuntimeError(f"no picture could be read: {answer}")
    return answer


if __name__ == "__main__":
    report.main(parser, measure)
