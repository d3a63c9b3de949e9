"""The thread that brings system events into the outbox: order per stream, nobody waits, nothing is lost."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence

import pytest
from structlog.testing import capture_logs

from sentinel_pipeline.application.event.encoding import encode_all
from sentinel_pipeline.application.event.outages import Condition, Doing
from sentinel_pipeline.application.event.stream_events import StreamEvents
from sentinel_pipeline.application.event.system_events import MOST, SystemEvents
from sentinel_pipeline.domain.errors import EventUnfit, OutboxError
from sentinel_pipeline.domain.events import Event, EventStage
from sentinel_pipeline.domain.system_events import Outage, Part, outbox_damaged


class Store:
    """Where events end up; refuses on demand."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.refusing = False
        self.attempts = 0
        self._changed = threading.Condition()

    def emit(self, events: Sequence[Event]) -> None:
        with self._changed:
            self.attempts += 1
            self._changed.notify_all()
            if self.refusing:
                raise OutboxError("disk full")
            self.events.extend(events)

    def wait(self, condition: Callable[[], object], timeout: float = 5.0) -> None:
        with self._changed:
            assert self._changed.wait_for(condition, timeout), self.types

    @property
    def types(self) -> list[str]:
        return [event.type.removeprefix("SYSTEM_") for event in self.events]


def settled() -> bool:
    return True


def intrusion(ts: float) -> Event:
    return Event("INTRUSION", EventStage.DETECTED, "gate", "zone", ts)


def test_system_events_tell_each_change_once() -> None:
    """Ten failed tries are one event, the return is another with the same incident, a return without a loss none."""
    store = Store()
    with SystemEvents(store.emit) as system:
        gate = system.stream("gate")
        gate.up(1.0)
        for attempt in range(10):
            gate.down(f"try {attempt}", 2.0 + attempt, settled)
        gate.up(20.0)
        gate.up(21.0)
        store.wait(lambda: len(store.events) == 2)
    assert store.types == ["STREAM_DOWN", "STREAM_UP"]
    down, up = store.events
    assert down.details["reason"] == "try 0"
    assert up.details["incident_id"] == down.details["incident_id"]
    assert up.details["down_s"] == 18.0


def test_system_events_wait_for_the_last_picture_and_hold_up_nobody_else() -> None:
    """The loss is stored after what the last picture before it showed; other streams do not wait for that."""
    store, done = Store(), threading.Event()
    with SystemEvents(store.emit) as system:
        gate, yard = system.stream("gate"), system.stream("yard")
        gate.down("gone", 10.0, done.is_set)
        gate.resized((4, 4), (8, 8), 11.0)
        yard.down("gone too", 10.5, settled)
        store.wait(lambda: store.types == ["STREAM_DOWN"])
        assert store.events[0].stream_id == "yard"
        gate.emit([intrusion(9.9)])
        done.set()
        store.wait(lambda: len(store.events) == 4)
    of_gate = [event for event in store.events if event.stream_id == "gate"]
    assert [event.ts for event in of_gate] == [9.9, 10.0, 11.0]


def test_system_events_never_go_back_in_a_stream_s_time() -> None:
    """An event whose picture is older than what is stored already gets the newer time, unless the clock was set."""
    store = Store()
    gate = StreamEvents("gate", store.emit, post=lambda _: None)
    gate.emit([intrusion(100.0)])
    gate.store(Event("SYSTEM_STREAM_UP", EventStage.CLEARED, "gate", "system", 99.0))
    gate.store(Event("SYSTEM_STREAM_UP", EventStage.CLEARED, "gate", "system", 101.0))
    gate.store(Event("SYSTEM_STREAM_UP", EventStage.CLEARED, "gate", "system", 5.0))
    assert [event.ts for event in store.events] == [100.0, 100.0, 101.0, 5.0]


def test_system_events_survive_an_outbox_that_refuses() -> None:
    """What is refused is kept in order and stored later; the rules' own events are refused as before."""
    store = Store()
    with SystemEvents(store.emit) as system:
        gate = system.stream("gate")
        store.refusing = True
        gate.down("gone", 1.0, settled)
        store.wait(lambda: store.attempts >= 1)
        gate.up(2.0)
        store.refusing = False
        store.wait(lambda: len(store.events) == 2)
    assert store.types == ["STREAM_DOWN", "STREAM_UP"]


def test_system_events_are_bounded_and_their_callers_never_wait() -> None:
    """An outbox that blocks keeps nobody waiting, and costs no more memory than the bound."""
    release, inside = threading.Event(), threading.Event()
    stored: list[Event] = []

    def blocking(events: Sequence[Event]) -> None:
        inside.set()
        release.wait(20)
        stored.extend(events)

    with SystemEvents(blocking) as system:
        gate = system.stream("gate")
        gate.down("gone", 0.0, settled)
        assert inside.wait(5)
        started = time.monotonic()
        for number in range(3 * MOST):
            gate.resized((4, 4), (8, 8), 1.0 + number)
        assert time.monotonic() - started < 1.0
        release.set()
    assert MOST <= len(stored) <= MOST + 1
    assert stored[-1].ts == 3.0 * MOST


