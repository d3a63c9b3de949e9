"""The delivery loop of one sink against a scripted receiver; waits are recorded, not waited for."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence

import pytest
from structlog.testing import capture_logs

from sentinel_pipeline.application.event.delivery import Delivery, DeliverySettings
from sentinel_pipeline.application.event.delivery_policy import SinkState
from sentinel_pipeline.application.event.memory_outbox import MemoryOutbox
from sentinel_pipeline.application.event.memory_transport import MemoryTransport
from sentinel_pipeline.application.event.outages import Condition, Doing
from sentinel_pipeline.application.ports import Batch
from sentinel_pipeline.domain.errors import (
    DeliveryError,
    OutboxError,
    PayloadTooLarge,
    Rejected,
    SinkGone,
    TransportError,
    Unauthorised,
)
from sentinel_pipeline.domain.events import Event, EventStage

NO_WAIT = DeliverySettings(max_wait=0.0)


def events(count: int, start: int = 0) -> list[Event]:
    return [Event("X", EventStage.CONFIRMED, "gate", "rule", ts=float(start + number)) for number in range(count)]


def order(transport: MemoryTransport) -> list[int]:
    return [int(event.ts) for event in transport.events]


class Bench:
    """One outbox, one scripted receiver, one delivery; ``run`` drives it until ``done``."""

    def __init__(
        self,
        outcomes: Iterable[BaseException | None] = (),
        *,
        settings: DeliverySettings = NO_WAIT,
        outbox: MemoryOutbox | None = None,
        transport: MemoryTransport | None = None,
    ) -> None:
        self.outbox = outbox or MemoryOutbox()
        self.outbox.register(["vms"])
        self.transport = transport or MemoryTransport(outcomes)
        self.slept: list[float] = []
        self.last_sleep: int | None = None  # this one does not end
        self.seen: list[tuple[SinkState, str]] = []
        self._news = asyncio.Event()
        self.delivery = Delivery(
            "vms", self.outbox, self.transport, settings, progress=self._news.set, sleep=self._sleep
        )

    async def _sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.seen.append((self.delivery.state, self.delivery.reason))
        self._news.set()
        if len(self.slept) == self.last_sleep:
            await asyncio.Event().wait()
        await asyncio.sleep(0)

    def run(self, done: Callable[[], bool]) -> None:
        asyncio.run(self._run(done))

    async def _run(self, done: Callable[[], bool]) -> None:
        task = asyncio.create_task(self.delivery.run())
        async with asyncio.timeout(10):
            while not done() and not task.done():
                self._news.clear()
                waits = [task, asyncio.ensure_future(self._news.wait())]
                await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
                waits[1].cancel()
        task.cancel()
        await asyncio.wait([task])
        if not task.cancelled():
            task.result()

    def drained(self) -> bool:
        return self.outbox.backlog("vms").pending == 0


def test_delivery_sends_in_order_in_batches() -> None:
    """Events go out in order, at most ``max_events`` at a time, and each batch under a key of its own."""
    bench = Bench(settings=DeliverySettings(max_events=4, max_wait=0.0))
    bench.outbox.append(events(10))
    bench.run(bench.drained)
    assert [len(batch.bodies) for batch in bench.transport.delivered] == [4, 4, 2]
    assert order(bench.transport) == list(range(10))
    assert len({batch.key for batch in bench.transport.delivered}) == 3
    assert (bench.delivery.state, bench.delivery.delivered, bench.delivery.retried) == (SinkState.UP, 10, 0)
    assert bench.slept == []
    assert not bench.transport.is_open


def test_delivery_repeats_under_the_same_key_with_growing_waits() -> None:
    """A failing receiver gets the same batch under the same key, after 0.5, 1, 2 … s less jitter, then all is well."""
    bench = Bench([DeliveryError("503")] * 9)
    bench.outbox.append(events(3))
    bench.run(bench.drained)
    assert len(bench.transport.attempts) == 10
    assert len({batch.key for batch in bench.transport.attempts}) == 1
    for waited, full in zip(bench.slept, [0.5, 1, 2, 4, 8, 16, 30, 30, 30], strict=True):
        assert 0.8 * full <= waited <= full
    assert bench.seen[0] == (SinkState.RETRYING, "503")
    assert (bench.delivery.state, bench.delivery.reason, bench.delivery.retried) == (SinkState.UP, "", 9)


def test_delivery_s_circuit_opens_and_tries_once_before_it_closes() -> None:
    """Closed while all is well; open while the receiver is left alone; half-open for one try; closed by a delivery."""
    seen: list[tuple[str, str]] = []

    class Receiver(MemoryTransport):
        async def send(self, batch: Batch) -> None:
            seen.append(("send", str(bench.delivery.circuit)))
            await super().send(batch)

    bench = Bench(
        transport=Receiver([None, DeliveryError("503"), Unauthorised("401"), None]), settings=DeliverySettings(1, 0.0)
    )
    sleep = bench._sleep

    async def sleeping(seconds: float) -> None:
        seen.append(("wait", str(bench.delivery.circuit)))
        await sleep(seconds)

    bench.delivery._sleep = sleeping
    bench.outbox.append(events(2))
    bench.run(bench.drained)
    assert seen == [
        ("send", "closed"),
        ("send", "closed"),
        ("wait", "open"),
        ("send", "half-open"),
        ("wait", "open"),
        ("send", "half-open"),
    ]
    assert str(bench.delivery.circuit) == "closed"
    gone = Bench([SinkGone("410")])
    gone.outbox.append(events(1))
    gone.run(lambda: False)
    assert str(gone.delivery.circuit) == "open"


def test_delivery_keeps_retry_after_in_its_next_life() -> None:
    """What the receiver asked for outlives the process: the next one waits for the rest before its first request."""
    outbox = MemoryOutbox()
    first = Bench([DeliveryError("503", retry_after_s=60.0)], outbox=outbox)
    outbox.append(events(1))
    first.last_sleep = 1
    first.run(lambda: len(first.slept) == 1)
    second = Bench(outbox=outbox)
    second.run(second.drained)
    assert 59.0 < second.slept[0] <= 60.0
    assert second.seen[0][0] is SinkState.RETRYING
    assert "left alone" in second.seen[0][1]
    third = Bench(outbox=outbox)
    outbox.append(events(1))
    third.run(third.drained)
    assert third.slept == []


def test_delivery_waits_start_over_after_a_success() -> None:
    """The next failure after a delivery waits the shortest time again."""
    bench = Bench([DeliveryError("1"), DeliveryError("2"), None, DeliveryError("3")], settings=DeliverySettings(1, 0.0))
    bench.outbox.append(events(2))
    bench.run(bench.drained)
    assert [round(waited / 0.5) for waited in bench.slept] == [1, 2, 1]


@pytest.mark.parametrize(
    ("asked", "least"),
    [(17.0, 17.0), (0.1, 0.4), (7200.0, 7200.0), (1e9, 86_400.0)],
    ids=["long", "short", "hours", "capped"],
)
def test_delivery_never_tries_before_retry_after(asked: float, least: float) -> None:
    """``Retry-After`` is a lower bound on the wait, an absurd one is capped at a day."""
    bench = Bench([DeliveryError("429", retry_after_s=asked)])
    bench.outbox.append(events(1))
    bench.run(bench.drained)
    assert least <= bench.slept[0] <= max(asked, 0.5)
    assert bench.slept[0] <= 86_400.0


def test_delivery_pauses_on_refused_credentials_and_keeps_everything() -> None:
    """401: slow tries, state paused, said once at error level, and delivered when the operator has repaired it."""
    bench = Bench([Unauthorised("401")] * 6)
    bench.outbox.append(events(2))
    with capture_logs() as logs:
        bench.run(bench.drained)
    for waited, full in zip(bench.slept, [30, 60, 120, 240, 300, 300], strict=True):
        assert 0.8 * full <= waited <= full
    assert {state for state, _ in bench.seen} == {SinkState.PAUSED}
    assert [line["log_level"] for line in logs] == ["error", "info"]
    assert order(bench.transport) == [0, 1]


def test_delivery_stops_when_the_receiver_is_gone() -> None:
    """410: no further attempt, the loop ends, the events stay."""
    bench = Bench([SinkGone("410 Gone")])
    bench.outbox.append(events(2))
    bench.run(lambda: False)
    assert bench.delivery.state is SinkState.STOPPED
    assert len(bench.transport.attempts) == 1
    assert bench.outbox.backlog("vms").pending == 2
    assert not bench.transport.is_open


class LimitedTransport(MemoryTransport):
    """Takes at most ``most`` events at a time, and never the events in ``poison``."""

    def __init__(self, most: int, poison: Sequence[int] = ()) -> None:
        super().__init__()
        self._most = most
        self._poison = poison

    async def send(self, batch: Batch) -> None:
        numbers = [int(Event.from_wire(body).ts) for body in batch.bodies]
        if len(numbers) > self._most:
            self.attempts.append(batch)
            raise PayloadTooLarge("413")
        if set(numbers) & set(self._poison):
            self.attempts.append(batch)
            raise Rejected("422")
        await super().send(batch)


def test_delivery_splits_what_is_too_large_and_remembers() -> None:
    """A receiver that takes three at a time gets everything in order, and is not asked in vain for each batch."""
    bench = Bench(settings=DeliverySettings(max_events=16, max_wait=0.0), transport=LimitedTransport(3))
    bench.outbox.append(events(40))
    bench.run(bench.drained)
    assert order(bench.transport) == list(range(40))
    assert len(bench.transport.attempts) - len(bench.transport.delivered) <= 6
    assert bench.outbox.backlog("vms").dead == 0


def test_delivery_parks_only_the_bad_event_of_a_batch() -> None:
    """One poisonous event among a hundred: it alone is parked, found without a wait, and all others arrive in order."""
    bench = Bench(transport=LimitedTransport(1000, poison=[57]))
    bench.outbox.append(events(100))
    with capture_logs() as logs:
        bench.run(bench.drained)
    assert order(bench.transport) == [number for number in range(100) if number != 57]
    assert bench.outbox.backlog("vms").dead == 1
    assert bench.slept == []
    assert len(bench.transport.attempts) < 30
    assert [line["reason"] for line in logs] == ["422"]


def test_delivery_asks_slowly_when_every_event_is_refused() -> None:
    """A wrong path (404 for all) must not pour the backlog into the dead letters at full speed."""
    bench = Bench(transport=LimitedTransport(1000, poison=range(100)))
    bench.outbox.append(events(20))
    bench.last_sleep = 5
    bench.run(lambda: len(bench.slept) == 5)
    assert bench.outbox.backlog("vms").dead <= 7
    assert all(0.8 * full <= waited <= full for waited, full in zip(bench.slept, [0.5, 1, 2, 4, 8], strict=True))
    assert bench.seen[-1] == (SinkState.RETRYING, "every event is refused: 422")


def test_delivery_survives_a_defective_transport() -> None:
    """An exception that no transport should raise is reported with a redacted traceback, and costs no event."""
    defect = RuntimeError("no idea about http://u:hush-hush@host/")
    bench = Bench([defect, defect])
    bench.outbox.append(events(2))
    with capture_logs() as logs:
        bench.run(bench.drained)
    assert order(bench.transport) == [0, 1]
    tracebacks = [line["traceback"] for line in logs if "traceback" in line]
    assert len(tracebacks) == 1
    assert "RuntimeError" in tracebacks[0]
    assert "hush-hush" not in str(logs)


class StuckTransport(MemoryTransport):
    """Never answers."""

    def __init__(self) -> None:
        super().__init__()
        self.cancelled = 0
        self.busy = asyncio.Event()

    async def send(self, batch: Batch) -> None:
        self.attempts.append(batch)
        self.busy.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise


def test_delivery_gives_up_on_a_transport_that_never_returns() -> None:
    """A ``send`` that hangs is cut off at its deadline and repeated."""
    transport = StuckTransport()
    bench = Bench(settings=DeliverySettings(max_wait=0.0, send_timeout=0.01), transport=transport)
    bench.outbox.append(events(1))
    bench.run(lambda: len(transport.attempts) == 3)
    assert transport.cancelled == 3
    assert bench.outbox.backlog("vms").pending == 1


def test_delivery_cancelled_in_flight_keeps_the_batch() -> None:
    """Ending while a request is under way cancels it; the batch stays under its key and is nobody's failure."""
    transport = StuckTransport()
    bench = Bench(transport=transport)
    bench.outbox.append(events(1))

    async def scenario() -> None:
        task = asyncio.create_task(bench.delivery.run())
        await transport.busy.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(scenario())
    assert transport.cancelled == 1
    assert not transport.is_open
    assert bench.delivery.retried == 0
    again = bench.outbox.next_batch("vms", 9)
    assert again is not None
    assert again.key == transport.attempts[0].key


