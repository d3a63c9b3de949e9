"""The emitter: durable on return, every sink on its own, and an end within two seconds."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from sentinel_pipeline.application.event import emitter as emitter_module
from sentinel_pipeline.application.event import sink_thread
from sentinel_pipeline.application.event.delivery import DeliverySettings
from sentinel_pipeline.application.event.emitter import EventEmitter
from sentinel_pipeline.application.event.memory_outbox import MemoryOutbox
from sentinel_pipeline.application.event.memory_transport import MemoryTransport
from sentinel_pipeline.application.ports import Batch
from sentinel_pipeline.domain.errors import DeliveryError, OutboxError, OutboxFull, Rejected, SinkGone
from sentinel_pipeline.domain.events import Event, EventStage
from sentinel_pipeline.infrastructure.storage.outbox import SqliteOutbox

QUICK = DeliverySettings(max_wait=0.0, base_delay=0.01, max_delay=0.02)


def event(number: int, stage: EventStage = EventStage.DETECTED) -> Event:
    return Event("INTRUSION", stage, "gate", "rule", ts=float(number))


def both(one: MemoryTransport, two: MemoryTransport, outbox: MemoryOutbox | None = None) -> EventEmitter:
    return EventEmitter(outbox, {"one": one, "two": two}, {"one": QUICK, "two": QUICK})


class Held(MemoryTransport):
    """Does not answer until released."""

    def __init__(self) -> None:
        super().__init__()
        self.busy = threading.Event()
        self._release = asyncio.Event()

    async def send(self, batch: Batch) -> None:
        self.attempts.append(batch)
        self.busy.set()
        await self._release.wait()


def test_emitter_delivers_to_every_sink() -> None:
    """Both sinks get all events in order; counts and the report say so."""
    one, two = MemoryTransport(), MemoryTransport([DeliveryError("503")])
    with both(one, two) as emitter:
        emitter.emit(event(0))
        emitter.emit([event(1, EventStage.CONFIRMED), event(2, EventStage.CLEARED)])
        emitter.emit([])
        assert emitter.flush(5)
        report = emitter.snapshot()
    assert [int(got.ts) for got in one.events] == [0, 1, 2]
    assert [int(got.ts) for got in two.events] == [0, 1, 2]
    assert report["one"] == {
        "state": "up",
        "circuit": "closed",
        "delivered": 3,
        "retried": 0,
        "dead": 0,
        "pending": 0,
        "oldest_pending_s": 0.0,
        "dropped": 0,
        "reason": "",
    }
    assert report["two"]["retried"] == 1
    assert emitter.emitted() == {("INTRUSION", stage): 1 for stage in ("DETECTED", "CONFIRMED", "CLEARED")}


class LateOutbox(MemoryOutbox):
    """The batch has left it when ``left`` is set; the caller hears of that when ``told`` is."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.told = threading.Event(), threading.Event()

    def ack(self, batch: Batch) -> None:
        super().ack(batch)
        self.left.set()
        assert self.told.wait(5)


def test_emitter_flush_waits_until_what_was_delivered_is_counted() -> None:
    """The last report of a program says how much was delivered: it is made when ``flush`` returns."""
    outbox = LateOutbox()
    with EventEmitter(outbox, {"vms": MemoryTransport()}) as emitter:
        emitter.emit(event(1))
        assert outbox.left.wait(5)
        assert outbox.backlog("vms").pending == 0
        assert not emitter.flush(0.1)
        outbox.told.set()
        assert emitter.flush(5)
        assert emitter.snapshot()["vms"]["delivered"] == 1


def test_emitter_slow_sink_does_not_slow_another() -> None:
    """While one receiver does not answer at all, the other one gets everything."""
    stuck, fine = Held(), MemoryTransport()
    with both(stuck, fine) as emitter:
        emitter.emit([event(number) for number in range(5)])
        assert stuck.busy.wait(5)
        emitter.emit([event(number) for number in range(5, 10)])
        while len(fine.events) < 10:
            assert not emitter.flush(0.02)
        assert emitter.snapshot()["one"]["pending"] == 10


def test_emitter_close_keeps_what_is_under_way(tmp_path: Path) -> None:
    """Closing with a request in flight takes well under two seconds; the next start sends it under the same key."""
    stuck, working = Held(), MemoryTransport()
    with SqliteOutbox(tmp_path / "outbox.db") as outbox:
        with EventEmitter(outbox, {"vms": stuck}, {"vms": QUICK}) as emitter:
            emitter.emit(event(1))
            assert stuck.busy.wait(5)
            begun = time.monotonic()
            under_way = outbox.next_batch("vms", 9)
        assert time.monotonic() - begun < 1.0
        emitter.close()
        emitter.emit(event(2))
        with EventEmitter(outbox, {"vms": working}, {"vms": QUICK}) as again:
            assert again.flush(5)
    assert under_way is not None
    assert working.attempts[0] == under_way
    assert [int(got.ts) for got in working.events] == [1, 2]


def test_emitter_hands_events_to_a_plain_callable() -> None:
    """The infrastructure document's way: a callable gets decoded events; False and exceptions mean again."""
    emitter = EventEmitter()
    outcomes: Iterator[bool | Exception] = iter([False, ValueError("not today"), True, True])
    calls: list[list[Event]] = []

    def transport(events: list[Event]) -> bool:
        calls.append(events)
        outcome = next(outcomes)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    emitter._settings["sync"] = QUICK
    emitter.set_sync_transport(transport)
    try:
        sent = event(7)
        emitter.emit(sent)
        assert emitter.flush(5)
        assert calls == [[sent]] * 3
        assert emitter.snapshot()["sync"]["delivered"] == 1
        emitter.set_sync_transport(None)
        emitter.emit(event(8))
        assert emitter.flush(5)
        assert len(calls) == 3
        assert emitter.snapshot() == {}
    finally:
        emitter.close()


