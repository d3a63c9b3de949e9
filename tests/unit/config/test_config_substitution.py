"""``${VAR}``, ``${VAR:-default}``, ``${file:…}`` and ``$${``."""

from __future__ import annotations

from pathlib import Path

import pytest

from sentinel_pipeline.interface.config.substitution import SECRET_LIMIT, substitute

ENVIRON = {"NAME": "value", "EMPTY": "", "NESTED": "${NAME}", "GATE_PASSWORD": "s3cret"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain $ {text} $NAME", "plain $ {text} $NAME"),
        ("a ${NAME} b ${NAME}", "a value b value"),
        ("${EMPTY}", ""),
        ("${EMPTY:-default}", "default"),
        ("${UNSET:-default}", "default"),
        ("${UNSET:-}", ""),
        ("${UNSET:-a:-b}", "a:-b"),
        ("${NAME:-default}", "value"),
        ("$${NAME}", "${NAME}"),
        ("$${NAME} ${NAME}", "${NAME} value"),
        ("${NESTED}", "${NAME}"),
    ],
)
def test_config_substitution_fills_in(text: str, expected: str, tmp_path: Path) -> None:
    """Variables, defaults and escapes give the documented text, once: values are not substituted again."""
    result = substitute(text, ENVIRON, tmp_path)
    assert (result.text, result.faults) == (expected, ())


@pytest.mark.parametrize(
    ("text", "touched"), [("plain", False), ("$${NAME}", False), ("${NAME}", True), ("${U:-d}", True)]
)
def test_config_substitution_knows_what_came_from_outside(text: str, touched: bool, tmp_path: Path) -> None:
    """A text with a substitution in it is marked, because it may be a secret."""
    assert substitute(text, ENVIRON, tmp_path).touched is touched


@pytest.mark.parametrize(
    ("text", "message", "remedy"),
    [
        ("${UNSET}", "UNSET is not set", "${UNSET:-…}"),
        ("${GATE_PASWORD}", "GATE_PASWORD is not set", "did you mean GATE_PASSWORD?"),
        ("${NAME", "no closing", "$${"),
        ("${}", "does not hold the name", "${NAME}"),
        ("${1X}", "does not hold the name", "${NAME}"),
        ("${file:missing}", "does not exist", "relative to"),
        ("${file:.}", "not a plain file", "relative to"),
        ("${file:large}", "larger than 64 KiB", "relative to"),
        ("${file:binary}", "not UTF-8", "relative to"),
        ("${BYTES}", "BYTES is not UTF-8", "set BYTES again"),
    ],
)
def test_config_substitution_that_cannot_be_done(text: str, message: str, remedy: str, tmp_path: Path) -> None:
    """What is missing or unreadable is named with its remedy, and without any value."""
    (tmp_path / "large").write_bytes(b"x" * (SECRET_LIMIT + 1))
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    (fault,) = substitute(text, {**ENVIRON, "BYTES": "\udcff"}, tmp_path).faults
    assert message in fault.message
    assert remedy in fault.remedy
    assert "s3cret" not in fault.message + fault.remedy


def test_config_secret_files_lose_their_last_line_break_only(tmp_path: Path) -> None:
    """A secret written by ``echo`` ends in a line break that is no part of it; relative names are below the folder."""
    (tmp_path / "secret").write_bytes(b" s3cret \r\n")
    assert substitute("<${file:secret}>", {}, tmp_path).text == "< s3cret >"
    assert substitute(f"${{file:{tmp_path}/secret}}", {}, Path("/")).text == " s3cret "


def test_config_substitution_result_hides_its_text(tmp_path: Path) -> None:
    """The filled in text is not in the result's ``repr``."""
    assert "s3cret" not in repr(substitute("${GATE_PASSWORD}", ENVIRON, tmp_path))
