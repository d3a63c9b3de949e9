"""What a receiver makes of the events of rules."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any


def open_incidents(events: Iterable[Mapping[str, Any]]) -> set[str]:
    """Return the incidents of rules, in the order of their events, that were not cleared."""
    stages = {e["details"]["incident_id"]: e["stage"] for e in events if not e["type"].startswith("SYSTEM_")}
    return {incident for incident, stage in stages.items() if stage != "CLEARED"}