class StubbornOutbox(MemoryOutbox):
    """Fails ``ack`` a few times, like a full disk."""

    failures = 3

    def ack(self, batch: Batch) -> None:
        if self.failures:
            self.failures -= 1
            raise OutboxError("the disk is full")
        super().ack(batch)


def test_delivery_repeats_the_acknowledgement_not_the_request() -> None:
    """When the disk refuses to note a delivery, the note is repeated: the receiver gets the batch once."""
    bench = Bench(outbox=StubbornOutbox())
    bench.outbox.append(events(1))
    bench.run(bench.drained)
    assert len(bench.transport.attempts) == 1
    assert len(bench.slept) == 3
    assert bench.seen[0] == (SinkState.IDLE, "the disk is full")
    assert (bench.delivery.state, bench.delivery.reason) == (SinkState.UP, "")


def test_delivery_does_not_blame_the_receiver_for_the_outbox() -> None:
    """While the disk is full the receiver is neither failing nor down; the reason says the disk, once in the log."""
    doing: list[Doing] = []

    class FullDisk(MemoryOutbox):
        def next_batch(self, sink: str, max_events: int) -> Batch | None:
            if bench.delivery.delivered == 1 and len(bench.slept) < 4:
                raise OutboxError("the disk is full")
            return super().next_batch(sink, max_events)

    bench = Bench(outbox=FullDisk(), settings=DeliverySettings(1, 0.0))
    sleep = bench._sleep

    async def sleeping(seconds: float) -> None:
        doing.append(bench.delivery.condition().doing)
        await sleep(seconds)

    bench.delivery._sleep = sleeping
    bench.outbox.append(events(2))
    with capture_logs() as logs:
        bench.run(bench.drained)
    assert bench.seen == [(SinkState.UP, "the disk is full")] * 4
    assert doing == [Doing.NOTHING] * 4
    assert bench.delivery.condition() == Condition(Doing.WELL, "", 2)
    assert [line["log_level"] for line in logs] == ["warning", "info"]


