"""YAML and JSON into a tree that knows its lines."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from sentinel_pipeline.interface.config.problems import ConfigProblems, Problem
from sentinel_pipeline.interface.config.reading import FILE_LIMIT, read_document
from sentinel_pipeline.interface.config.tree import Document


def read(tmp_path: Path, text: str | bytes, environ: Mapping[str, str] | None = None, name: str = "a.yaml") -> Any:
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_document(path, environ or {})


def fatal(tmp_path: Path, text: str | bytes) -> Problem:
    with pytest.raises(ConfigProblems) as caught:
        read(tmp_path, text)
    (problem,) = caught.value.problems
    return problem


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("yes", "yes"),
        ("on", "on"),
        ("true", True),
        ("FALSE", False),
        ("null", None),
        ("~", None),
        ("", None),
        ("12", 12),
        ("-0x1F", "-0x1F"),
        ("0x1F", 31),
        ("0o17", 15),
        ("1:30", "1:30"),
        ("1_000", "1_000"),
        ("1e3", 1000.0),
        (".5", 0.5),
        ("2026-11-24", "2026-11-24"),
        ("'12'", "12"),
        ("!!str 12", "12"),
        ("9" * 60, "9" * 60),
        ("${N}", "5"),
    ],
)
def test_config_scalars_follow_yaml_1_2(tmp_path: Path, written: str, value: object) -> None:
    """Scalars have the types of YAML 1.2's core schema, not the surprises of 1.1."""
    document, problems = read(tmp_path, f"key: {written}\n", {"N": "5"})
    assert problems == []
    assert document.root.plain() == {"key": value}
    assert type(document.root.plain()["key"]) is type(value)


def test_config_tree_knows_lines_and_columns(tmp_path: Path) -> None:
    """Every value knows where it stands, in block and in flow style; a missing one is where its parent is."""
    document, _ = read(tmp_path, "a:\n  b: [1, {c: two}]\n  d: |\n    text\n")
    places = {
        path: document.locate(path)
        for path in [("a",), ("a", "b"), ("a", "b", 0), ("a", "b", 1, "c"), ("a", "d"), ("a", "missing")]
    }
    assert [(mark.line, mark.column) for mark in places.values()] == [(1, 1), (2, 3), (2, 7), (2, 14), (3, 6), (1, 1)]


def test_config_json_is_read_as_json(tmp_path: Path) -> None:
    """JSON with tabs, escapes and surrogate pairs gives what the JSON parser gives, with lines."""
    text = '{\n\t"a": {"b": [1, 2.5e3, true, null, "x\\/\\u00e9\\ud83d\\ude00"]},\n\t"c": ""\n}\n'
    document, problems = read(tmp_path, text, name="a.json")
    assert problems == []
    assert document.root.plain() == json.loads(text)
    assert document.locate(("c",)).line == 3


def test_config_aliases_and_merges_work(tmp_path: Path) -> None:
    """An alias is the anchor's value, and ``<<`` gives defaults that a mapping's own keys override."""
    document, problems = read(tmp_path, "a: &a {x: 1, y: 1}\nb: &b {y: 2, z: 2}\nc: {<<: [*a, *b], x: 3}\nd: *a\n")
    assert problems == []
    assert document.root.plain()["c"] == {"x": 3, "y": 1, "z": 2}
    assert document.root.plain()["d"] == {"x": 1, "y": 1}


@pytest.mark.parametrize(
    ("text", "line", "message", "remedy"),
    [
        ("", 1, "the file is empty", "version: 1"),
        ("# nothing\n", 1, "the file is empty", "version: 1"),
        ("- a\n", 1, "must be a mapping", "version: 1"),
        ("a: 1\n\tb: 2\n", 2, "not YAML", "tabs"),
        ("a: 1\nb: @x\n", 2, "not YAML", "quotes"),
        ("a: 1\nb: c: d\n", 2, "not YAML", "quotes"),
        ("a: 1\nb: *s3cret\n", 2, "undefined alias", "quotes"),
        ("a: [1,\n2\n", 3, "not YAML", "bracket"),
        ("a: 'x\n", 2, "not YAML", "quote"),
        ('a: "\\q"\n', 1, "escape", "single quotes"),
        ("a: 1\n---\nb: 2\n", 2, "another document", "---"),
        ("a: 1\n b: 2\n", 2, "not YAML", "quotes"),
        ("a: 1\nb: \x07\n", 2, "U+0007", "remove it"),
        ("a: " + "[" * 100 + "\n", 1, "nested more than", "right file"),
        (b"a: 1\nb: \xff\n", 2, "not UTF-8", "UTF-8"),
        ("a: 1\n".encode("utf-16"), 1, "not UTF-8", "UTF-8"),
        (b"#" * (FILE_LIMIT + 1), 1, "larger than 4 MiB", "right file"),
    ],
    ids=lambda value: repr(value)[:30],
)
def test_config_unreadable_files_are_explained(
    tmp_path: Path, text: str | bytes, line: int, message: str, remedy: str
) -> None:
    """A file that is no configuration at all gives one problem with the line and a remedy, quoting nothing of it."""
    problem = fatal(tmp_path, text)
    assert (problem.line, message in problem.message, remedy in problem.remedy) == (line, True, True), str(problem)
    assert "s3cret" not in str(problem)


@pytest.mark.parametrize("name", ["missing.yaml", ".", "a\0b"])
def test_config_file_that_cannot_be_opened(tmp_path: Path, name: str) -> None:
    """A missing file, a folder and an impossible name are problems, too."""
    with pytest.raises(ConfigProblems, match="cannot be read"):
        read_document(tmp_path / name, {})


@pytest.mark.parametrize(
    ("text", "line", "where", "message"),
    [
        ("a: 1\nb: 2\na: 3\n", 3, "a", "twice; first in line 1"),
        ("a: {x: 1, x: 2}\n", 1, "a.x", "twice"),
        ("a:\n  - !thing 1\n", 2, "a[0]", "tag"),
        ("a: !!python/object:os.system x\n", 1, "a", "tag"),
        ("a: &a [1, *a]\n", 1, "a[1]", "contains itself"),
        ("? [x]\n: 1\n", 1, "", "a key must be text"),
        ("a: {<<: 5}\n", 1, "a", "only mappings can be merged"),
        ('a: "\\ud83d"\n', 1, "a", "half of a character"),
        ("a: ${NOPE}\n", 1, "a", "NOPE is not set"),
    ],
)
def test_config_faults_in_the_tree_do_not_stop_the_reading(
    tmp_path: Path, text: str, line: int, where: str, message: str
) -> None:
    """A fault in one value is reported with line and path, and the rest of the file is still read."""
    document, problems = read(tmp_path, text + "last: 1\n")
    assert isinstance(document, Document)
    assert document.root.plain()["last"] == 1
    (problem,) = problems
    assert (problem.line, problem.where, message in problem.message) == (line, where, True), str(problem)


@pytest.mark.parametrize("width", [1, 9], ids=["deep", "wide"])
def test_config_aliases_cannot_blow_up(tmp_path: Path, width: int) -> None:
    """Aliases of aliases that stand for a huge or very deep value are refused instead of being written out."""
    lines = ["a0: &a0 [x]"] + [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * width)}]" for n in range(1, 60)]
    with pytest.raises(ConfigProblems) as caught:
        read(tmp_path, "\n".join(lines))
    assert all("too large" in problem.message for problem in caught.value.problems)
