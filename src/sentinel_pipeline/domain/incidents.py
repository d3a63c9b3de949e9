"""Incidents that nobody looks after any more, and the events that close them: an alarm must not stay open for ever."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from sentinel_pipeline.domain.events import Event, EventStage, new_event_id
from sentinel_pipeline.domain.system_events import SYSTEM, as_first_told

STREAM_ENDED = "the stream has ended"
PROGRAM_ENDED = "the program has ended without closing it"


def closing(events: Sequence[Event]) -> list[Event]:
    """Return the events that clear what was open when the program was killed, oldest first.

    events: of its earlier lives, newest first. Each is cleared as of the last that was told of its stream. What is
    older than the oldest of them is a replay, and says nothing of what was open.
    """
    oldest_id = events[-1].event_id if events else ""  # UUIDv7: ordered by time
    newest: dict[str, Event] = {}
    last_ts: dict[str, float] = {}
    for event in as_first_told(events):
        last_ts[event.stream_id] = max(event.ts, last_ts.get(event.stream_id, event.ts))
        incident = event.details.get("incident_id")
        if event.module_name != SYSTEM and isinstance(incident, str) and event.event_id >= oldest_id:
            newest.setdefault(incident, event)
    return [_cleared(event, last_ts[event.stream_id]) for event in reversed(newest.values()) if _is_open(event)]


def is_momentary(details: Mapping[str, Any]) -> bool:
    """Return whether an event with these details is over when it is told: a crossed line, which nothing clears."""
    return "direction" in details


def _is_open(event: Event) -> bool:
    return event.stage is not EventStage.CLEARED and not is_momentary(event.details)


def _cleared(event: Event, ts: float) -> Event:
    details = {key: value for key, value in event.details.items() if key != "trace_ms"}
    return replace(
        event,
        event_id=new_event_id(),
        stage=EventStage.CLEARED,
        ts=ts,
        latency_ms=0.0,
        details={**details, "reason": PROGRAM_ENDED},
    )
