"""Text for people on a terminal, JSON lines for programs otherwise."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from typing import Any

from sentinel_pipeline.domain.errors import SentinelError
from sentinel_pipeline.domain.redact import redact


def machine(as_json: bool = False) -> bool:
    """Return whether standard output wants JSON lines."""
    return as_json or not sys.stdout.isatty()


def emit(value: Mapping[str, Any]) -> None:
    """Print one JSON line."""
    line = json.dumps(value, ensure_ascii=False)
    try:
        line.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:  # a terminal without Unicode, or half a character from a file name
        line = json.dumps(value)
    _write(line)


def say(text: str) -> None:
    """Print a line for a person, on standard output."""
    encoding = sys.stdout.encoding or "utf-8"
    _write(text.encode(encoding, "backslashreplace").decode(encoding))


def _write(line: str) -> None:
    try:
        sys.stdout.write(line + "\n")
        sys.stdout.flush()
    except BrokenPipeError:
        raise  # the reader had enough: no failure of ours to explain
    except OSError as exc:
        raise SentinelError(
            f"the output cannot be written: {exc.strerror}", remedy="free space there, or write elsewhere"
        ) from exc


def explain(text: str) -> None:
    """Print a text on standard error that was made for the reader, without redaction: it would mangle examples."""
    sys.stderr.write(text + "\n")


def complain(error: SentinelError | str) -> None:
    """Print one sentence and the remedy on standard error."""
    if isinstance(error, SentinelError):
        sys.stderr.write(f"error: {redact(error.args[0])}\n")
        if error.remedy:
            sys.stderr.write(f"  remedy: {redact(error.remedy)}\n")
    else:
        sys.stderr.write(redact(error) + "\n")
