"""What every benchmark has in common: its options, its table, its JSON file."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks import machine
from benchmarks.figures import Figure
from sentinel_pipeline.interface.logs import configure_logging

RESULTS = Path(__file__).parent / "results"
DEFAULT_PAIRS = 5


class Report:
    """Collects the figures of one benchmark; ``finish`` prints and writes them."""

    def __init__(self, name: str, options: argparse.Namespace) -> None:
        self._name, self._options = name, options
        self._machine = machine.describe()
        self._busy, self._all = machine.busy_jiffies()
        self._started = time.monotonic()
        self._figures: list[Figure] = []
        self._notes: list[str] = []
        self._details: dict[str, Any] = {}
        say(f"{name}: {machine.summary(self._machine)}")

    @property
    def quick(self) -> bool:
        """Whether this run only shows that it works."""
        return bool(self._options.quick)

    def add(self, figure: Figure) -> None:
        """Take in a figure."""
        self._figures.append(figure)

    def note(self, text: str) -> None:
        """Take in a sentence that a reader of the table has to know."""
        self._notes.append(text)

    def detail(self, name: str, value: Any) -> None:
        """Take in anything that belongs into the JSON file only."""
        self._details[name] = value

    def finish(self) -> int:
        """Print the table, write the file; return the exit code: 1 when ``--check`` is given and a target missed."""
        data = self.to_json()
        Console(width=150 if not sys.stdout.isatty() else None).print(self._table())
        for note in self._notes:
            say(f"  {note}")
        say(f"  machine busy {data['machine_busy']:.0%} of the time, {data['took_s']:.0f} s")
        path = self._options.out or RESULTS / f"{self._name}.json"
        if self._options.out or not self._options.quick:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(data, indent=1, ensure_ascii=False) + "\n")
            say(f"  written to {path}")
        missed = [figure.name for figure in self._figures if figure.met is False]
        return 1 if missed and self._options.check else 0

    def to_json(self) -> dict[str, Any]:
        """Return everything."""
        busy, total = machine.busy_jiffies()
        return {
            "benchmark": self._name,
            "date": time.strftime("%Y-%m-%d %H:%M", time.gmtime()),
            "quick": self._options.quick,
            "machine": self._machine,
            "machine_busy": round((busy - self._busy) / max(1, total - self._all), 3),
            "took_s": round(time.monotonic() - self._started, 1),
            "figures": [figure.to_json() for figure in self._figures],
            "notes": self._notes,
            "details": self._details,
        }

    def _table(self) -> Table:
        table = Table(header_style="bold", box=None, pad_edge=False)
        for column, where in _COLUMNS:
            table.add_column(column, justify=where)  # type: ignore[arg-type]
        for figure in self._figures:
            table.add_row(*_row(figure))
        return table


_COLUMNS = (
    ("figure", "left"), ("median", "right"), ("min..max", "right"), ("floor", "right"), ("ratio", "right"),
    ("min..max", "right"), ("target", "right"), ("", "left"),
)  # fmt: skip


def _row(figure: Figure) -> list[str]:
    ratios = figure.ratios
    return [
        figure.name,
        f"{short(median(figure.values))} {figure.unit}",
        _range(figure.values),
        short(median(figure.floor)) if figure.floor else "",
        f"{median(ratios):.3f}" if ratios else "",
        _range(ratios) if ratios else "",
        str(figure.target or ""),
        {True: "met", False: "MISSED", None: ""}[figure.met],
    ]


def _range(values: Sequence[float]) -> str:
    return f"{short(min(values))}..{short(max(values))}" if len(values) > 1 else ""


def short(value: float) -> str:
    """Return a number with three significant digits, as people write it."""
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"


def say(text: str) -> None:
    """Write a line to stdout at once."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def parser(doc: str | None) -> argparse.ArgumentParser:
    """Return a parser with the options that all benchmarks have."""
    made = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument(
        "--quick", action="store_true", help="small sizes, one pair: shows that it works, measures little"
    )
    made.add_argument("--pairs", type=int, default=0, help=f"paired runs (default {DEFAULT_PAIRS}, 1 with --quick)")
    made.add_argument(
        "--out", type=Path, help="the JSON file (default benchmarks/results/NAME.json; none with --quick)"
    )
    made.add_argument("--check", action="store_true", help="exit with 1 when a target is missed")
    return made


def main(make: Callable[[], argparse.ArgumentParser], measure: Callable[[argparse.Namespace], int]) -> None:
    """Parse the options, measure, exit."""
    options = make().parse_args()
    configure_logging("auto", "error")
    options.pairs = options.pairs or (1 if options.quick else DEFAULT_PAIRS)
    sys.exit(measure(options))
