"""Cameras that are analysed and not published: decoding and the model, and nothing else worth mentioning.

The floor of "events only" is one FFmpeg that decodes the same camera to nowhere, plus the model run on prepared input
as often as the program ran it. The floor of an idle camera behind the motion gate is the FFmpeg alone. Events go
through the outbox to an HTTP receiver, and the time from capture to stored is taken on the way.
"""

from __future__ import annotations

import argparse
import subprocess
from collections import Counter
from collections.abc import Callable
from statistics import median
from typing import Any

import numpy as np

from benchmarks import cameras, cpu, program, report, transcode
from benchmarks.figures import Figure, Target, paired, quantile
from benchmarks.material import FULL_HD, Clip
from benchmarks.program import Window
from sentinel_pipeline.infrastructure.inference.builtin import find_builtin
from sentinel_pipeline.lab.receivers import HttpReceiver

ANALYSED_FPS = 5
MODEL = "nanodet-g-416"


def parser() -> argparse.ArgumentParser:
    """Return the options."""
    made = report.parser(__doc__)
    made.add_argument(
        "--window", type=float, default=0, help="seconds each run is watched (default 15, 4 with --quick)"
    )
    made.add_argument("--only", choices=("moving", "idle"), help="one of the two comparisons")
    return made


def measure(options: argparse.Namespace) -> int:
    """Measure and report."""
    seconds = options.window or (4 if options.quick else 15)
    length = 10 if options.quick else 30
    results = report.Report("events_only", options)
    if options.only != "idle":
        _moving(results, Clip(*FULL_HD.size, seconds=length), options.pairs, seconds)
    if options.only != "moving":
        _idle(results, Clip(*FULL_HD.size, seconds=length, still=True), options.pairs, seconds)
    return results.finish()


def _moving(results: report.Report, clip: Clip, pairs: int, seconds: float) -> None:
    with cameras.relay() as relay, cameras.cameras(relay, clip.path(), 1) as (source,), HttpReceiver() as http:
        sinks = {"vms": {"type": "http", "url": http.url}}
        ours, floor = paired(
            lambda: run_program(source, seconds, sinks=sinks),
            lambda: (decode_ms(source, seconds), model_ms(5 if results.quick else 40)),
            pairs,
        )
    per_second = [_ms_a_second(window) for window in ours]
    analysed = [window.count("camera", "frames_analysed") / window.seconds for window in ours]
    floors = [decode + rate * model for (decode, model), rate in zip(floor, analysed, strict=True)]
    results.add(
        Figure(
            f"1080p25, {ANALYSED_FPS} analysed fps, events only",
            "ms CPU/s",
            tuple(per_second),
            tuple(floors),
            Target(1.10),
        )
    )
    results.add(Figure("  frames analysed per second", "", tuple(analysed), None, Target(4.8, "at least")))
    results.add(Figure("  floor: ffmpeg decode to null", "ms CPU/s", tuple(decode for decode, _ in floor)))
    results.add(Figure("  floor: one bare model run", "ms CPU", tuple(model for _, model in floor)))
    add_threads(results, ours)
    stored = [value for window in ours for value in window.new("stored_ms")]
    if stored:
        for share in (0.5, 0.95):
            target = Target(150) if share == 0.95 else None
            name = f"capture to event stored, p{round(100 * share)} of {len(stored)}"
            results.add(Figure(name, "ms", (quantile(stored, share),), None, target))


def _idle(results: report.Report, clip: Clip, pairs: int, seconds: float) -> None:
    with cameras.relay() as relay, cameras.cameras(relay, clip.path(), 1) as (source,):
        runs = [
            (
                run_program(source, seconds, motion=True),
                decode_ms(source, seconds),
                run_program(source, seconds, motion=True, skip="idle"),
            )
            for _ in range(pairs)
        ]
    floor = tuple(run[1] for run in runs)
    for name, windows, target in (
        ("1080p25, idle behind the motion gate", [run[0] for run in runs], Target(1.05)),
        ("1080p25, idle, key frames only meanwhile", [run[2] for run in runs], Target(0.15)),
    ):
        results.add(Figure(name, "ms CPU/s", tuple(_ms_a_second(window) for window in windows), floor, target))
        add_threads(results, windows)
        analysed = tuple(window.count("camera", "frames_analysed") / window.seconds for window in windows)
        results.add(Figure("  frames analysed per second", "", analysed))


def run_program(
    source: str, seconds: float, *, sinks: dict[str, Any] | None = None, motion: bool = False, skip: str = "none"
) -> Window:
    """Run the whole program with one camera, analysed and not published, and return a window of it."""
    stream = {"source": source, "decode": {"skip": skip}, "analyse": program.analyse(ANALYSED_FPS, motion=motion)}
    with program.program(program.configuration({"camera": stream}, sinks)) as running:
        running.until_running()
        if motion:
            settle(running, idle=skip == "idle")
        return running.window(seconds)


def settle(running: program.Program, *, idle: bool) -> None:
    """Wait until nothing moves any more: the gate opens at the first picture and holds for three seconds."""
    program.pause(4.0)
    if idle:
        running.until(lambda look: look["streams"]["camera"].get("idle"), 30, "the camera counts as idle")
        program.pause(2.0)  # idle begins with the next key frame


def decode_ms(source: str, seconds: float) -> float:
    """Return CPU milliseconds per second of an FFmpeg that decodes the camera to nowhere."""
    command = transcode.decode(transcode.rtsp(source))
    with cameras.ending(subprocess.Popen(command, stdin=subprocess.DEVNULL)) as process:
        program.pause(3.0)
        before = cpu.of_tree(process.pid)
        program.pause(seconds)
        if process.poll() is not None:
            raise RuntimeError(f"the floor's ffmpeg ended with {process.returncode}")
        return 1000 * (cpu.of_tree(process.pid) - before) / seconds


def model_ms(runs: int) -> float:
    """Return CPU milliseconds of one run of the model on a prepared picture, on one thread, without spinning."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    builtin = find_builtin(MODEL)
    session = ort.InferenceSession(str(builtin.path), options, providers=["CPUExecutionProvider"])
    width, height = builtin.input_size
    picture = np.random.default_rng(1).random((1, 3, height, width), np.float32)
    inputs = {session.get_inputs()[0].name: picture}
    return 1000 * bare_seconds(lambda: session.run(None, inputs), runs)


def bare_seconds(infer: Callable[[], object], runs: int) -> float:
    """Return CPU seconds of one call, after three that are not counted."""
    for _ in range(3):
        infer()
    started = cpu.of_self()
    for _ in range(runs):
        infer()
    return (cpu.of_self() - started) / runs


def add_threads(results: report.Report, windows: list[Window]) -> None:
    """Add what each kind of thread used, as CPU milliseconds a second, when it is worth mentioning."""
    kinds = Counter(name for window in windows for name in window.threads())
    rows = {
        kind: tuple(1000 * window.threads().get(kind, 0.0) / window.seconds for window in windows) for kind in kinds
    }
    for kind, values in sorted(rows.items(), key=lambda item: -median(item[1])):
        if median(values) >= 0.3:
            results.add(Figure(f"  of it {kind}", "ms CPU/s", values))


def _ms_a_second(window: Window) -> float:
    return 1000 * window.cpu_s / window.seconds


if __name__ == "__main__":
    report.main(parser, measure)
