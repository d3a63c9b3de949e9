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
    sys.stdout.write(json.dumps(value, ensure_ascii=False) + "\n")


def say(text: str) -> None:
    """Print a line for a person, on standard output."""
    sys.stdout.write(text + "\n")


def complain(error: SentinelError | str) -> None:
    """Print one sentence and the remedy on standard error."""
    if isinstance(error, SentinelError):
        sys.stderr.write(f"error: {redact(error.args[0])}\n")
        if error.remedy:
            sys.stderr.write(f"  remedy: {redact(error.remedy)}\n")
    else:
        sys.stderr.write(redact(error) + "\n")