@pytest.mark.parametrize("before", [0, 1], ids=["nothing delivered yet", "after a delivery"])
def test_delivery_s_circuit_closes_when_a_refused_event_is_parked(before: int) -> None:
    """A receiver that fails, then refuses the event for good, has answered: nothing is left to be tried again."""
    bench = Bench([None] * before + [DeliveryError("503"), Rejected("400")], settings=DeliverySettings(1, 0.0))
    bench.outbox.append(events(before + 1))
    bench.run(lambda: bench.drained() and str(bench.delivery.circuit) == "closed")
    assert bench.outbox.backlog("vms").dead == 1
    assert bench.delivery.state is (SinkState.UP if before else SinkState.IDLE)
    assert bench.delivery.condition() == Condition(Doing.WELL if before else Doing.NOTHING, "", before)


@pytest.mark.parametrize(
    ("error", "size"),
    [(PayloadTooLarge, 2), (Rejected, 2), (Rejected, 1), (PayloadTooLarge, 1), (Unauthorised, 2)],
    ids=["split", "rejected half", "parked", "parked as too large", "paused"],
)
def test_delivery_asks_nobody_before_retry_after_whatever_happens_to_the_batch(
    error: type[TransportError], size: int
) -> None:
    """``Retry-After`` comes before the first half of a split, the event after a parked one, and the next slow try."""
    bench = Bench([error("no", retry_after_s=600.0)])
    bench.outbox.append(events(size))
    bench.last_sleep = 1
    bench.run(lambda: bool(bench.slept))
    assert bench.slept == [600.0]
    assert len(bench.transport.attempts) == 1
    assert 599.0 < bench.outbox.deferred("vms") <= 600.0
    assert bench.seen == [(SinkState.PAUSED if error is Unauthorised else SinkState.RETRYING, "no")]


