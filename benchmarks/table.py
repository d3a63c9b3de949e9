"""Writes the regression table of docs/performance.md from the files in benchmarks/results.

``python -m benchmarks.table``: figures with a target, one row each. What stands in the last column (the gap, and where
it goes) is written by people and kept, row by row, by the figure's name.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from benchmarks.report import RESULTS, say, short

PAGE = Path(__file__).parents[1] / "docs" / "performance.md"
BEGIN, END = "<!-- table -->", "<!-- /table -->"
_HEAD = ["figure", "target", "measured", "least..most", "", "run with", "gap, and where it goes"]


def main() -> int:
    """Rewrite the table in the page."""
    text = PAGE.read_text()
    before, _, rest = text.partition(BEGIN)
    old, found, after = rest.partition(END)
    if not found:
        say(f"{PAGE} has no {BEGIN} … {END}")
        return 1
    # The soak measures reliability, and has its own page.
    files = [path for path in sorted(RESULTS.glob("*.json")) if path.stem != "soak"]
    table = render([json.loads(path.read_text()) for path in files], gaps(old))
    PAGE.write_text(f"{before}{BEGIN}\n{table}{END}{after}")
    say(f"written: {PAGE}")
    return 0


def render(results: list[dict[str, Any]], kept: dict[str, str]) -> str:
    """Return the table in Markdown. ``kept``: the last column by the figure's name."""
    lines = [_line(_HEAD), _line(["---"] * len(_HEAD))]
    for result in results:
        for figure in result["figures"]:
            if "target" in figure:
                lines.append(_line(_cells(result["benchmark"], figure, kept)))
    return "\n".join([*lines, ""])


def gaps(table: str) -> dict[str, str]:
    """Return the last column of a table by the first."""
    rows = [[cell.strip() for cell in line.strip().strip("|").split("|")] for line in table.splitlines() if "|" in line]
    return {row[0]: row[-1] for row in rows if len(row) == len(_HEAD)}


def _cells(benchmark: str, figure: dict[str, Any], kept: dict[str, str]) -> list[str]:
    judged = figure.get("ratio", figure["value"])
    unit = "" if "ratio" in figure else figure["unit"]
    name = figure["name"].strip()
    measured = f"{judged['median']:.2f}" if "ratio" in figure else f"{short(judged['median'])} {unit}".strip()
    return [
        name,
        f"{figure['target']} {unit}".strip(),
        f"**{measured}**",
        f"{short(judged['min'])}..{short(judged['max'])}",
        "met" if figure["met"] else "missed",
        f"`{benchmark}`",
        kept.get(name, ""),
    ]


def _line(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"


if __name__ == "__main__":
    sys.exit(main())
