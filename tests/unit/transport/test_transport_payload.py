"""How a batch looks on the wire, and what a server's messages mean."""

from __future__ import annotations

import json

import pytest

from sentinel_pipeline.domain.events import Event, EventStage
from sentinel_pipeline.infrastructure.transport.payload import (
    cloudevents_batch,
    event_ids,
    idempotency_key,
    json_array,
)
from sentinel_pipeline.infrastructure.transport.ws_messages import Ack, Hello, events_message, read_message

EVENTS = [Event("INTRUSION", EventStage.DETECTED, f"gate {i}", "rule", 1_732_406_400.123 + i) for i in range(3)]
BODIES = [event.encode() for event in EVENTS]


def test_json_array_holds_the_bodies_unchanged() -> None:
    """The array is assembled from the encoded bodies and reads back as the same events, in order."""
    assert [Event.from_wire(wire) for wire in json.loads(json_array(BODIES))] == [Event.from_wire(b) for b in BODIES]
    assert json_array([]) == b"[]"


def test_cloudevents_batch_has_the_required_attributes() -> None:
    """Each envelope is CloudEvents 1.0: id and source identify the event, data is wire form 1."""
    envelopes = json.loads(cloudevents_batch(BODIES))
    assert [e["id"] for e in envelopes] == [e.event_id for e in EVENTS]
    assert envelopes[0] == {
        "specversion": "1.0",
        "id": EVENTS[0].event_id,
        "source": "/streams/gate%200",
        "type": "INTRUSION",
        "time": "2024-11-24T00:00:00.123Z",
        "datacontenttype": "application/json",
        "data": json.loads(BODIES[0]),
    }


def test_websocket_message_is_the_documented_one() -> None:
    """The message is ``{"type": "events", "ts": …, "events": […]}``."""
    message = json.loads(events_message(BODIES, 12.3456))
    assert message == {"type": "events", "ts": 12.346, "events": [json.loads(b) for b in BODIES]}


def test_idempotency_key_depends_on_ids_and_order_only() -> None:
    """The same events give the same key at any time; others, or another order, another."""
    ids = event_ids(BODIES)
    assert idempotency_key(ids) == idempotency_key(list(ids))
    assert len({idempotency_key(ids), idempotency_key(ids[::-1]), idempotency_key(ids[:2])}) == 3


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        ('{"type":"hello","ack":true}', Hello(True)),
        ('{"type":"hello","ack":"yes"}', Hello(False)),
        ('{"type":"hello"}', Hello(False)),
        (b'{"type":"ack","ids":["a","b"]}', Ack(frozenset({"a", "b"}))),
        ('{"type":"restart","stream":"gate"}', {"type": "restart", "stream": "gate"}),
        ('{"no":"type"}', {"no": "type"}),
    ],
)
def test_server_messages_are_told_apart(raw: str | bytes, expected: object) -> None:
    """Greeting and acknowledgement are ours, every other object is the user's."""
    assert read_message(raw) == expected


@pytest.mark.parametrize(
    "raw",
    [
        *("", "nonsense", "[1]", "3", "null", b"\xff\xfe", "[" * 100_000),
        *('{"type":"ack"}', '{"type":"ack","ids":"a"}', '{"type":"ack","ids":[1]}'),
    ],
    ids=lambda raw: repr(raw[:20]),
)
def test_garbage_from_the_server_is_a_value_error(raw: str | bytes) -> None:
    """Nothing that a server can send raises anything else."""
    with pytest.raises(ValueError):  # noqa: PT011 - its text is the parser's
        read_message(raw)