def test_delivery_is_closed_after_the_retry_after_of_a_parked_event() -> None:
    """When the wait is over and nothing is pending, nothing fails."""
    bench = Bench([Rejected("no", retry_after_s=600.0)])
    bench.outbox.append(events(1))
    bench.run(lambda: bool(bench.slept) and str(bench.delivery.circuit) == "closed")
    assert (bench.delivery.state, bench.delivery.reason) == (SinkState.IDLE, "")


def test_delivery_goes_on_when_a_limit_drops_the_batch_it_repeats() -> None:
    """A batch dropped for room while its receiver fails is forgotten; the next one has another key."""
    outbox = MemoryOutbox(max_events=2)
    bench = Bench([DeliveryError("503"), None], outbox=outbox)
    outbox.append(events(2))
    bench.last_sleep = 1
    bench.run(lambda: len(bench.slept) == 1)
    outbox.append(events(2, start=2))
    bench.run(bench.drained)
    first, last = bench.transport.attempts[0], bench.transport.attempts[-1]
    assert order(bench.transport) == [2, 3]
    assert first.key != last.key
    assert outbox.backlog("vms").dropped == 2


def test_delivery_waits_for_company_up_to_max_wait() -> None:
    """A batch that is not full waits ``max_wait`` once; events that come meanwhile travel with it."""
    bench = Bench(settings=DeliverySettings(max_events=100, max_wait=0.2))
    bench.outbox.append(events(1))
    original = bench.delivery._sleep

    async def sleep(seconds: float) -> None:
        if seconds == 0.2 and bench.slept == []:
            bench.outbox.append(events(2, start=1))
        await original(seconds)

    bench.delivery._sleep = sleep
    bench.run(bench.drained)
    assert [len(batch.bodies) for batch in bench.transport.delivered] == [3]
    assert bench.slept == [0.2]


def test_delivery_sends_a_full_batch_without_waiting() -> None:
    """``max_events`` pending go out at once, before ``max_wait`` is over."""

    async def never(seconds: float) -> None:
        await asyncio.Event().wait()

    bench = Bench(settings=DeliverySettings(max_events=3, max_wait=60.0))
    bench.delivery._sleep = never
    bench.outbox.append(events(3))
    bench.run(bench.drained)
    assert [len(batch.bodies) for batch in bench.transport.delivered] == [3]


class SulkingTransport(MemoryTransport):
    """Cannot be opened at first."""

    refusals = 2

    async def open(self) -> None:
        if self.refusals:
            self.refusals -= 1
            raise DeliveryError("no route")
        await super().open()


def test_delivery_opens_its_transport_again_and_again() -> None:
    """A transport that cannot be opened yet is tried like a receiver that fails."""
    bench = Bench(transport=SulkingTransport())
    bench.outbox.append(events(1))
    bench.run(bench.drained)
    assert [round(waited / 0.5) for waited in bench.slept] == [1, 2]
    assert bench.delivery.delivered == 1