def test_emitter_callable_keeps_the_meaning_of_transport_errors() -> None:
    """A callable that raises ``Rejected`` has the event parked, not repeated for ever."""

    def transport(events: list[Event]) -> bool:
        raise Rejected("422")

    with EventEmitter(settings={"sync": QUICK}) as emitter:
        emitter.set_sync_transport(transport)
        emitter.emit(event(1))
        assert emitter.flush(5)
        assert emitter.snapshot()["sync"]["dead"] == 1


def test_emitter_parks_a_stored_event_that_cannot_be_read_back() -> None:
    """An event whose confidence was no number is parked for the callable; the ones around it arrive."""
    got: list[Event] = []

    def transport(events: list[Event]) -> bool:
        got.extend(events)
        return True

    with EventEmitter(settings={"sync": QUICK}) as emitter:
        emitter.set_sync_transport(transport)
        bad = Event("X", EventStage.DETECTED, "gate", "rule", ts=2.0, confidence=float("nan"))
        emitter.emit([event(1), bad, event(3)])
        assert emitter.flush(5)
        assert [int(each.ts) for each in got] == [1, 3]
        assert emitter.snapshot()["sync"]["dead"] == 1


def test_emitter_close_does_not_wait_for_a_callable_that_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody else's blocked code cannot hold up the end beyond the deadline; it ends when that code returns."""
    monkeypatch.setattr(emitter_module, "CLOSE_S", 0.1)
    inside, release = threading.Event(), threading.Event()

    def transport(events: list[Event]) -> bool:
        inside.set()
        return release.wait(10)

    emitter = EventEmitter(settings={"sync": QUICK})
    emitter.set_sync_transport(transport)
    emitter.emit(event(1))
    assert inside.wait(5)
    begun = time.monotonic()
    emitter.close()
    assert time.monotonic() - begun < 1.0
    release.set()


def test_emitter_reports_a_receiver_that_is_gone() -> None:
    """410: the sink's thread ends, its state and reason stay readable, the events stay pending."""
    gone = MemoryTransport([SinkGone("410 Gone")])
    with EventEmitter(None, {"vms": gone}, {"vms": QUICK}) as emitter:
        emitter.emit(event(1))
        assert not emitter.flush(0.2)
        assert emitter._threads["vms"].join(5)
        report = emitter.snapshot()["vms"]
    assert (report["state"], report["reason"], report["pending"]) == ("stopped", "410 Gone", 1)


def test_emitter_counts_only_what_was_accepted() -> None:
    """A refused event raises, and is neither counted nor delivered."""
    stuck = Held()
    outbox = MemoryOutbox(max_events=1, when_full="refuse")
    with EventEmitter(outbox, {"vms": stuck}, {"vms": QUICK}) as emitter:
        emitter.emit(event(1))
        with pytest.raises(OutboxFull, match="1 events"):
            emitter.emit(event(2))
    assert emitter.emitted() == {("INTRUSION", "DETECTED"): 1}


def test_emitter_report_survives_a_closed_outbox(tmp_path: Path) -> None:
    """The report shows the last known backlog when the outbox no longer answers; ``flush`` says no."""
    outbox = SqliteOutbox(tmp_path / "outbox.db")
    outbox.open()
    with EventEmitter(outbox, {"vms": Held()}, {"vms": QUICK}) as emitter:
        emitter.emit(event(1))
        assert emitter.snapshot()["vms"]["pending"] == 1
        outbox.close()
        assert emitter.snapshot()["vms"]["pending"] == 1
        assert not emitter.flush(0.05)
        with pytest.raises(OutboxError, match="not open"):
            emitter.emit(event(2))


def test_emitter_goes_on_after_a_stray_cancellation(monkeypatch: pytest.MonkeyPatch) -> None:
    """A transport that lets out a cancellation which nobody asked for costs a pause, not the sink."""
    monkeypatch.setattr(sink_thread, "AFTER_DEFECT_S", 0.01)
    transport = MemoryTransport([asyncio.CancelledError()])
    with EventEmitter(None, {"vms": transport}, {"vms": QUICK}) as emitter:
        emitter.emit(event(1))
        assert emitter.flush(5)
    assert len(transport.attempts) == 2


class Defective(MemoryOutbox):
    """Has a bug that shows once."""

    failures = 1

    def next_batch(self, sink: str, max_events: int) -> Batch | None:
        if self.failures:
            self.failures -= 1
            raise KeyError("http://u:hush-hush@host/")
        return super().next_batch(sink, max_events)


def test_emitter_goes_on_after_a_defect_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """A bug in our own code costs a pause and a redacted traceback in the log, not the sink and not an event."""
    monkeypatch.setattr(sink_thread, "AFTER_DEFECT_S", 0.01)
    transport = MemoryTransport()
    with capture_logs() as logs, EventEmitter(Defective(), {"vms": transport}, {"vms": QUICK}) as emitter:
        emitter.emit(event(1))
        assert emitter.flush(5)
    assert [int(got.ts) for got in transport.events] == [1]
    assert "KeyError" in logs[0]["traceback"]
    assert "hush-hush" not in str(logs)


def test_emitter_refuses_a_sink_named_sync() -> None:
    """The name that belongs to the callable cannot be taken by a configured sink."""
    with pytest.raises(ValueError, match="sync"):
        EventEmitter(None, {"sync": MemoryTransport()})


def test_emitter_cannot_be_started_after_close() -> None:
    """An end is an end."""
    emitter = EventEmitter()
    emitter.close()
    with pytest.raises(RuntimeError, match="closed"):
        emitter.start()
    with pytest.raises(RuntimeError, match="closed"):
        emitter.set_sync_transport(bool)
