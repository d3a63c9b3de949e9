"""What it costs to accept an event durably: emit to stored on disk, by the number of events emitted together.

The floor is one write and fdatasync of the same bytes to a file on the same disk.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from benchmarks import cpu, report
from benchmarks.figures import Figure, quantile
from sentinel_pipeline.application.event.emitter import EventEmitter
from sentinel_pipeline.domain.events import Event, EventStage
from sentinel_pipeline.infrastructure.storage.outbox import SqliteOutbox

GROUPS = (1, 10, 100)
THREADS = 8


def parser() -> argparse.ArgumentParser:
    """Return the options."""
    made = report.parser(__doc__)
    made.add_argument("--seconds", type=float, default=0, help="seconds each run lasts (default 2, 0.5 with --quick)")
    made.add_argument("--folder", type=Path, help="directory on the disk to measure (default: the temporary directory)")
    return made


def measure(options: argparse.Namespace) -> int:
    """Measure and report."""
    results = report.Report("outbox", options)
    seconds = options.seconds or (0.5 if options.quick else 2.0)
    for group in GROUPS:
        _group(results, options, group, seconds)
    _many_streams(results, options, seconds)
    return results.finish()


def _group(results: report.Report, options: argparse.Namespace, group: int, seconds: float) -> None:
    rates, p50s, p99s, costs, floors = [], [], [], [], []
    for _ in range(options.pairs):
        took, used = _emitting(options.folder, [event(i) for i in range(group)], seconds)
        floor = _syncing(options.folder, b"".join(event(i).encode() for i in range(group)), seconds / 4)
        rates.append(group * len(took) / sum(took))
        p50s.append(1000 * quantile(took, 0.5))
        p99s.append(1000 * quantile(took, 0.99))
        costs.append(1e6 * used / (group * len(took)))
        floors.append(1000 * quantile(floor, 0.5))
    what = f"{group} event{'s' if group > 1 else ''} an emit"
    results.add(Figure(f"{what}: durable events a second", "/s", tuple(rates)))
    results.add(Figure("  emit p50; floor: write and fdatasync p50", "ms", tuple(p50s), tuple(floors)))
    results.add(Figure("  emit p99", "ms", tuple(p99s)))
    results.add(Figure("  CPU per event", "us", tuple(costs)))


def _many_streams(results: report.Report, options: argparse.Namespace, seconds: float) -> None:
    rates, p99s = [], []
    for _ in range(options.pairs):
        took, elapsed = _emitting_together(options.folder, seconds)
        rates.append(len(took) / elapsed)
        p99s.append(1000 * quantile(took, 0.99))
    results.add(Figure(f"1 event an emit, {THREADS} streams at once: events a second", "/s", tuple(rates)))
    results.add(Figure("  emit p99", "ms", tuple(p99s)))


def event(number: int) -> Event:
    """Return an event of the usual size."""
    details = {
        "incident_id": "0192f3c1-7a4e-7b1d-9f00-5d2b8e6c1a2b",
        "label": "person",
        "track_id": number,
        "bbox": [412.0, 233.5, 88.2, 190.4],
        "frame_size": [1920, 1080],
        "trace_ms": {"decode": 2.9, "wait": 4.1, "infer": 18.5, "track": 0.3, "rule": 0.1},
    }
    return Event(
        type="INTRUSION",
        stage=EventStage.DETECTED,
        stream_id="gate",
        module_name="someone-at-the-gate",
        ts=time.time(),
        confidence=0.83,
        latency_ms=41.7,
        details=details,
    )


def _emitting(folder: Path | None, events: Sequence[Event], seconds: float) -> tuple[list[float], float]:
    with _emitter(folder) as emitter:
        started = cpu.of_self()
        took = repeat(lambda: emitter.emit(fresh(events)), seconds)
        return took, cpu.of_self() - started


def fresh(events: Sequence[Event]) -> list[Event]:
    """Return the same events under new ids, as a stream would emit them."""
    return [event(number) for number in range(len(events))]


def _emitting_together(folder: Path | None, seconds: float) -> tuple[list[float], float]:
    took: list[float] = []
    with _emitter(folder) as emitter:

        def stream() -> None:
            took.extend(repeat(lambda: emitter.emit([event(0)]), seconds))

        threads = [threading.Thread(target=stream) for _ in range(THREADS)]
        started = time.monotonic()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return took, time.monotonic() - started


@contextmanager
def _emitter(folder: Path | None) -> Iterator[EventEmitter]:
    """Open an outbox on the disk with one sink that takes nothing."""
    with (
        tempfile.TemporaryDirectory(prefix="sentinel-benchmark-", dir=folder) as name,
        SqliteOutbox(Path(name) / "outbox.db") as outbox,
        EventEmitter(outbox) as emitter,
    ):
        outbox.register(["vms"])
        yield emitter


def _syncing(folder: Path | None, data: bytes, seconds: float) -> list[float]:
    with tempfile.TemporaryFile(dir=folder) as file:
        number = file.fileno()

        def write() -> None:
            os.write(number, data)
            os.fdatasync(number)

        return repeat(write, seconds)


def repeat(action: Callable[[], object], seconds: float) -> list[float]:
    """Do something for some seconds and return how long each time took, in seconds."""
    until, took = time.monotonic() + seconds, []
    while (started := time.monotonic()) < until:
        action()
        took.append(time.monotonic() - started)
    return took


if __name__ == "__main__":
    report.main(parser, measure)
