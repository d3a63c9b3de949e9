"""An outbox without a disk: for trying things out and for the simplest use of ``EventEmitter``. Not durable."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from typing import Literal

import structlog

from sentinel_pipeline.application.event.encoding import encode_all
from sentinel_pipeline.application.event.tally import Tally
from sentinel_pipeline.application.ports import Batch, SinkBacklog
from sentinel_pipeline.domain.errors import OutboxFull
from sentinel_pipeline.domain.events import Event, new_event_id

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class _Row:
    seq: int
    stored_at: float  # monotonic
    body: bytes


@dataclass(slots=True)
class _Cursor:
    acked: int
    last: int | None = None
    key: str = ""
    dropped: int = 0
    not_before: float = 0.0
    dead: deque[tuple[int, str, bytes]] = field(default_factory=deque)


class MemoryOutbox:
    """Keeps up to ``max_events`` events in memory; the same behaviour as the durable outbox, gone with the process.

    Events that every sink has are forgotten at once; of dead letters the newest 1,000 per sink stay. Thread-safe.
    """

    def __init__(
        self,
        max_events: int = 10_000,
        *,
        when_full: Literal["drop_oldest", "refuse"] = "drop_oldest",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if max_events < 1:
            raise ValueError("max_events must be at least 1")
        self._max_events = max_events
        self._refuse = when_full == "refuse"
        self._clock = clock
        self._lock = threading.Lock()
        self._rows: deque[_Row] = deque()
        self._seq = 0
        self._cursors: dict[str, _Cursor] = {}
        self._retired: dict[str, _Cursor] = {}
        self._wakes: tuple[Callable[[], None], ...] = ()
        self._dropped = Tally(self._report_dropped)

    def __repr__(self) -> str:
        return f"<MemoryOutbox {len(self._rows)} events, dropped {self._dropped.total}>"

    @property
    def dropped(self) -> int:
        """Events dropped before every sink had them."""
        return self._dropped.total

    def append(self, events: Sequence[Event]) -> None:
        """Keep the events. Raises ``OutboxFull`` with the policy ``refuse``."""
        bodies = encode_all(events)
        now = self._clock()
        with self._lock:
            room = self._max_events - len(self._rows)
            if len(bodies) > (room if self._refuse else self._max_events):
                raise OutboxFull(
                    f"the outbox in memory has reached its {self._max_events} events",
                    remedy="repair the receivers that do not take their events, or use a durable outbox",
                )
            dropped = sum(self._drop_oldest() for _ in range(len(bodies) - room))
            for body in bodies:
                self._seq += 1
                if self._cursors:
                    self._rows.append(_Row(self._seq, now, body))
            wakes = self._wakes if bodies else ()
        if dropped:
            self._dropped.add(dropped)
        for wake in wakes:
            wake()

    def register(self, sinks: Sequence[str]) -> None:
        """Name all the sinks there are from now on; see ``Outbox.register``. There is no grace period here."""
        if "" in sinks:
            raise ValueError("a sink needs a name")
        with self._lock:
            known = self._retired | self._cursors
            self._cursors = {sink: known.get(sink) or _Cursor(self._seq) for sink in sinks}
            self._retired = {sink: cursor for sink, cursor in known.items() if sink not in self._cursors}
            self._forget_delivered()

    def next_batch(self, sink: str, max_events: int) -> Batch | None:
        """Return the batch under way, else the next one, else None; see ``Outbox.next_batch``."""
        with self._lock:
            cursor = self._cursor(sink)
            pending = (row for row in self._rows if row.seq > cursor.acked)
            if cursor.last is None:
                rows = [row for row, _ in zip(pending, range(max_events), strict=False)]
            else:
                last = cursor.last
                rows = list(takewhile(lambda row: row.seq <= last, pending))
            if not rows:
                return None
            if cursor.last is None:
                cursor.last, cursor.key = rows[-1].seq, new_event_id()
            return Batch(sink, cursor.key, rows[0].seq, rows[-1].seq, tuple(row.body for row in rows))

    def ack(self, batch: Batch) -> None:
        """The sink has the batch."""
        with self._lock:
            self._pass(batch)

    def split(self, batch: Batch) -> None:
        """Make the batch under way its first half, under a new key; see ``Outbox.split``."""
        if len(batch.bodies) < 2:
            raise ValueError("a batch of one event cannot be split")
        with self._lock:
            cursor = self._cursor(batch.sink)
            if cursor.key == batch.key:
                seqs = [row.seq for row in self._rows if batch.first_seq <= row.seq <= batch.last_seq]
                cursor.last, cursor.key = seqs[(len(seqs) - 1) // 2], new_event_id()

    def park(self, batch: Batch, reason: str) -> None:
        """Move the batch to the dead letters of its sink and go on behind it."""
        with self._lock:
            cursor = self._cursor(batch.sink)
            cursor.dead.extend(
                (row.seq, reason, row.body) for row in self._rows if cursor.acked < row.seq <= batch.last_seq
            )
            while len(cursor.dead) > 1000:
                cursor.dead.popleft()
            self._pass(batch)

    def backlog(self, sink: str) -> SinkBacklog:
        """Return what ``sink`` still has to get."""
        with self._lock:
            cursor = self._cursor(sink)
            pending = [row for row in self._rows if row.seq > cursor.acked]
            oldest_s = max(0.0, self._clock() - pending[0].stored_at) if pending else 0.0
            return SinkBacklog(len(pending), oldest_s, len(cursor.dead), cursor.dropped)

    def defer(self, sink: str, seconds: float) -> None:
        """The receiver asked to be left alone; see ``Outbox.defer``."""
        with self._lock:
            self._cursor(sink).not_before = self._clock() + seconds

    def deferred(self, sink: str) -> float:
        """Return the seconds that the receiver still wants to be left alone."""
        with self._lock:
            return max(0.0, self._cursor(sink).not_before - self._clock())

    def on_append(self, wake: Callable[[], None]) -> Callable[[], None]:
        """Call ``wake()`` from the appending thread after each append; returns the function that ends this."""
        with self._lock:
            self._wakes = (*self._wakes, wake)

        def forget() -> None:
            with self._lock:
                self._wakes = tuple(known for known in self._wakes if known is not wake)

        return forget

    def _cursor(self, sink: str) -> _Cursor:
        if sink not in self._cursors:
            raise ValueError(f"no sink named {sink!r} is registered")
        return self._cursors[sink]

    def _pass(self, batch: Batch) -> None:
        cursor = self._cursor(batch.sink)
        cursor.acked, cursor.not_before = max(cursor.acked, batch.last_seq), 0.0
        if cursor.key == batch.key or (cursor.last is not None and cursor.last <= batch.last_seq):
            cursor.last, cursor.key = None, ""
        self._forget_delivered()

    def _forget_delivered(self) -> None:
        floor = min((cursor.acked for cursor in self._cursors.values()), default=self._seq)
        while self._rows and self._rows[0].seq <= floor:
            self._rows.popleft()

    def _drop_oldest(self) -> int:
        """Forget the oldest event; a batch under way that loses it is given up, so that its key is not used again."""
        row = self._rows.popleft()
        for cursor in self._cursors.values():
            if cursor.acked < row.seq:
                cursor.dropped += 1
                cursor.last, cursor.key = None, ""
        return 1

    def _report_dropped(self, news: int, total: int) -> None:
        log.warning(
            "the outbox in memory is full: undelivered events were dropped, oldest first",
            dropped=news,
            dropped_total=total,
        )
