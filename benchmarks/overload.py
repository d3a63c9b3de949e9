"""Three times more analysis than the CPU carries: who is served, how old are the frames, does publishing go on?

How much the CPU carries is measured first, by the bare model on one thread, which is what one dispatcher has. The
streams together then ask for three times that.
"""

from __future__ import annotations

import argparse
from collections import Counter
from math import ceil
from typing import Any

from benchmarks import cameras, program, report
from benchmarks.events_only import model_ms
from benchmarks.figures import Figure, Target, quantile
from benchmarks.material import SMALL, Clip

STREAMS = 6
FPS = 25
TIMES = 3.0


def parser() -> argparse.ArgumentParser:
    """Return the options."""
    made = report.parser(__doc__)
    made.add_argument(
        "--window", type=float, default=0, help="seconds each run is watched (default 15, 5 with --quick)"
    )
    made.add_argument("--streams", type=int, default=STREAMS, help="(default %(default)s)")
    return made


def measure(options: argparse.Namespace) -> int:
    """Measure and report."""
    results = report.Report("overload", options)
    seconds = options.window or (5 if options.quick else 15)
    carried = 1000 / model_ms(10 if options.quick else 40)
    clip = Clip(*SMALL.size, fps=FPS, seconds=40, bitrate=SMALL.bitrate)
    count = max(options.streams, ceil(TIMES * carried / FPS))
    asked = TIMES * carried / count
    runs = []
    with cameras.relay() as relay, cameras.cameras(relay, clip.path(), count) as urls:
        for _ in range(options.pairs):
            runs.append(_run(urls, relay, asked, seconds))
    results.add(Figure("analysed rate, best stream by worst", "", tuple(r["unfair"] for r in runs), None, Target(1.3)))
    results.add(Figure("  analysed in all", "/s", tuple(r["analysed"] for r in runs)))
    for share in ("p50", "p95", "max"):
        target = Target(500) if share == "max" else None
        results.add(Figure(f"age of analysed frames, {share}", "ms", tuple(r[share] for r in runs), None, target))
    results.add(
        Figure(
            "published pictures, worst stream, share of due",
            "",
            tuple(r["published"] for r in runs),
            None,
            Target(0.98, "at least"),
        )
    )
    results.add(
        Figure(
            "frames unaccounted for (offered - analysed - dropped)",
            "share",
            tuple(r["lost"] for r in runs),
            None,
            Target(0.02),
        )
    )
    causes = sum((Counter(r["dropped_by"]) for r in runs), Counter[str]())
    results.note(
        f"{count} streams of 640x360 at {FPS} fps ask for {asked:.1f}/s each; the model alone does {carried:.0f}/s"
    )
    results.note("drops by cause, all runs: " + ", ".join(f"{name} {n}" for name, n in causes.most_common()))
    return results.finish()


def _run(urls: list[str], relay: Any, asked: float, seconds: float) -> dict[str, Any]:
    streams = {
        f"s{n}": {
            "source": url,
            "analyse": program.analyse(round(asked, 2)),
            "publish": {"url": relay.url(f"out{n}"), "fps": FPS, "bitrate": "800k"},
        }
        for n, url in enumerate(urls)
    }
    with program.program(program.configuration(streams)) as running:
        running.until_running(60)
        program.pause(2.0)
        window = running.window(seconds)
    rates = [window.count(name, "frames_analysed") / window.seconds for name in streams]
    dropped = sum((_drops(window, name) for name in streams), Counter[str]())
    ages = window.new("age_ms")
    offered = sum(min(asked * window.seconds, window.count(name, "frames_decoded")) for name in streams)
    of_analysis = sum(dropped[cause] for cause in ("analysis_busy", "too_old", "model"))
    return {
        "unfair": max(rates) / max(0.01, min(rates)),
        "analysed": sum(rates),
        "p50": quantile(ages, 0.5),
        "p95": quantile(ages, 0.95),
        "max": max(ages, default=0.0),
        "published": min(window.count(name, "frames_published") for name in streams) / (FPS * window.seconds),
        "lost": abs(offered - sum(rates) * window.seconds - of_analysis) / offered,
        "dropped_by": dropped,
    }


def _drops(window: program.Window, stream: str) -> Counter[str]:
    before, after = (look["streams"][stream]["dropped_by"] for look in (window.before, window.after))
    return Counter({cause: count - before.get(cause, 0) for cause, count in after.items()})


if __name__ == "__main__":
    report.main(parser, measure)
