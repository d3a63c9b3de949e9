"""What a stream costs when there are many: CPU per stream at 1, 4, 8, 16 cameras of 640x360, by what it costs alone.

The whole program with its FFmpeg children; every stream is published with its boxes and analysed every two seconds.
The cameras are out of step. Work that was not done is not cheap: where pictures were not published or analysed because
the machine is too small, the figure is marked and not judged.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks import cameras, program, report
from benchmarks.chart import Line, svg
from benchmarks.figures import Figure, Target
from benchmarks.material import SMALL, Clip
from benchmarks.program import Window

COUNTS = (1, 4, 8, 16)
FPS = 10
ANALYSED_FPS = 0.5
_ENOUGH = 0.95  # share of the work; the count of a short window is off by a picture at each end
PICTURE = Path(__file__).parents[1] / "docs" / "images" / "cost-by-streams.svg"


@dataclass(frozen=True, slots=True)
class Cost:
    """CPU milliseconds per stream and second, and the share of the work that was done (published, analysed)."""

    ms: float
    served: float
    window: Window


def parser() -> argparse.ArgumentParser:
    """Return the options."""
    made = report.parser(__doc__)
    made.add_argument(
        "--window", type=float, default=0, help="seconds each run is watched (default 12, 4 with --quick)"
    )
    made.add_argument("--counts", type=int, nargs="+", default=[], help="numbers of streams (default 1 4 8 16)")
    made.add_argument(
        "--picture", type=Path, help="the SVG (default docs/images/cost-by-streams.svg; none with --quick)"
    )
    return made


def measure(options: argparse.Namespace) -> int:
    """Measure and report."""
    results = report.Report("streams", options)
    counts = sorted(options.counts or ((1, 4) if options.quick else COUNTS))
    seconds = options.window or (4 if options.quick else 12)
    clip = Clip(*SMALL.size, fps=FPS, seconds=40, bitrate=SMALL.bitrate)
    rounds: list[dict[int, Cost]] = []
    with cameras.relay() as relay, cameras.cameras(relay, clip.path(), counts[-1]) as urls:
        for _ in range(options.pairs):
            rounds.append({n: _run(urls[:n], relay, seconds) for n in counts})
    alone = tuple(done[counts[0]].ms for done in rounds)
    for count in counts:
        costs = tuple(done[count].ms for done in rounds)
        served = median(done[count].served for done in rounds)
        whole = served >= _ENOUGH
        target = Target(1.15) if count == 16 and whole else None
        name = f"{count} streams of 640x360, {FPS} fps: per stream" + ("" if whole else " (OVERLOADED)")
        results.add(Figure(name, "ms CPU/s", costs, alone, target))
        if not whole:
            results.note(f"{count} streams: only {served:.0%} of the work was done: more than this machine carries now")
    _shares(results, rounds, counts)
    results.note(
        f"published with overlay, analysed at {ANALYSED_FPS:g} fps; the ratio is to one stream in the same round"
    )
    if options.picture or not options.quick:
        _draw(options.picture or PICTURE, rounds, counts)
    return results.finish()


def _run(urls: list[str], relay: Any, seconds: float) -> Cost:
    streams = {
        f"s{n}": {
            "source": url,
            "analyse": program.analyse(ANALYSED_FPS),
            "publish": {"url": relay.url(f"out{n}"), "fps": FPS, "bitrate": "800k"},
        }
        for n, url in enumerate(urls)
    }
    with program.program(program.configuration(streams)) as running:
        running.until_running(60)
        window = running.window(seconds)
    shares = [
        sum(window.count(name, what) for name in streams) / (len(urls) * fps * window.seconds)
        for what, fps in (("frames_published", FPS), ("frames_analysed", ANALYSED_FPS))
    ]
    return Cost(1000 * window.cpu_s / window.seconds / len(urls), min(shares), window)


def _shares(results: report.Report, rounds: list[dict[int, Cost]], counts: list[int]) -> None:
    """Say which threads grow: their cost per stream at the least and the most number of streams."""
    for count in (counts[0], counts[-1]):
        windows = [done[count].window for done in rounds]
        for kind in windows[0].threads():
            per_stream = tuple(1000 * w.threads().get(kind, 0.0) / w.seconds / count for w in windows)
            if median(per_stream) >= 0.5:
                results.add(Figure(f"  at {count}, of it {kind}", "ms CPU/s", per_stream))


def _draw(path: Path, rounds: list[dict[int, Cost]], counts: list[int]) -> None:
    costs = [(n, median(done[n].ms for done in rounds)) for n in counts]
    limit = [(n, costs[0][1] * 1.15) for n in counts]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        svg(
            "CPU per stream by number of streams",
            f"streams of 640x360, {FPS} fps, published, analysed every two seconds",
            "CPU ms per stream and second",
            [Line("measured", costs), Line("target: 1.15 of one", limit, target=True)],
        )
    )


if __name__ == "__main__":
    report.main(parser, measure)
