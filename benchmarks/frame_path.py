"""A published frame: decode, seven labelled boxes, encode, mux; against one FFmpeg that decodes and encodes.

Two comparisons. "frame path": both read the same file as fast as they can and write MPEG-TS to a file. "program": both
take the same camera from the same RTSP relay and publish to it, in real time; ours is the whole program with nothing
but this stream, its threads, its API and its child.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import tempfile
from collections import defaultdict
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks import cameras, cpu, program, report, transcode
from benchmarks.figures import Figure, Target, paired
from benchmarks.material import FULL_HD, Clip

BITRATE = 4_000_000


def parser() -> argparse.ArgumentParser:
    """Return the options."""
    made = report.parser(__doc__)
    made.add_argument("--seconds", type=int, default=0, help="length of the footage (default 30, 4 with --quick)")
    made.add_argument("--window", type=float, default=0, help="seconds a program run is watched (default 15)")
    made.add_argument("--only", choices=("path", "program"), help="one of the two comparisons")
    return made


def measure(options: argparse.Namespace) -> int:
    """Measure and report."""
    seconds = options.seconds or (4 if options.quick else 30)
    clip = Clip(*FULL_HD.size, seconds=seconds)
    results = report.Report("frame_path", options)
    if options.only != "program":
        _path(results, clip, options.pairs)
    if options.only != "path":
        _program(results, clip, options.pairs, options.window or (4 if options.quick else 15))
    return results.finish()


def _path(results: report.Report, clip: Clip, pairs: int) -> None:
    with tempfile.TemporaryDirectory(prefix="sentinel-benchmark-") as folder:
        out = Path(folder)
        _floor_run(clip, out)  # not counted: warms the file cache
        floor, ours = paired(lambda: _floor_run(clip, out), lambda: _our_run(clip, out), pairs)
    dropped = sum(run["dropped"] for run in ours)
    results.add(
        Figure(
            "1080p25, 7 boxes, encoded, frame path",
            "ms CPU/frame",
            tuple(run["ms"] for run in ours),
            tuple(floor),
            Target(1.10),
        )
    )
    stages: dict[str, list[float]] = defaultdict(list)
    for run in ours:
        for name, ms in run["stages_ms"].items():
            stages[name].append(ms)
    for name, values in stages.items():
        results.add(Figure(f"  of it {name}", "ms CPU/frame", tuple(values)))
    results.note(
        f"floor: ffmpeg {clip.width}x{clip.height} decode -> x264 ultrafast zerolatency -> mpegts, one process"
    )
    if dropped:
        results.note(f"{dropped} packets were dropped: the figure is too low")


def _floor_run(clip: Clip, folder: Path) -> float:
    target = ["-f", "mpegts", "-muxdelay", "0", "-muxpreload", "0", "-flush_packets", "1", folder / "floor.ts"]
    command = transcode.transcode(["-i", clip.path()], target, fps=clip.fps, bitrate=BITRATE)
    return 1000 * cpu.run(command).cpu_s / clip.frames


def _our_run(clip: Clip, folder: Path) -> dict[str, Any]:
    binary = shutil.which("ffmpeg") or "ffmpeg"
    command = [cameras.PYTHON, "-m", "benchmarks.frame_path_ours"]
    done = cpu.run([*command, str(clip.path()), str(folder / "ours.ts"), str(BITRATE), binary])
    result: dict[str, Any] = json.loads(done.output)
    if result["frames"] != clip.frames:
        raise RuntimeError(f"{result['frames']} of {clip.frames} frames were decoded")
    return result


def _program(results: report.Report, clip: Clip, pairs: int, seconds: float) -> None:
    with cameras.relay() as relay, cameras.cameras(relay, clip.path(), 1) as (source,):
        floor, ours = paired(
            lambda: _floor_window(source, relay.url("floor"), clip, seconds),
            lambda: _our_window(source, relay.url("ours"), clip, seconds),
            pairs,
        )
    results.add(
        Figure(
            "1080p25 camera published, whole program",
            "ms CPU/frame",
            tuple(run[0] for run in ours),
            tuple(floor),
            Target(1.10),
        )
    )
    threads: dict[str, list[float]] = defaultdict(list)
    for ms, spent in ours:
        whole = sum(spent.values())
        for name, cpu_s in spent.items():
            threads[name].append(ms * cpu_s / whole)
    for name, values in sorted(threads.items(), key=lambda item: -median(item[1])):
        if median(values) >= 0.01:
            results.add(Figure(f"  of it {name}", "ms CPU/frame", tuple(values)))
    results.note("program: camera -> RTSP relay -> program -> relay, no analysis; floor: ffmpeg between the same URLs")


def _floor_window(source: str, target: str, clip: Clip, seconds: float) -> float:
    command = transcode.transcode(transcode.rtsp(source), transcode.to_rtsp(target), fps=clip.fps, bitrate=BITRATE)
    with cameras.ending(subprocess.Popen(command, stdin=subprocess.DEVNULL)) as process:
        program.pause(3.0)
        before = cpu.of_tree(process.pid)
        program.pause(seconds)
        if process.poll() is not None:
            raise RuntimeError(f"the floor's ffmpeg ended with {process.returncode}")
        return 1000 * (cpu.of_tree(process.pid) - before) / (seconds * clip.fps)


def _our_window(source: str, target: str, clip: Clip, seconds: float) -> tuple[float, dict[str, float]]:
    publish = {"url": target, "fps": clip.fps, "bitrate": f"{BITRATE // 1000}k"}
    with program.program(program.configuration({"camera": {"source": source, "publish": publish}})) as running:
        running.until_running()
        window = running.window(seconds)
    return 1000 * window.cpu_s / (window.seconds * clip.fps), window.threads()


if __name__ == "__main__":
    report.main(parser, measure)
