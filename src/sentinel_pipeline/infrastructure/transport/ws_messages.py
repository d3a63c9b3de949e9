"""The messages that go over a WebSocket. Pure.

From us::

    {"type": "events", "ts": 1732406400.123, "events": [<wire form 1>, …]}

From the server, all optional; anything else of JSON object form goes to ``on_message``::

    {"type": "hello", "ack": true}        first message: "I acknowledge what I have stored"
    {"type": "ack", "ids": ["…", …]}      these events are stored (part of a batch, or several)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from sentinel_pipeline.infrastructure.transport.payload import json_array


@dataclass(frozen=True, slots=True)
class Hello:
    """The server says whether it acknowledges events."""

    ack: bool


@dataclass(frozen=True, slots=True)
class Ack:
    """The server has stored these events."""

    ids: frozenset[str]


def events_message(bodies: Sequence[bytes], now: float) -> str:
    """Return the message that carries a batch; ``now`` is the sending time in Unix seconds."""
    return f'{{"type":"events","ts":{now:.3f},"events":{json_array(bodies).decode()}}}'


def read_message(raw: str | bytes) -> Hello | Ack | dict[str, Any]:
    """Read what the server sent. Raises ``ValueError`` for what is not a JSON object, or no valid acknowledgement."""
    data = orjson.loads(raw)
    if not isinstance(data, dict):
        raise ValueError("not a JSON object")
    if data.get("type") == "hello":
        return Hello(data.get("ack") is True)
    if data.get("type") == "ack":
        ids = data.get("ids")
        if not isinstance(ids, list) or not all(isinstance(i, str) for i in ids):
            raise ValueError("an acknowledgement without a list of ids")
        return Ack(frozenset(ids))
    return data
