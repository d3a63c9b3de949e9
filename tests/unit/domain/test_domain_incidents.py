"""Incidents that a killed program has left open."""

from __future__ import annotations

from typing import Any

from sentinel_pipeline.domain.events import Event, EventStage
from sentinel_pipeline.domain.incidents import closing

DETECTED, CONFIRMED, CLEARED = EventStage.DETECTED, EventStage.CONFIRMED, EventStage.CLEARED


def told(stage: EventStage, incident: str, ts: float, stream: str = "gate", **details: Any) -> Event:
    return Event("INTRUSION", stage, stream, "zone", ts, 0.9, 12.0, {"incident_id": incident, **details})


def test_incidents_that_are_open_are_cleared_as_of_the_last_that_was_told() -> None:
    """Confirmed or only detected, each once, with what was known of it; later events of the stream come first."""
    oldest_first = [
        told(CONFIRMED, "y", 99.0, "yard"),
        told(DETECTED, "a", 11.0),
        told(CONFIRMED, "a", 12.0),
        told(DETECTED, "b", 10.0, trace_ms={"infer": 1.0}, label="person"),
        told(CLEARED, "y", 100.0, "yard"),
    ]
    events = oldest_first[::-1]
    told_of_b, told_of_a = closing(events)[::-1]
    assert [event.details["incident_id"] for event in (told_of_a, told_of_b)] == ["a", "b"]
    assert {(event.stage, event.ts, event.latency_ms) for event in (told_of_a, told_of_b)} == {(CLEARED, 12.0, 0.0)}
    assert told_of_b.details == {
        "incident_id": "b",
        "label": "person",
        "reason": "the program has ended without closing it",
    }
    assert len({event.event_id for event in (*events, told_of_a, told_of_b)}) == len(events) + 2


def test_incidents_that_are_over_stay_over() -> None:
    """Cleared ones, also after a replay of an older stage; crossed lines; the program's own; those without an id."""
    confirmed, cleared = told(CONFIRMED, "a", 1.0), told(CLEARED, "a", 2.0)
    own = Event("SYSTEM_STREAM_DOWN", DETECTED, "gate", "system", 1.0, details={"incident_id": "s"})
    assert closing([confirmed, cleared, confirmed]) == []
    assert closing([confirmed, cleared]) == []  # sent again, and the first copy is no longer there
    assert closing([]) == []
    assert closing([told(CONFIRMED, "l", 1.0, direction="left"), own, Event("X", DETECTED, "gate", "zone", 1.0)]) == []
