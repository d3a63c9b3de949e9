"""The whole program against its rivals: the same camera, model, analysed rate and cores, in the same run.

CPU milliseconds of one 1080p25 camera a second; how many cameras a machine carries is its cores divided by that.
Rivals: the path of the user's document as written (OpenCV, ``tobytes``, FFmpeg), Ultralytics' stream loader and
Roboflow's InferencePipeline, where ``--ultralytics`` and ``--roboflow`` name a Python that has them (see README.md).
"""

from __future__ import annotations

import argparse
import os
import subprocess
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from benchmarks import cameras, cpu, program, report
from benchmarks.events_only import ANALYSED_FPS, MODEL, settle
from benchmarks.figures import Figure, Target
from benchmarks.material import FULL_HD, Clip
from sentinel_pipeline.infrastructure.inference.builtin import find_builtin

INT8 = "nanodet-g-416-int8"
FOLDER = Path(__file__).parent / "rivals"
OURS = "sentinel"


@dataclass(frozen=True, slots=True)
class Rival:
    """A script, the Python that runs it, and whether it can publish."""

    name: str
    script: str
    python: str
    publishes: bool = False


@dataclass(frozen=True, slots=True)
class Ours:
    """How the program is configured, and by how much it should be cheaper than the rivals."""

    target: float
    motion: bool = False
    skip: str = "none"


@dataclass(frozen=True, slots=True)
class Run:
    """CPU milliseconds a second, and pictures analysed a second."""

    ms: float
    analysed: float

    def cost(self, *, saves: bool) -> float:
        """Return the cost at the full rate: who falls behind does less work. ``saves``: it analyses less on purpose."""
        return self.ms if saves else self.ms * ANALYSED_FPS / max(0.1, self.analysed)


def parser() -> argparse.ArgumentParser:
    """Return the options."""
    made = report.parser(__doc__)
    made.add_argument(
        "--window", type=float, default=0, help="seconds each run is watched (default 12, 4 with --quick)"
    )
    made.add_argument("--ultralytics", metavar="PYTHON", help="a Python with ultralytics, opencv and onnxruntime")
    made.add_argument("--roboflow", metavar="PYTHON", help="a Python with inference")
    return made


def measure(options: argparse.Namespace) -> int:
    """Measure and report."""
    results = report.Report("compare", options)
    seconds = options.window or (4 if options.quick else 12)
    length = 10 if options.quick else 30
    rivals = [Rival("the document's path (OpenCV)", "opencv_loop.py", cameras.PYTHON, publishes=True)]
    for name, script, python in (
        ("Ultralytics' loader", "ultralytics_loader.py", options.ultralytics),
        ("Roboflow's pipeline", "roboflow_pipeline.py", options.roboflow),
    ):
        if python:
            rivals.append(Rival(name, script, python))
        else:
            results.note(f"{name}: not installed here, left out")
    moving, still = (Clip(*FULL_HD.size, seconds=length, still=still) for still in (False, True))
    compared = Comparison(results, options.pairs, seconds)
    publishing = [rival for rival in rivals if rival.publishes]
    compared.run("published", moving, {OURS: Ours(2.0)}, publishing, publish=True)
    compared.run("published, INT8", moving, {OURS: Ours(2.0)}, publishing, publish=True, model=INT8)
    compared.run("events only", moving, {OURS: Ours(1.1)}, rivals)
    gated = {
        f"{OURS}, motion gate": Ours(2.5, motion=True),
        f"{OURS}, key frames only": Ours(10.0, motion=True, skip="idle"),
    }
    compared.run("quiet", still, gated, rivals)
    results.note(
        f"1080p25 over RTSP, {ANALYSED_FPS} analysed fps, NanoDet 416 on one thread; ratio = CPU of it by ours"
    )
    return results.finish()


