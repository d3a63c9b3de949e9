"""How a batch looks on the wire. Bodies are wire form 1, one encoded JSON object each (design section 6)."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal
from urllib.parse import quote

import orjson

Format = Literal["json", "cloudevents"]


def json_array(bodies: Sequence[bytes]) -> bytes:
    """Return a JSON array of the bodies, which are not decoded again."""
    return b"[" + b",".join(bodies) + b"]"


def cloudevents_batch(bodies: Sequence[bytes]) -> bytes:
    """Return a CloudEvents 1.0.2 batch (JSON batch format): ``source`` and ``id`` together are the dedupe key."""
    return orjson.dumps([_cloudevent(body) for body in bodies])


FORMATS: dict[Format, tuple[str, Callable[[Sequence[bytes]], bytes]]] = {
    "json": ("application/json", json_array),
    "cloudevents": ("application/cloudevents-batch+json", cloudevents_batch),
}


def event_ids(bodies: Sequence[bytes]) -> tuple[str, ...]:
    """Return the events' ids, in order."""
    return tuple(orjson.loads(body)["event_id"] for body in bodies)


def idempotency_key(ids: Iterable[str]) -> str:
    """Return a key that is the same for the same events in the same order, whoever asks and whenever."""
    return hashlib.sha256("\n".join(ids).encode()).hexdigest()[:32]


def _cloudevent(body: bytes) -> dict[str, Any]:
    event = orjson.loads(body)
    return {
        "specversion": "1.0",
        "id": event["event_id"],
        "source": f"/streams/{quote(event['stream_id'], safe='')}",
        "type": event["type"],
        "time": event["ts_iso"],
        "datacontenttype": "application/json",
        "data": orjson.Fragment(body),
    }
