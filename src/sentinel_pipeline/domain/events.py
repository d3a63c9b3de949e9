"""What happened, and its wire form 1 (design section 6)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

import orjson
import uuid_utils

SCHEMA = 1


class EventStage(StrEnum):
    """The life of an incident: seen, seen long enough to believe it, gone."""

    DETECTED = "DETECTED"
    CONFIRMED = "CONFIRMED"
    CLEARED = "CLEARED"


def new_event_id() -> str:
    """Return a fresh UUIDv7 (RFC 9562 section 5.7): unique, and ordered by creation time."""
    return str(uuid_utils.uuid7())


@dataclass(frozen=True, slots=True)
class Event:
    """One event.

    ts: when the frame was captured, Unix seconds UTC (not when it was processed).
    confidence: in [0, 1].
    latency_ms: from capture to the moment the event was made.
    details: JSON values only; ``incident_id`` is the same for the stages of one incident.
    """

    type: str
    stage: EventStage
    stream_id: str
    module_name: str
    ts: float
    confidence: float = 1.0
    latency_ms: float = 0.0
    details: Mapping[str, Any] = field(default_factory=dict)
    event_id: str = field(default_factory=new_event_id)

    def to_wire(self) -> dict[str, Any]:
        """Return wire form 1 as a dictionary."""
        return {
            "schema": SCHEMA,
            "event_id": self.event_id,
            "type": self.type,
            "stage": str(self.stage),
            "stream_id": self.stream_id,
            "module_name": self.module_name,
            "ts": round(self.ts, 3),
            "ts_iso": iso(self.ts),
            "confidence": round(self.confidence, 4),
            "latency_ms": round(self.latency_ms, 1),
            "details": dict(self.details),
        }

    def encode(self) -> bytes:
        """Return wire form 1 as JSON, UTF-8."""
        return orjson.dumps(self.to_wire(), option=orjson.OPT_SERIALIZE_NUMPY)

    @classmethod
    def from_wire(cls, wire: Mapping[str, Any] | bytes) -> Event:
        """Read wire form 1. Raises ``ValueError`` naming the first thing that is wrong."""
        data = orjson.loads(wire) if isinstance(wire, bytes) else wire
        if not isinstance(data, Mapping):
            raise ValueError("an event must be a JSON object")
        if data.get("schema") != SCHEMA:
            raise ValueError(f"schema must be {SCHEMA}, not {data.get('schema')!r}")
        for key, kinds in _WIRE_TYPES.items():
            if not isinstance(data.get(key), kinds) or isinstance(data.get(key), bool):
                raise ValueError(f"{key} is missing or of the wrong type: {data.get(key)!r}")
        return cls(
            type=data["type"],
            stage=EventStage(data["stage"]),
            stream_id=data["stream_id"],
            module_name=data["module_name"],
            ts=float(data["ts"]),
            confidence=float(data["confidence"]),
            latency_ms=float(data["latency_ms"]),
            details=data["details"],
            event_id=data["event_id"],
        )


_WIRE_TYPES: dict[str, type | tuple[type, ...]] = {
    "event_id": str,
    "type": str,
    "stage": str,
    "stream_id": str,
    "module_name": str,
    "ts": (int, float),
    "ts_iso": str,
    "confidence": (int, float),
    "latency_ms": (int, float),
    "details": Mapping,
}


def iso(ts: float) -> str:
    """Return Unix seconds as ISO 8601 in UTC with milliseconds, ending in Z."""
    return datetime.fromtimestamp(round(ts, 3), UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
