"""One suite for every outbox: what the port promises holds for the durable one and for the one in memory."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from sentinel_pipeline.application.event.memory_outbox import MemoryOutbox
from sentinel_pipeline.application.ports import Batch, Outbox
from sentinel_pipeline.domain.errors import OutboxError
from sentinel_pipeline.domain.events import Event, EventStage
from sentinel_pipeline.infrastructure.storage.outbox import SqliteOutbox
from support import outboxes
from support.outboxes import numbers

take_all = partial(outboxes.take_all, size=7)


def event(number: int, stream: str = "gate") -> Event:
    return Event("INTRUSION", EventStage.DETECTED, stream, "rule", ts=float(number))


@pytest.fixture(params=["sqlite", "memory"])
def outbox(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Outbox]:
    if request.param == "memory":
        yield MemoryOutbox()
        return
    with SqliteOutbox(tmp_path / "outbox.db") as durable:
        yield durable


def test_outbox_gives_every_sink_every_event_in_order(outbox: Outbox) -> None:
    """Each sink gets all events in the order of their storing, whatever the other one does."""
    outbox.register(["a", "b"])
    for start in range(0, 30, 3):
        outbox.append([event(start + offset) for offset in range(3)])
    assert take_all(outbox, "a") == list(range(30))
    assert outbox.backlog("a").pending == 0
    assert outbox.backlog("b").pending == 30
    assert take_all(outbox, "b", size=4) == list(range(30))


def test_outbox_starts_a_new_sink_with_the_next_event(outbox: Outbox) -> None:
    """What was stored before a sink was named does not flood it."""
    outbox.register(["old"])
    outbox.append([event(1)])
    outbox.register(["old", "new"])
    outbox.append([event(2)])
    assert take_all(outbox, "new") == [2]
    assert take_all(outbox, "old") == [1, 2]


def test_outbox_returns_the_same_batch_until_it_is_settled(outbox: Outbox) -> None:
    """A batch under way keeps its key and its events, though more events came and another size is asked for."""
    outbox.register(["a"])
    outbox.append([event(1), event(2)])
    first = outbox.next_batch("a", 10)
    outbox.append([event(3)])
    assert outbox.next_batch("a", 1) == first
    assert outbox.next_batch("a", 99) == first
    assert first is not None
    outbox.ack(first)
    second = outbox.next_batch("a", 10)
    assert numbers(second) == [3]
    assert second is not None
    assert second.key != first.key


def test_outbox_remembers_how_long_a_receiver_wants_to_be_left_alone(outbox: Outbox) -> None:
    """What ``defer`` was told is known, for that sink only, until it is over or a batch is settled."""
    outbox.register(["a", "b"])
    assert outbox.deferred("a") == 0.0
    outbox.defer("a", 60.0)
    assert 55.0 < outbox.deferred("a") <= 60.0
    assert outbox.deferred("b") == 0.0
    outbox.defer("a", 0.001)
    assert outbox.deferred("a") <= 0.001
    outbox.defer("a", 60.0)
    outbox.append([event(1)])
    assert take_all(outbox, "a") == [1]
    assert outbox.deferred("a") == 0.0
    with pytest.raises(ValueError, match="nobody"):
        outbox.defer("nobody", 1.0)
    with pytest.raises(ValueError, match="nobody"):
        outbox.deferred("nobody")


def test_outbox_ack_twice_does_not_skip_events(outbox: Outbox) -> None:
    """An acknowledgement that comes again, late, does not settle the batch after it."""
    outbox.register(["a"])
    outbox.append([event(1), event(2)])
    first = outbox.next_batch("a", 1)
    assert first is not None
    outbox.ack(first)
    second = outbox.next_batch("a", 1)
    outbox.ack(first)
    assert outbox.next_batch("a", 1) == second


def test_outbox_split_halves_down_to_one_event_with_new_keys(outbox: Outbox) -> None:
    """Splitting loses nothing, keeps the order, gives each part its own key, and refuses to split one event."""
    outbox.register(["a"])
    outbox.append([event(number) for number in range(5)])
    keys = []
    sizes = []
    batch = outbox.next_batch("a", 10)
    while batch is not None and len(batch.bodies) > 1:
        keys.append(batch.key)
        sizes.append(len(batch.bodies))
        outbox.split(batch)
        batch = outbox.next_batch("a", 10)
    assert batch is not None
    assert sizes == [5, 3, 2]
    assert numbers(batch) == [0]
    with pytest.raises(ValueError, match="one event"):
        outbox.split(batch)
    outbox.ack(batch)
    assert len({*keys, batch.key}) == 4
    assert take_all(outbox, "a") == [1, 2, 3, 4]


def test_outbox_park_goes_on_behind_the_batch(outbox: Outbox) -> None:
    """A parked batch counts as dead for its sink only, and the next batch follows it."""
    outbox.register(["a", "b"])
    outbox.append([event(1), event(2)])
    batch = outbox.next_batch("a", 1)
    assert batch is not None
    outbox.park(batch, "422")
    assert outbox.backlog("a").dead == 1
    assert outbox.backlog("b").dead == 0
    assert take_all(outbox, "a") == [2]
    assert take_all(outbox, "b") == [1, 2]


def test_outbox_sink_named_again_goes_on_where_it_was(outbox: Outbox) -> None:
    """A sink left out by mistake and named again has lost nothing that is still there."""
    outbox.register(["a", "b"])
    outbox.append([event(1), event(2)])
    batch = outbox.next_batch("b", 1)
    assert batch is not None
    outbox.ack(batch)
    outbox.register(["a"])
    outbox.append([event(3)])
    outbox.register(["a", "b"])
    assert take_all(outbox, "b") == [2, 3]


@pytest.mark.parametrize("call", ["next_batch", "backlog"])
def test_outbox_refuses_an_unknown_sink(outbox: Outbox, call: str) -> None:
    """A name that was never registered is a programming error, said at once."""
    asked: dict[str, Callable[[], object]] = {
        "next_batch": lambda: outbox.next_batch("nobody", 1),
        "backlog": lambda: outbox.backlog("nobody"),
    }
    with pytest.raises(ValueError, match="nobody"):
        asked[call]()


def test_outbox_refuses_details_that_json_cannot_carry(outbox: Outbox) -> None:
    """One bad event in a call: none of the call is stored, and the message names the event."""
    outbox.register(["a"])
    bad = Event("X", EventStage.DETECTED, "gate", "mine", ts=1.0, details={"thing": object()})
    with pytest.raises(OutboxError, match=bad.event_id):
        outbox.append([event(1), bad])
    assert outbox.next_batch("a", 10) is None


def test_outbox_wakes_after_each_append_until_told_not_to(outbox: Outbox) -> None:
    """A listener hears of stored events, and no longer once it has unsubscribed."""
    woken = threading.Semaphore(0)
    outbox.register(["a"])
    forget = outbox.on_append(woken.release)
    outbox.append([event(1)])
    assert woken.acquire(timeout=5)
    forget()
    outbox.append([event(2)])
    assert not woken.acquire(blocking=False)


def test_outbox_backlog_tells_the_age_of_the_oldest_pending_event(outbox: Outbox) -> None:
    """The age is 0 with nothing pending and grows with the oldest event otherwise."""
    outbox.register(["a"])
    assert outbox.backlog("a").oldest_s == 0.0
    outbox.append([event(1)])
    first = outbox.backlog("a").oldest_s
    threading.Event().wait(0.02)
    assert outbox.backlog("a").oldest_s >= first + 0.015


def test_outbox_keeps_the_order_of_each_of_eight_threads(outbox: Outbox) -> None:
    """Appends from eight threads at once: no gap, no copy, and each thread's events stay in its order."""
    outbox.register(["a"])

    def work(stream: str) -> None:
        for number in range(25):
            outbox.append([event(number, stream)])

    threads = [threading.Thread(target=work, args=(f"s{index}",)) for index in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    per_stream: dict[str, list[int]] = {}
    while (batch := outbox.next_batch("a", 33)) is not None:
        for body in batch.bodies:
            stored = Event.from_wire(body)
            per_stream.setdefault(stored.stream_id, []).append(int(stored.ts))
        outbox.ack(batch)
    assert per_stream == {f"s{index}": list(range(25)) for index in range(8)}


class OutboxMachine(RuleBasedStateMachine):
    """Random appends, deliveries, splits, parks and changes of the sinks, against a model of plain lists."""

    make: Callable[[], Outbox]

    @initialize()
    def begin(self) -> None:
        self.outbox = type(self).make()
        self.outbox.register(["a", "b"])
        self.pending: dict[str, list[int]] = {"a": [], "b": []}
        self.next = 0
        self.under_way: dict[str, Batch] = {}

    @rule(count=st.integers(1, 4))
    def append(self, count: int) -> None:
        fresh = list(range(self.next, self.next + count))
        self.next += count
        self.outbox.append([event(number) for number in fresh])
        for pending in self.pending.values():
            pending.extend(fresh)

    @rule(sink=st.sampled_from("ab"), size=st.integers(1, 5))
    def take(self, sink: str, size: int) -> None:
        batch = self.outbox.next_batch(sink, size)
        if sink in self.under_way:
            assert batch == self.under_way[sink]
        elif batch is not None:
            self.under_way[sink] = batch
        assert numbers(batch) == self.pending[sink][: len(numbers(batch))]
        assert (batch is None) == (not self.pending[sink])

    @rule(sink=st.sampled_from("ab"), how=st.sampled_from(["ack", "split", "park"]))
    def settle(self, sink: str, how: str) -> None:
        batch = self.under_way.pop(sink, None)
        if batch is None:
            return
        if how == "split" and len(batch.bodies) > 1:
            self.outbox.split(batch)
            half = self.outbox.next_batch(sink, 99)
            assert numbers(half) == numbers(batch)[: (len(batch.bodies) + 1) // 2]
            assert half is not None
            self.under_way[sink] = half
            return
        if how == "park":
            self.outbox.park(batch, "no")
        else:
            self.outbox.ack(batch)
        del self.pending[sink][: len(batch.bodies)]

    @rule(order=st.permutations(["a", "b"]))
    def register_again(self, order: list[str]) -> None:
        self.outbox.register(order)

    @invariant()
    def backlog_is_what_is_pending(self) -> None:
        if hasattr(self, "pending"):
            for sink, pending in self.pending.items():
                assert self.outbox.backlog(sink).pending == len(pending)

    def teardown(self) -> None:
        if isinstance(getattr(self, "outbox", None), SqliteOutbox):
            self.outbox.close()  # type: ignore[attr-defined]


@pytest.mark.parametrize("kind", ["sqlite", "memory"])
def test_outbox_agrees_with_a_model_of_plain_lists(kind: str, tmp_path: Path) -> None:
    """Any sequence of calls leaves exactly the events pending that a plain list would."""
    fresh = iter(range(10**6))

    class Machine(OutboxMachine):
        @staticmethod
        def make() -> Outbox:
            if kind == "memory":
                return MemoryOutbox()
            durable = SqliteOutbox(tmp_path / f"{next(fresh)}.db", keep=3)
            durable.open()
            return durable

    examples = 60 if kind == "memory" else 12
    run_state_machine_as_test(
        Machine, settings=settings(max_examples=examples, stateful_step_count=25, deadline=None, database=None)
    )
