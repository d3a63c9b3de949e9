"""Events about the program itself: cameras lost and found, pictures of another size, receivers that take no events.

They have the wire form of all others, ``module_name`` ``system``, and pass through the same outbox to every sink.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime

from sentinel_pipeline.domain.events import Event, EventStage, iso, new_event_id

SYSTEM = "system"  # module_name of all of them, and stream_id of those that belong to no stream
STREAM_DOWN = "SYSTEM_STREAM_DOWN"
STREAM_UP = "SYSTEM_STREAM_UP"
RESOLUTION_CHANGED = "SYSTEM_RESOLUTION_CHANGED"
SINK_DOWN = "SYSTEM_SINK_DOWN"
SINK_UP = "SYSTEM_SINK_UP"


@dataclass(frozen=True, slots=True)
class Outage:
    """Something that is down. ``since``: Unix seconds. ``incident_id`` joins its two events."""

    since: float
    reason: str
    incident_id: str = field(default_factory=new_event_id)


def stream_down(stream_id: str, outage: Outage) -> Event:
    """Return the event of a camera that was lost, or was not there at the first try."""
    return _event(STREAM_DOWN, EventStage.DETECTED, stream_id, outage.since, outage)


def stream_up(stream_id: str, outage: Outage, ts: float) -> Event:
    """Return the event of a camera that delivers again; ``ts``: capture time of its first picture."""
    return _event(STREAM_UP, EventStage.CLEARED, stream_id, ts, outage, down_s=_lasted(outage, ts))


def resolution_changed(stream_id: str, old: tuple[int, int], new: tuple[int, int], ts: float) -> Event:
    """Return the event of a camera that sends pictures of another size, in pixels."""
    details = {"incident_id": new_event_id(), "from": list(old), "to": list(new)}
    return Event(RESOLUTION_CHANGED, EventStage.DETECTED, stream_id, SYSTEM, ts, details=details)


def sink_down(sink: str, outage: Outage, ts: float) -> Event:
    """Return the event of a receiver that takes no events; ``ts``: when that was certain."""
    return _event(SINK_DOWN, EventStage.DETECTED, SYSTEM, ts, outage, sink=sink)


def sink_up(sink: str, outage: Outage, ts: float) -> Event:
    """Return the event of a receiver that takes events again."""
    return _event(SINK_UP, EventStage.CLEARED, SYSTEM, ts, outage, sink=sink, down_s=_lasted(outage, ts))


def _event(kind: str, stage: EventStage, stream_id: str, ts: float, outage: Outage, **more: object) -> Event:
    details = {"incident_id": outage.incident_id, "reason": outage.reason, "since": iso(outage.since), **more}
    return Event(kind, stage, stream_id, SYSTEM, ts, details=details)


def _lasted(outage: Outage, ts: float) -> float:
    return round(max(0.0, ts - outage.since), 3)


def open_outages(events: Iterable[Event]) -> tuple[dict[str, Outage], dict[str, Outage]]:
    """Return what was down when the program ended, streams and sinks by id, from its events, newest first."""
    streams: dict[str, Outage | None] = {}
    sinks: dict[str, Outage | None] = {}
    for event in events:
        if event.type in (STREAM_DOWN, STREAM_UP):
            streams.setdefault(event.stream_id, _outage_of(event, STREAM_DOWN))
        elif event.type in (SINK_DOWN, SINK_UP):
            sinks.setdefault(str(event.details.get("sink", "")), _outage_of(event, SINK_DOWN))
    return _those_open(streams), _those_open(sinks)


def _outage_of(event: Event, down: str) -> Outage | None:
    if event.type != down:
        return None
    details = event.details
    try:
        since = datetime.fromisoformat(str(details.get("since"))).timestamp()
    except ValueError:
        since = event.ts
    return Outage(since, str(details.get("reason", "")), str(details.get("incident_id", "")))


def _those_open(known: dict[str, Outage | None]) -> dict[str, Outage]:
    return {name: outage for name, outage in known.items() if outage is not None}
