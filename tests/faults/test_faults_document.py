"""docs/reliability.md: what it names exists, and the program that writes it works."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from faults.reliability import TESTS, fault_table, figure_table, pains, written

DOCUMENT = Path(__file__).parents[2] / "docs" / "reliability.md"


def test_every_test_that_the_document_names_exists() -> None:
    """Each `test_…` and `test_….py` in the document is a test or a file of this repository."""
    files = {path.name: path for path in TESTS.rglob("test_*.py")}
    functions = {name for path in files.values() for name in re.findall(r"def (test_\w+)", path.read_text())}
    named = set(re.findall(r"(?<![\w/])test_\w+(?:\.py)?", DOCUMENT.read_text()))
    missing = {name for name in named if name not in functions and name not in files}
    assert not missing
    assert len(named) > 20


def test_the_survey_of_pains_is_covered() -> None:
    """Every pain that concerns this program is named by a test, or by the document with the file that holds it."""
    elsewhere = {12, 14, 32, 33, 35, 36, 37, 38, 39, 51}
    not_ours = {5}  # OpenCV's background subtractor, which is not used
    assert set(range(1, 52)) - set(pains()) - elsewhere - not_ours == set()


def test_the_document_is_written_between_its_marks() -> None:
    """Faults and figures become tables; what stands around them stays; a document without marks is refused."""
    entries = [
        {"kind": "fault", "test": "t", "row": "camera", "fault": "stalls", "seen": "RECONNECTING: a | b at 127.0.0.1:7",
         "noticed_s": 1.04, "recovered_s": None, "ended_s": 0.4},
        {"kind": "figure", "test": "t", "what": "events lost", "wanted": "0", "measured": "0"},
    ]  # fmt: skip
    table = fault_table(entries)
    assert "| stalls | RECONNECTING: a \\| b at HOST | 1.0 s |  | 0.4 s |" in table
    assert "| events lost | 0 | 0 |" in figure_table(entries)
    assert written("a <!-- x:begin -->old<!-- x:end --> b", {"x": "new"}) == "a <!-- x:begin -->\nnew\n<!-- x:end --> b"
    with pytest.raises(ValueError, match="once each"):
        written("nothing", {"x": "new"})
