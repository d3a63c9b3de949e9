"""Events about the program itself: cameras, receivers, outputs and models lost and found, pictures of another size.

They have the wire form of all others, ``module_name`` ``system``, and pass through the same outbox to every sink.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Literal, TypeVar, get_args

from sentinel_pipeline.domain.events import Event, EventStage, iso, new_event_id

K = TypeVar("K")

SYSTEM = "system"  # module_name of all of them, and stream_id of those that belong to no stream
STREAM_DOWN = "SYSTEM_STREAM_DOWN"
STREAM_UP = "SYSTEM_STREAM_UP"
RESOLUTION_CHANGED = "SYSTEM_RESOLUTION_CHANGED"
OUTBOX_DAMAGED = "SYSTEM_OUTBOX_DAMAGED"
NOT_CONFIGURED = "no longer configured"  # the reason of an UP that closes the outage of what was taken out

Kind = Literal["sink", "publisher", "model"]


@dataclass(frozen=True, slots=True)
class Part:
    """What can be down beside a camera. ``name``: the sink's or the model's id, the output's redacted URL.

    stream_id: whose output it is; sinks and models belong to no stream.
    """

    kind: Kind
    name: str
    stream_id: str = SYSTEM


@dataclass(frozen=True, slots=True)
class Outage:
    """Something that is down. ``since``: Unix seconds. ``incident_id`` joins its two events."""

    since: float
    reason: str
    incident_id: str = field(default_factory=new_event_id)

    @property
    def moot(self) -> Outage:
        """The same outage as its second event tells it when nobody asks any more whether it is over."""
        return replace(self, reason=NOT_CONFIGURED)


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


def outbox_damaged(reason: str, aside: str, rescued: int, ts: float) -> Event:
    """Return the event of an outbox that was replaced. ``aside``: where the old file is, if anywhere."""
    named = _writable({"reason": reason, "set_aside": aside})
    details = {"incident_id": new_event_id(), **named, "rescued": rescued}
    return Event(OUTBOX_DAMAGED, EventStage.DETECTED, SYSTEM, SYSTEM, ts, details=details)


def part_down(part: Part, outage: Outage, ts: float) -> Event:
    """Return the event of a part that does not work, such as ``SYSTEM_SINK_DOWN``; ``ts``: when that was certain."""
    return _event(_type(part.kind, "DOWN"), EventStage.DETECTED, part.stream_id, ts, outage, **{part.kind: part.name})


def part_up(part: Part, outage: Outage, ts: float) -> Event:
    """Return the event of a part that works again."""
    named = {part.kind: part.name, "down_s": _lasted(outage, ts)}
    return _event(_type(part.kind, "UP"), EventStage.CLEARED, part.stream_id, ts, outage, **named)


def _type(kind: str, what: Literal["DOWN", "UP"]) -> str:
    return f"SYSTEM_{kind.upper()}_{what}"


def _event(kind: str, stage: EventStage, stream_id: str, ts: float, outage: Outage, **more: object) -> Event:
    details = {"incident_id": outage.incident_id, "reason": outage.reason, "since": iso(outage.since), **more}
    return Event(kind, stage, stream_id, SYSTEM, ts, details=_writable(details))


def _writable(details: dict[str, object]) -> dict[str, object]:
    """Return details that UTF-8 can carry: Python reads bytes of a path that are none as lone surrogates (PEP 383)."""
    return {
        key: value.encode("utf-8", "backslashreplace").decode() if isinstance(value, str) else value
        for key, value in details.items()
    }


def _lasted(outage: Outage, ts: float) -> float:
    return round(max(0.0, ts - outage.since), 3)


def open_outages(events: Iterable[Event]) -> tuple[dict[str, Outage], dict[Part, Outage]]:
    """Return what was down when the program ended, streams by id and other parts, from its events, newest first."""
    streams: dict[str, Outage | None] = {}
    parts: dict[Part, Outage | None] = {}
    for event in as_first_told(events):
        if event.type in (STREAM_DOWN, STREAM_UP):
            streams.setdefault(event.stream_id, _outage_of(event))
        elif event.type in _KINDS:
            kind = _KINDS[event.type]
            parts.setdefault(Part(kind, str(event.details.get(kind, "")), event.stream_id), _outage_of(event))
    return _those_open(streams), _those_open(parts)


def as_first_told(events: Iterable[Event]) -> list[Event]:
    """Return ``events``, newest first, without an operator's replays, which say nothing new: the oldest copy stays."""
    first_told: dict[str, Event] = {}
    for event in events:
        first_told.pop(event.event_id, None)  # to the place of the older copy
        first_told[event.event_id] = event
    return list(first_told.values())


_KINDS: dict[str, Kind] = {_type(kind, "DOWN"): kind for kind in get_args(Kind)} | {
    _type(kind, "UP"): kind for kind in get_args(Kind)
}


def _outage_of(event: Event) -> Outage | None:
    if event.stage is not EventStage.DETECTED:
        return None
    details = event.details
    try:
        since = datetime.fromisoformat(str(details.get("since"))).timestamp()
    except ValueError:
        since = event.ts
    return Outage(since, str(details.get("reason", "")), str(details.get("incident_id", "")))


def _those_open(known: dict[K, Outage | None]) -> dict[K, Outage]:
    return {name: outage for name, outage in known.items() if outage is not None}
