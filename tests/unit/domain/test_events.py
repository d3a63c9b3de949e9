"""Wire form 1."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sentinel_pipeline.domain.events import Event, EventStage, iso, new_event_id

EVENT = Event(
    "INTRUSION",
    EventStage.CONFIRMED,
    "gate",
    "someone-at-the-gate",
    1732406400.1234,
    0.83,
    41.7,
    {"incident_id": "x", "bbox": [1, 2, 3, 4]},
    "0192",
)


def test_events_wire_form_is_the_contract() -> None:
    """The encoded event has exactly the keys and the forms of design section 6."""
    assert json.loads(EVENT.encode()) == {
        "schema": 1,
        "event_id": "0192",
        "type": "INTRUSION",
        "stage": "CONFIRMED",
        "stream_id": "gate",
        "module_name": "someone-at-the-gate",
        "ts": 1732406400.123,
        "ts_iso": "2024-11-24T00:00:00.123Z",
        "confidence": 0.83,
        "latency_ms": 41.7,
        "details": {"incident_id": "x", "bbox": [1, 2, 3, 4]},
    }


@given(
    st.builds(
        Event,
        type=st.text(st.characters(codec="utf-8")),
        stage=st.sampled_from(EventStage),
        stream_id=st.text(st.characters(codec="utf-8")),
        module_name=st.text(st.characters(codec="utf-8")),
        ts=st.integers(0, 4_000_000_000_000).map(lambda ms: ms / 1000),
        confidence=st.integers(0, 10000).map(lambda n: n / 10000),
        latency_ms=st.integers(0, 10**6).map(lambda n: n / 10),
        details=st.dictionaries(st.text(st.characters(codec="utf-8")), st.integers(-(2**53), 2**53)),
    )
)
def test_events_round_trip(event: Event) -> None:
    """What is encoded is read back equal."""
    assert Event.from_wire(event.encode()) == event


@pytest.mark.parametrize(
    "change",
    [
        {"schema": 2},
        {"stage": "GONE"},
        {"ts": "now"},
        {"confidence": None},
        {"details": []},
        {"event_id": 7},
        {"ts": True},
    ],
    ids=str,
)
def test_events_refuses_what_is_not_wire_form_1(change: dict[str, object]) -> None:
    """A missing or wrong field is named."""
    with pytest.raises(ValueError, match=r"schema|GONE|missing"):
        Event.from_wire({**json.loads(EVENT.encode()), **change})


def test_events_refuses_what_is_no_object() -> None:
    """An array is no event."""
    with pytest.raises(ValueError, match="object"):
        Event.from_wire(b"[]")


def test_events_ids_are_unique_and_ordered() -> None:
    """Ids are UUIDv7: they sort in the order of their making."""
    ids = [new_event_id() for _ in range(1000)]
    assert len(set(ids)) == 1000
    assert ids == sorted(ids)
    assert {i[14] for i in ids} == {"7"}


def test_events_iso_rounds_like_ts() -> None:
    """The text form shows the same millisecond as the number."""
    assert iso(1.9996) == "1970-01-01T00:00:02.000Z"
