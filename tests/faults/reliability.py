"""Writes what the laboratory has seen into docs/reliability.md: ``python -m faults.reliability SEEN.jsonl DOCUMENT``.

Writes only between ``<!-- NAME:begin -->`` and ``<!-- NAME:end -->``, for ``faults``, ``figures`` and ``pains``.
"""

from __future__ import annotations

import ast
import json
import os
import platform
import re
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

TESTS = Path(__file__).parents[1]
ROWS = {
    "camera": "Cameras that are away, mute, broken or slow",
    "login": "Cameras that refuse",
    "picture": "Pictures that change",
    "publish": "Media servers and FFmpeg",
    "model": "Models",
    "receiver": "Receivers of events",
    "disk": "The disk, the outbox, `kill -9`",
    "clock": "Clocks",
    "process": "The process itself",
}
_PAIN = re.compile(r"pain (\d+(?:, \d+)*)(?:: ([^;.]+))?")


def pains() -> dict[int, list[str]]:
    """Return the pains that tests name in their docstrings, each with the tests: ``file::test``."""
    found: dict[int, list[str]] = {}
    for name, doc in _docstrings():
        for numbers, _ in _PAIN.findall(" ".join(doc.split())):
            for number in numbers.split(", "):
                found.setdefault(int(number), []).append(name)
    return dict(sorted(found.items()))


def _docstrings() -> Iterator[tuple[str, str]]:
    for path in sorted(TESTS.rglob("test_*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                yield f"{path.relative_to(TESTS)}::{node.name}", ast.get_docstring(node) or ""


def fault_table(entries: Iterable[dict[str, Any]]) -> str:
    """Return the faults as Markdown, one table for each row of the contract."""
    by_row: dict[str, list[dict[str, Any]]] = {}
    for entry in entries:
        if entry["kind"] == "fault":
            by_row.setdefault(entry["row"], []).append(entry)
    parts = []
    for row, title in ROWS.items():
        lines = [f"### {title}", "", "| fault | what was seen | noticed | back | SIGTERM |", "|---|---|--:|--:|--:|"]
        lines += [_fault_line(entry) for entry in by_row.get(row, [])]
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def _fault_line(entry: dict[str, Any]) -> str:
    seen = re.sub(r"127\.0\.0\.1:\d+", "HOST", entry["seen"]).replace("|", "\\|")
    seen = re.sub(r"[^ ]*/pytest-[^ ]*/", "", seen)
    times = (_seconds(entry[key]) for key in ("noticed_s", "recovered_s", "ended_s"))
    return f"| {entry['fault']} | {seen} | {' | '.join(times)} |"


def _seconds(value: float | None) -> str:
    if value is None:
        return ""
    return "at once" if value == 0 else f"{value:.1f} s"


def figure_table(entries: Iterable[dict[str, Any]]) -> str:
    """Return the figures as Markdown."""
    lines = ["| what | wanted | measured |", "|---|---|---|"]
    lines += [f"| {e['what']} | {e['wanted']} | {e['measured']} |" for e in entries if e["kind"] == "figure"]
    cores = os.cpu_count()
    lines += ["", f"Seen on {time.strftime('%Y-%m-%d')} on {cores} cores, {platform.system()} {platform.release()}."]
    return "\n".join(lines)


def pain_list() -> str:
    """Return the pains with the tests that name them, as Markdown."""
    lines = ["| pain | tests that name it |", "|--:|---|"]
    for number, tests in pains().items():
        lines.append(f"| {number} | {', '.join(f'`{test}`' for test in tests)} |")
    return "\n".join(lines)


def written(document: str, parts: dict[str, str]) -> str:
    """Return the document with its parts replaced."""
    for name, text in parts.items():
        begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
        if document.count(begin) != 1 or document.count(end) != 1:
            raise ValueError(f"the document needs {begin} and {end}, once each")
        head, _, rest = document.partition(begin)
        tail = rest.partition(end)[2]
        document = f"{head}{begin}\n{text}\n{end}{tail}"
    return document


def main(seen: Path, place: Path) -> None:
    """Write the document anew."""
    entries = [json.loads(line) for line in seen.read_text().splitlines()]
    newest = {(e["kind"], e["test"], e.get("fault") or e.get("what", "").split(" over ")[0]): e for e in entries}
    parts = {
        "faults": fault_table(newest.values()),
        "figures": figure_table(newest.values()),
        "pains": pain_list(),
    }
    place.write_text(written(place.read_text(), parts))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
