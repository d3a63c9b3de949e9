"""Where events enter: stored first, then delivered to every sink by a thread of its own."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any

import structlog

from sentinel_pipeline.application.event.delivery import Delivery, DeliverySettings
from sentinel_pipeline.application.event.memory_outbox import MemoryOutbox
from sentinel_pipeline.application.event.outages import Condition
from sentinel_pipeline.application.event.sink_thread import SinkThread
from sentinel_pipeline.application.event.sync_transport import CallableTransport, SyncTransport
from sentinel_pipeline.application.ports import EventTransport, Outbox, SinkBacklog
from sentinel_pipeline.domain.errors import OutboxError
from sentinel_pipeline.domain.events import Event
from sentinel_pipeline.domain.system_events import Part

log = structlog.get_logger(__name__)

SYNC = "sync"
CLOSE_S = 2.0


class EventEmitter:
    """Accepts events, stores them, and has them delivered at least once to every sink.

    outbox: where accepted events wait; without one they wait in memory (``MemoryOutbox``) and end with the process.
    transports: sink name to transport; each is opened, used and closed in a thread of its own.
    settings: sink name to ``DeliverySettings``, where they differ from the defaults.

    A context manager: sinks start with ``start`` and end with ``close``; the outbox belongs to its maker. Thread-safe.
    """

    def __init__(
        self,
        outbox: Outbox | None = None,
        transports: Mapping[str, EventTransport] | None = None,
        settings: Mapping[str, DeliverySettings] | None = None,
    ) -> None:
        self._outbox: Outbox = MemoryOutbox() if outbox is None else outbox
        self._transports = dict(transports or {})
        if SYNC in self._transports:
            raise ValueError(f"the sink name {SYNC!r} is taken: it belongs to set_sync_transport")
        self._settings = dict(settings or {})
        self._changing = threading.Lock()  # start, close and set_sync_transport, one at a time
        self._threads: dict[str, SinkThread] = {}
        self._registered: tuple[str, ...] | None = None
        self._started = self._closed = False
        self._backlogs: dict[str, SinkBacklog] = {}
        self._counting = threading.Lock()
        self._emitted: Counter[tuple[str, str]] = Counter()
        self._settled = threading.Event()

    def __repr__(self) -> str:
        sinks = ", ".join(f"{name} {thread.delivery.state}" for name, thread in sorted(self._threads.items()))
        return f"<EventEmitter [{sinks}]>"

    def __enter__(self) -> EventEmitter:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def start(self) -> None:
        """Register the sinks and begin to deliver; idempotent. Raises ``OutboxError``."""
        with self._changing:
            if self._closed:
                raise RuntimeError("the emitter is closed")
            self._register(self._names())
            if not self._started:
                self._started = True
                for name, transport in self._transports.items():
                    self._launch(name, transport)

    def close(self) -> None:
        """End all sinks within about two seconds; what is not delivered stays in the outbox. Idempotent."""
        with self._changing:
            self._closed = True
            threads = list(self._threads.values())
        _end(threads)

    def emit(self, events: Event | Sequence[Event]) -> None:
        """Accept events: on return they are stored and will be delivered. Raises ``OutboxError``: none was accepted.

        Still stores after ``close``, for the next start, as long as the outbox is open.
        """
        batch = [events] if isinstance(events, Event) else list(events)
        if self._registered is None:
            with self._changing:
                self._register(self._names())
        self._outbox.append(batch)
        with self._counting:
            self._emitted.update((event.type, str(event.stage)) for event in batch)

    def set_sync_transport(self, transport: SyncTransport | None) -> None:
        """Deliver to ``transport(events) -> bool`` too, as the sink ``sync``, from now on; None ends that.

        False or an exception means that the same events come again later. Starts delivering at once, also without
        ``start``; ``close`` ends it, and ``flush`` waits for it before its transport is closed.
        """
        with self._changing:
            if self._closed:
                raise RuntimeError("the emitter is closed")
            old = self._threads.get(SYNC)
            if old is not None:
                _end([old])
                self._threads = {name: thread for name, thread in self._threads.items() if name != SYNC}
            self._register((*self._transports, *([SYNC] if transport is not None else [])))
            if transport is not None:
                self._launch(SYNC, CallableTransport(transport))

    def flush(self, timeout: float = 5.0) -> bool:
        """Wait until every sink has everything, and it is counted; False when that takes longer than ``timeout`` s."""
        left = _deadline(timeout)
        while True:
            self._settled.clear()  # before looking: what is settled after the look wakes again
            if self._drained():
                return True
            if left() == 0.0:
                return False
            self._settled.wait(min(left(), 1.0))

    def emitted(self) -> dict[tuple[str, str], int]:
        """Return how many events were accepted per (type, stage)."""
        with self._counting:
            return dict(self._emitted)

    def snapshot(self) -> dict[str, dict[str, Any]]:
        """Return per sink its state, circuit, counts and reason (design section 7).

        While the outbox does not answer, pending and the like are the last known ones.
        """
        return {name: self._report(name, thread.delivery) for name, thread in sorted(self._threads.items())}

    def conditions(self) -> dict[Part, Condition]:
        """Return how each sink is doing, without asking the outbox."""
        return {Part("sink", name): thread.delivery.condition() for name, thread in self._threads.items()}

    def _report(self, name: str, delivery: Delivery) -> dict[str, Any]:
        backlog = self._backlog(name)
        return {
            "state": str(delivery.state),
            "circuit": str(delivery.circuit),
            "delivered": delivery.delivered,
            "retried": delivery.retried,
            "dead": backlog.dead,
            "pending": backlog.pending,
            "oldest_pending_s": round(backlog.oldest_s, 3),
            "dropped": backlog.dropped,
            "reason": delivery.reason,
        }

    def _backlog(self, name: str) -> SinkBacklog:
        try:
            self._backlogs[name] = self._outbox.backlog(name)
        except (OutboxError, ValueError):
            return self._backlogs.get(name, SinkBacklog(0, 0.0, 0))  # a report must not fail with what it reports on
        return self._backlogs[name]

    def _drained(self) -> bool:
        try:
            settled = all(self._outbox.backlog(name).pending == 0 for name in self._registered or ())
        except OutboxError:
            return False
        # Asked afterwards: a batch leaves the outbox before it is counted.
        return settled and not any(thread.delivery.in_hand for thread in self._threads.values())

    def _names(self) -> tuple[str, ...]:
        return (*self._transports, *([SYNC] if SYNC in self._threads else []))

    def _register(self, names: tuple[str, ...]) -> None:
        if names != self._registered:
            self._outbox.register(names)
            self._registered = names

    def _launch(self, name: str, transport: EventTransport) -> None:
        delivery = Delivery(name, self._outbox, transport, self._settings.get(name), progress=self._settled.set)
        thread = SinkThread(delivery)
        self._threads = {**self._threads, name: thread}  # replaced, not changed: readers take no lock
        thread.start()


def _end(threads: Sequence[SinkThread]) -> None:
    for thread in threads:
        thread.stop()
    left = _deadline(CLOSE_S)
    for thread in threads:
        if not thread.join(left()):
            log.warning("a sink is still inside its transport and ends when that returns", sink=thread.delivery.sink)


def _deadline(seconds: float) -> Callable[[], float]:
    """Return a function that tells how many seconds are left, never below 0."""
    end = time.monotonic() + seconds
    return lambda: max(0.0, end - time.monotonic())
