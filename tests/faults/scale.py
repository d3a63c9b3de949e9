"""How much of everything: a quick part for every run of the tests, all of it for `make faults`."""

from __future__ import annotations

import os

FULL = os.environ.get("SENTINEL_FAULTS") == "full"


def scaled(quick: int, full: int) -> int:
    """Return ``full`` under `make faults`, else ``quick``."""
    return full if FULL else quick