class Comparison:
    """Runs ours and the rivals in turn, again and again, on one camera."""

    def __init__(self, results: report.Report, pairs: int, seconds: float) -> None:
        self._results, self._pairs, self._seconds = results, pairs, seconds

    def run(
        self,
        what: str,
        clip: Clip,
        ours: Mapping[str, Ours],
        rivals: Sequence[Rival],
        *,
        publish: bool = False,
        model: str = MODEL,
    ) -> None:
        """Add the figures of one kind of footage and work, all with the built-in model ``model``."""
        with cameras.relay() as relay, cameras.cameras(relay, clip.path(), 1) as (source,):
            url = relay.url("out") if publish else None
            runners: dict[str, Callable[[], Run]] = {
                **{name: partial(_ours, mine, model, source, url, self._seconds) for name, mine in ours.items()},
                **{r.name: partial(_theirs, r, model, clip.fps, source, url, self._seconds) for r in rivals},
            }
            runs: dict[str, list[Run]] = {name: [] for name in runners}
            for _ in range(self._pairs):
                for name, runner in runners.items():
                    runs[name].append(runner())
        self._add(what, ours, rivals, runs)

    def _add(self, what: str, ours: Mapping[str, Ours], rivals: Sequence[Rival], runs: Mapping[str, list[Run]]) -> None:
        for name, mine in ours.items():
            costs = tuple(run.cost(saves=mine.motion) for run in runs[name])
            self._results.add(Figure(f"{what}: {name}", "ms CPU/s", costs))
            for rival in rivals:
                theirs = tuple(run.cost(saves=False) for run in runs[rival.name])
                label = f"{what}: {rival.name}, by {name}"
                self._results.add(Figure(label, "ms CPU/s", theirs, costs, Target(mine.target, "at least")))
        for name, done in runs.items():
            self._results.add(Figure(f"  analysed by {name}", "/s", tuple(run.analysed for run in done)))


def _ours(mine: Ours, model: str, source: str, url: str | None, seconds: float) -> Run:
    asked = program.analyse(ANALYSED_FPS, motion=mine.motion)
    stream = {"source": source, "decode": {"skip": mine.skip}, "analyse": asked}
    if url is not None:
        stream["publish"] = {"url": url, "fps": 25, "bitrate": "4M"}
    with program.program(program.configuration({"camera": stream}, builtin=model)) as running:
        running.until_running()
        if mine.motion:
            settle(running, idle=mine.skip == "idle")
        window = running.window(seconds)
    return Run(1000 * window.cpu_s / window.seconds, window.count("camera", "frames_analysed") / window.seconds)


def _theirs(rival: Rival, model: str, fps: int, source: str, url: str | None, seconds: float) -> Run:
    path = str(find_builtin(model).path)
    command = [rival.python, str(FOLDER / rival.script), path, str(fps), str(ANALYSED_FPS), source]
    environment = {**os.environ, "OPENCV_FFMPEG_CAPTURE_OPTIONS": "rtsp_transport;tcp"}
    process = subprocess.Popen(
        [*command, url] if url else command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=environment,
    )
    counter = _Counter(process)
    counter.start()
    try:
        with cameras.ending(process):
            counter.wait_for(10, 60.0)
            program.pause(2.0)
            before, cpu_before = counter.count, cpu.of_tree(process.pid)
            program.pause(seconds)
            used, count = cpu.of_tree(process.pid) - cpu_before, counter.count - before
    finally:
        counter.join()
        if process.stdout is not None:
            process.stdout.close()
    return Run(1000 * used / seconds, count / seconds)


class _Counter(threading.Thread):
    """Counts the lines of a process: one for each analysed picture."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        super().__init__(name="counter")
        self._process = process
        self._changed = threading.Condition()
        self._ended = False
        self.count = 0

    def run(self) -> None:
        """Count until the process ends."""
        assert self._process.stdout is not None  # noqa: S101
        for line in self._process.stdout:
            with self._changed:
                self.count += line == b"a\n"
                self._changed.notify_all()
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def wait_for(self, count: int, timeout: float) -> None:
        """Wait until so many pictures have been analysed. Raises ``RuntimeError``."""
        with self._changed:
            self._changed.wait_for(lambda: self.count >= count or self._ended, timeout)
            if self.count < count:
                raise RuntimeError(f"only {self.count} pictures analysed: {self._process.args!r}")


if __name__ == "__main__":
    report.main(parser, measure)