def test_system_events_tell_of_a_part_that_is_down() -> None:
    """The thread looks at all that it was given to watch by itself."""
    store = Store()
    vms, people = Part("sink", "vms"), Part("model", "people")
    with SystemEvents(store.emit) as system:
        system.watch(lambda: {vms: Condition(Doing.DOWN, "401", 0)})
        system.watch(lambda: {people: Condition(Doing.DOWN, "stuck", 0)})
        store.wait(lambda: store.types == ["SINK_DOWN", "MODEL_DOWN"])
    assert store.events[0].details["sink"] == "vms"
    assert store.events[1].details["model"] == "people"


def test_system_events_tell_what_others_have_noticed() -> None:
    """A replaced outbox is told once, in the wire form of all events, with where the old file is."""
    store = Store()
    with SystemEvents(store.emit) as system:
        system.tell(outbox_damaged("var/outbox.db was damaged", "var/outbox.db.corrupt-1", 7, 5.0))
        store.wait(lambda: store.types == ["OUTBOX_DAMAGED"])
    event = Event.from_wire(store.events[0].encode())
    assert (event.stream_id, event.module_name, event.stage) == ("system", "system", EventStage.DETECTED)
    assert (event.details["set_aside"], event.details["rescued"]) == ("var/outbox.db.corrupt-1", 7)


def test_system_events_go_on_with_an_outage_of_an_earlier_life() -> None:
    """What was left open is not told again, and its end is told with the old incident."""
    store, outage = Store(), Outage(100.0, "gone")
    with SystemEvents(store.emit, streams_down={"gate": outage}) as system:
        assert system.stream("gate") is system.stream("gate")
        system.stream("gate").down("still gone", 200.0, settled)
        system.stream("gate").up(300.0)
        store.wait(lambda: store.events)
    (up,) = store.events
    assert (up.type, up.details["incident_id"], up.details["down_s"]) == ("SYSTEM_STREAM_UP", outage.incident_id, 200.0)


def test_system_events_close_stores_what_waits_and_does_not_hang() -> None:
    """Closing stores what waits for an analysis that never finishes; a second close does nothing."""
    store = Store()
    system = SystemEvents(store.emit)
    with system:
        system.stream("gate").down("gone", 1.0, lambda: False)
        started = time.monotonic()
    assert time.monotonic() - started < 1.0
    assert store.types == ["STREAM_DOWN"]
    system.close()


@pytest.mark.parametrize("poison", [{"x": "\udcff"}, {"x": object()}], ids=["no UTF-8", "no JSON"])
def test_system_events_drop_what_can_never_be_stored(poison: dict[str, object]) -> None:
    """An event that JSON cannot carry is dropped and said; the next one of its stream is stored."""
    stored: list[Event] = []

    def emit(events: Sequence[Event]) -> None:
        encode_all(events)
        stored.extend(events)

    with capture_logs() as logs, SystemEvents(emit) as system:
        system.tell(Event("POISON", EventStage.DETECTED, "system", "system", 1.0, details=poison))
        system.tell(outbox_damaged("damaged", "", 0, 2.0))
    assert [event.type for event in stored] == ["SYSTEM_OUTBOX_DAMAGED"]
    assert [line["log_level"] for line in logs] == ["error"]


@pytest.mark.parametrize("ts", [1e20, float("nan"), float("inf")])
def test_events_without_a_date_are_unfit(ts: float) -> None:
    """A time that is no date is the event's fault for good, not the disk's for now."""
    with pytest.raises(EventUnfit, match="cannot be written as JSON"):
        encode_all([Event("X", EventStage.DETECTED, "gate", "zone", ts)])


def test_system_events_close_the_outages_of_what_was_taken_out() -> None:
    """A stream, an output and a stream of an earlier life that are not configured any more are closed, others not."""
    store, outage = Store(), Outage(1.0, "gone")
    out, vms = Part("publisher", "rtsp://h/yard", "yard"), Part("sink", "vms")
    left = {"old": outage, "kept": outage}
    with SystemEvents(store.emit, streams_down=left, parts_down={out: outage, vms: outage}) as system:
        for name in ("gate", "yard"):
            system.stream(name).down("gone", 1.0, settled)
        system.keep({"gate", "kept"}, {vms})
        store.wait(lambda: len(store.events) == 5)
    ups = [event for event in store.events if event.type.endswith("_UP")]
    assert sorted((event.type, event.stream_id) for event in ups) == [
        ("SYSTEM_PUBLISHER_UP", "yard"),
        ("SYSTEM_STREAM_UP", "old"),
        ("SYSTEM_STREAM_UP", "yard"),
    ]
    assert {event.details["reason"] for event in ups} == {"no longer configured"}
