"""What a picture costs in the model by batch size and threads, and how long it waits there by number of callers.

Both built-in detectors on the device that ONNX Runtime's ``cpu`` stands for (or ``--device``), on prepared input. The
floor of a batch is the same number of pictures one by one, in the same run. The floor of batching across callers is the
dispatcher that runs one picture at a time.
"""

from __future__ import annotations

import argparse
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import numpy as np

from benchmarks import cpu, report
from benchmarks.figures import Figure, paired, quantile
from sentinel_pipeline.application.pipeline.batching import Dispatcher, Tensor
from sentinel_pipeline.infrastructure.inference.base import InferenceRuntime
from sentinel_pipeline.infrastructure.inference.builtin import find_builtin
from sentinel_pipeline.infrastructure.inference.runtime import create_runtime

MODELS = ("nanodet-g-416", "nanodet-g-416-int8")
THREADS = (1, 2)
BATCHES = (2, 4, 8)
CALLERS = (1, 4, 16)
RATE = 5.0  # pictures a second that each caller asks for
MAX_SIZE, MAX_WAIT = 8, 0.005


@dataclass(frozen=True, slots=True)
class Cost:
    """Milliseconds per picture."""

    cpu_ms: float
    wall_ms: float


@dataclass(frozen=True, slots=True)
class Served:
    """What callers got: milliseconds from asking to the answer, pictures each, seconds all of it took."""

    took_ms: tuple[float, ...]
    each: tuple[int, ...]
    seconds: float
    cpu_ms: float


def parser() -> argparse.ArgumentParser:
    """Return the options."""
    made = report.parser(__doc__)
    made.add_argument("--seconds", type=float, default=0, help="seconds callers ask (default 4, 1 with --quick)")
    made.add_argument("--device", default="cpu", choices=["cpu", "openvino", "cuda", "tensorrt"])
    return made


def measure(options: argparse.Namespace) -> int:
    """Measure and report."""
    results = report.Report("inference", options)
    pictures = 8 if options.quick else 24
    for name in MODELS:
        for threads in THREADS:
            with runtime(name, options.device, threads) as model:
                _batches(results, f"{name}, {threads} thread{'s' * (threads > 1)}", model, options.pairs, pictures)
    with runtime(MODELS[-1], options.device, 1) as model:
        for callers in CALLERS:
            _waiting(results, model, options, callers, RATE)
        _waiting(results, model, options, CALLERS[-1], None)
    results.note(f"callers ask {MODELS[-1]} with 1 thread for {RATE:g} pictures a second each, out of step")
    results.note(
        f"floor of batches: one by one; of callers: max_size 1 (batching: {MAX_SIZE} within {MAX_WAIT * 1e3:g} ms)"
    )
    return results.finish()


@contextmanager
def runtime(name: str, device: str, threads: int) -> Iterator[InferenceRuntime]:
    """Load a built-in model for any batch size here."""
    path = find_builtin(name).path
    with create_runtime(path, device, threads=threads, input_shape=(3, 416, 416), max_batch=MAX_SIZE) as model:
        yield model


def _batches(results: report.Report, what: str, model: InferenceRuntime, pairs: int, pictures: int) -> None:
    for size in BATCHES:
        batched, single = paired(partial(cost, model, size, pictures), partial(cost, model, 1, pictures), pairs)
        for unit, field in (("ms CPU", "cpu_ms"), ("ms wall", "wall_ms")):
            values = tuple(getattr(one, field) for one in batched)
            floors = tuple(getattr(one, field) for one in single)
            results.add(Figure(f"{what}, batch {size}: per picture", unit, values, floors))


def cost(model: InferenceRuntime, batch: int, pictures: int) -> Cost:
    """Run ``pictures`` pictures in batches of ``batch``, after one batch to warm up."""
    tensor = np.random.default_rng(1).random((batch, 3, 416, 416), np.float32)
    model.infer({"images": tensor})
    runs = max(1, pictures // batch)
    started, used = time.perf_counter(), cpu.of_self()
    for _ in range(runs):
        model.infer({"images": tensor})
    done = runs * batch
    return Cost((cpu.of_self() - used) * 1000 / done, (time.perf_counter() - started) * 1000 / done)


def _waiting(
    results: report.Report, model: InferenceRuntime, options: argparse.Namespace, callers: int, rate: float | None
) -> None:
    seconds = options.seconds or (1.0 if options.quick else 4.0)
    batched, single = paired(
        lambda: ask(model, callers, rate, seconds, MAX_SIZE),
        lambda: ask(model, callers, rate, seconds, 1),
        options.pairs,
    )
    what = f"{callers} caller{'s' * (callers > 1)}" + ("" if rate else ", as fast as they can")
    for share in (0.5, 0.95):
        values, floors = ([quantile(served.took_ms, share) for served in runs] for runs in (batched, single))
        results.add(Figure(f"{what}, batching: answer p{share * 100:.0f}", "ms", tuple(values), tuple(floors)))
    values, floors = ([served.cpu_ms for served in runs] for runs in (batched, single))
    results.add(Figure(f"{what}, batching: CPU per picture", "ms CPU", tuple(values), tuple(floors)))
    if rate is None:
        values, floors = ([sum(served.each) / served.seconds for served in runs] for runs in (batched, single))
        results.add(Figure(f"{what}, batching: pictures", "/s", tuple(values), tuple(floors)))
        values, floors = (
            [max(served.each) / max(1, min(served.each)) for served in runs] for runs in (batched, single)
        )
        results.add(Figure(f"{what}, batching: best served by worst", "x", tuple(values), tuple(floors)))


def ask(model: InferenceRuntime, callers: int, rate: float | None, seconds: float, max_size: int) -> Served:
    """Let ``callers`` threads ask for ``seconds``, each ``rate`` times a second, out of step; None: without a pause."""
    tensor = np.random.default_rng(1).random((3, 416, 416), np.float32)

    def run(batch: Tensor) -> dict[str, Tensor]:
        return model.infer({"images": batch})

    with Dispatcher("bench", run, max_size=max_size, max_wait=MAX_WAIT, timeout=30) as dispatcher:
        dispatcher.submit(tensor)
        started, used = time.monotonic(), cpu.of_self()

        def caller(number: int) -> list[float]:
            took = []
            due = started + (number / callers / rate if rate else 0.0)
            while due < started + seconds:
                threading.Event().wait(max(0.0, due - time.monotonic()))
                asked = time.monotonic()
                dispatcher.submit(tensor)
                took.append((time.monotonic() - asked) * 1000)
                due = max(due + 1 / rate, time.monotonic()) if rate else time.monotonic()
            return took

        with ThreadPoolExecutor(callers) as pool:
            took = list(pool.map(caller, range(callers)))
        spent, used = time.monotonic() - started, cpu.of_self() - used
    each = tuple(len(one) for one in took)
    return Served(tuple(ms for one in took for ms in one), each, spent, used * 1000 / sum(each))


if __name__ == "__main__":
    report.main(parser, measure)
