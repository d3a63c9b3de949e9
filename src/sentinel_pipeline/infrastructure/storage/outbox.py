"""The durable outbox: one SQLite file between the cameras and the receivers.

Promises: an event is on the disk before ``append`` returns (WAL, ``synchronous=FULL``, group commit); every sink gets
every event in order, at least once; what cannot be kept within the configured limits is dropped oldest first, counted
and logged, or refused.

How long rows stay: events that every registered sink has stay for ``sentinel events list``, the newest ``keep`` of
them at most. They are the first to go when room is needed, then the oldest dead letters, then (with ``drop_oldest``)
the oldest pending events.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, TypeVar

import structlog

from sentinel_pipeline.application.event.encoding import encode_all
from sentinel_pipeline.application.event.tally import Tally
from sentinel_pipeline.application.ports import Batch, SinkBacklog
from sentinel_pipeline.domain.errors import OutboxError
from sentinel_pipeline.domain.events import Event, new_event_id
from sentinel_pipeline.infrastructure.storage.group_commit import GroupCommit
from sentinel_pipeline.infrastructure.storage.outbox_file import OutboxFile
from sentinel_pipeline.infrastructure.storage.rescue import LOST, Replacement, is_event
from sentinel_pipeline.infrastructure.storage.retention import Limits, Retention
from sentinel_pipeline.infrastructure.storage.schema import damage, explain, is_damage

log = structlog.get_logger(__name__)

T = TypeVar("T")

MIN_SIZE = 256 * 1024
MAX_BATCH_BYTES = 4 * 1024 * 1024

# What a sink has not yet passed: rows for all sinks, and rows replayed for this one. The plus keeps SQLite on the order
# of seq: by the index on sink it would sort the whole backlog for each batch (sqlite.org/optoverview.html, section 2).
PENDING = "seq > :acked AND +sink IN ('', :sink)"
COUNTED = "seq > :acked AND sink IN ('', :sink)"


class SqliteOutbox:
    """A durable, bounded ``Outbox`` in one file. Use as a context manager, or ``open`` and ``close``.

    max_size: bytes of the file, from 256 KiB; the write-ahead log beside it adds a quarter (256 KiB to 4 MiB), now and
    then a little more.
    max_age: seconds after which an event is dropped even when not delivered (counted); None: never.
    when_full: ``drop_oldest`` drops the oldest events, ``refuse`` makes ``append`` raise ``OutboxFull``.
    keep: how many of the newest events stay for the operator after delivery.
    deadline_s: longest wait of any method for the disk.
    clock: Unix seconds; for the age of events only.

    Thread-safe. One process owns the file at a time; ``OutboxReader`` looks into it from others.
    """

    def __init__(
        self,
        path: Path | str,
        *,
        max_size: int = 512 * 1024 * 1024,
        max_age: float | None = 7 * 86400.0,
        when_full: Literal["drop_oldest", "refuse"] = "drop_oldest",
        keep: int = 10_000,
        deadline_s: float = 2.0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        if max_size < MIN_SIZE:
            raise ValueError(f"max_size must be at least {MIN_SIZE} bytes, not {max_size}")
        self.path = Path(os.path.realpath(path))  # two names of one file have one lock, and one log
        self._limits = Limits(max_size=max_size, max_age=max_age, drop=when_full == "drop_oldest", keep=keep)
        self._deadline_s = deadline_s
        self._clock = clock
        self._dropped = Tally(self._report_dropped)
        self._retention = Retention(self._limits, self.path, self._dropped.add, clock)
        self._file = OutboxFile(self.path, self._retention.configure, deadline_s / 2, self._note_replaced)
        self._replacements: tuple[Replacement, ...] = ()
        self._hear_replaced: Callable[[Replacement], None] = lambda _: None
        self._hearing = threading.Lock()
        self._writer: GroupCommit | None = None
        self._wakes: tuple[Callable[[], None], ...] = ()
        self._waking = threading.Lock()

    def __repr__(self) -> str:
        state = "closed" if self._writer is None else "open"
        return f"<SqliteOutbox {str(self.path)!r}, {state}, dropped {self._dropped.total}>"

    def __enter__(self) -> SqliteOutbox:
        self.open()
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    @property
    def dropped(self) -> int:
        """Events dropped since ``open`` before every sink had them."""
        return self._dropped.total

    @property
    def replaced(self) -> int:
        """How often the file was damaged or lost since ``open``, and replaced."""
        return len(self._replacements)

    @property
    def trouble(self) -> str:
        """Why events cannot be stored at present, or an empty string; for health checks."""
        return self._writer.trouble if self._writer is not None else f"the outbox {self.path} is closed"

    def snapshot(self) -> dict[str, Any]:
        """Return how the file is doing, for the report: trouble, dropped, replaced."""
        return {"trouble": self.trouble, "dropped": self.dropped, "replaced": self.replaced}

    def open(self) -> None:
        """Take the ownership, open or create the file, start the writer. Raises ``OutboxError``; idempotent."""
        if self._writer is not None:
            return
        self._file.open()
        self._writer = GroupCommit(self._file, stored=self._wake_all, tick=self._retention.tidy)
        self._writer.start()

    def close(self) -> None:
        """Store what was handed in, end the writer thread, let go of the file; may be called more than once."""
        writer, self._writer = self._writer, None
        if writer is None:
            return
        self._file.end_reading()
        if not writer.close(timeout_s=max(self._deadline_s, 1.0)):
            # The writer still holds the file, so the ownership stays with this process too.
            log.warning("the disk does not answer: the outbox is left to end by itself", path=str(self.path))
            return
        self._dropped.flush(now=True)
        self._file.release()

    def append(self, events: Sequence[Event]) -> None:
        """Store durably; see ``Outbox.append``. Raises ``OutboxFull`` with the policy ``refuse``."""
        bodies = encode_all(events)
        if not bodies:
            return
        size = sum(map(len, bodies))
        if size > self._limits.max_size // 4:
            raise OutboxError(
                f"{len(bodies)} events of {size} bytes do not fit into an outbox of {self._limits.max_size} bytes",
                remedy="raise the outbox's max_size, or make the events smaller",
            )

        def insert(connection: sqlite3.Connection) -> None:
            self._retention.make_room(connection, bodies)
            now = self._clock()
            connection.executemany("INSERT INTO event(stored_at, body) VALUES(?, ?)", [(now, body) for body in bodies])

        self._write(insert, rows=len(bodies), size=size)

    def register(self, sinks: Sequence[str]) -> None:
        """Name all the sinks there are from now on; see ``Outbox.register``. One left out is forgiven for an hour."""

        def work(connection: sqlite3.Connection) -> None:
            names = tuple(sinks)
            marks = ",".join("?" * len(names))
            connection.execute(
                f"UPDATE cursor SET retired_at = ? WHERE retired_at IS NULL AND sink NOT IN ({marks})",  # noqa: S608
                (self._clock(), *names),
            )
            begin = _begin(connection)
            for name in names:
                connection.execute(
                    "INSERT INTO cursor(sink, acked_seq) VALUES(?, ?) ON CONFLICT DO UPDATE SET retired_at = NULL",
                    (name, begin),
                )
            if names:
                connection.execute("DELETE FROM cursor WHERE sink = ?", (LOST,))
            for name, acked in [(name, _cursor(connection, name)[0]) for name in names]:  # all of them, or none
                self._file.places.passed(name, acked)

        if "" in sinks:
            raise ValueError("a sink needs a name")
        self._write(work)

    def next_batch(self, sink: str, max_events: int) -> Batch | None:
        """Return the batch under way, else the next one, else None; see ``Outbox.next_batch``.

        Holds at most ``max_events`` events and, beyond the first, 4 MiB.
        """
        if not self._anything(sink):
            return None

        def work(connection: sqlite3.Connection) -> Batch | None:
            acked, last, key = _cursor(connection, sink)
            rows = _rows(connection, sink, acked, last, max_events)
            if not rows:
                return None
            self._file.places.given(rows[-1][0])
            if key is None:
                key = new_event_id()
                connection.execute(
                    "UPDATE cursor SET batch_last = ?, batch_key = ? WHERE sink = ?", (rows[-1][0], key, sink)
                )
            return Batch(sink, key, rows[0][0], rows[-1][0], tuple(body for _, body in rows))

        return self._write(work)

    def ack(self, batch: Batch) -> None:
        """The sink has the batch."""

        def work(connection: sqlite3.Connection) -> None:
            _pass(connection, batch)
            self._file.places.passed(batch.sink, batch.last_seq)  # true whether or not this is committed

        self._write(work)

    def split(self, batch: Batch) -> None:
        """Make the batch under way its first half, under a new key; see ``Outbox.split``."""
        if len(batch.bodies) < 2:
            raise ValueError("a batch of one event cannot be split")

        def work(connection: sqlite3.Connection) -> None:
            acked, last, key = _cursor(connection, batch.sink)
            if key != batch.key:
                return  # a limit dropped events of it meanwhile: the next batch is another one anyway
            seqs = [seq for seq, _ in _rows(connection, batch.sink, acked, last, len(batch.bodies))]
            connection.execute(
                "UPDATE cursor SET batch_last = ?, batch_key = ? WHERE sink = ?",
                (seqs[(len(seqs) - 1) // 2], new_event_id(), batch.sink),
            )

        self._write(work)

    def park(self, batch: Batch, reason: str) -> None:
        """Move the batch to the dead-letter table of its sink and go on behind it."""

        def work(connection: sqlite3.Connection) -> None:
            acked, _, _ = _cursor(connection, batch.sink)
            connection.execute(
                "INSERT INTO dead(sink, seq, reason, stored_at, at, body)"  # noqa: S608 - a constant
                f" SELECT :sink, seq, :reason, stored_at, :now, body FROM event WHERE {PENDING} AND seq <= :last"
                " ORDER BY seq",
                {"sink": batch.sink, "reason": reason, "now": self._clock(), "acked": acked, "last": batch.last_seq},
            )
            _pass(connection, batch)

        self._write(work)

    def backlog(self, sink: str) -> SinkBacklog:
        """Return what ``sink`` still has to get."""

        def read(connection: sqlite3.Connection) -> SinkBacklog:
            acked, _, _ = _cursor(connection, sink)
            dropped = connection.execute("SELECT dropped FROM cursor WHERE sink = ?", (sink,)).fetchone()[0]
            values = {"sink": sink, "acked": acked}
            pending = connection.execute(f"SELECT count(*) FROM event WHERE {COUNTED}", values).fetchone()[0]  # noqa: S608
            oldest = connection.execute(
                f"SELECT stored_at FROM event WHERE {PENDING} ORDER BY seq LIMIT 1",  # noqa: S608
                values,
            ).fetchone()
            dead = connection.execute("SELECT count(*) FROM dead WHERE sink = ?", (sink,)).fetchone()[0]
            return SinkBacklog(pending, max(0.0, self._clock() - oldest[0]) if oldest else 0.0, dead, dropped)

        return self._read(read)

    def defer(self, sink: str, seconds: float) -> None:
        """The receiver asked to be left alone; see ``Outbox.defer``."""

        def work(connection: sqlite3.Connection) -> None:
            _cursor(connection, sink)
            connection.execute(
                "UPDATE cursor SET not_before = ?, asked_s = ? WHERE sink = ?", (self._clock() + seconds, seconds, sink)
            )

        self._write(work)

    def deferred(self, sink: str) -> float:
        """Return the seconds that the receiver still wants to be left alone.

        By the wall clock, the only one that goes on across restarts; if it was set back meanwhile, no more than the
        receiver had asked for.
        """

        def read(connection: sqlite3.Connection) -> float:
            row = connection.execute("SELECT not_before, asked_s FROM cursor WHERE sink = ?", (sink,)).fetchone()
            not_before, asked_s = (value if isinstance(value, int | float) else 0.0 for value in _known(row, sink))
            return min(max(0.0, not_before - self._clock()), asked_s)

        return self._read(read)

    def on_replaced(self, hear: Callable[[Replacement], None]) -> None:
        """Call ``hear`` with each replacement of a damaged or lost file: those there were, and from now on.

        It is called from the writer thread and must not block or raise.
        """
        with self._hearing:
            self._hear_replaced, before = hear, self._replacements
        for replacement in before:
            hear(replacement)

    def on_append(self, wake: Callable[[], None]) -> Callable[[], None]:
        """Call ``wake()`` from the writer thread after each append; returns the function that ends this."""
        with self._waking:
            self._wakes = (*self._wakes, wake)

        def forget() -> None:
            with self._waking:
                self._wakes = tuple(known for known in self._wakes if known is not wake)

        return forget

    def _anything(self, sink: str) -> bool:
        """Whether ``sink`` has something pending, without bothering the writer."""

        def read(connection: sqlite3.Connection) -> bool:
            acked, _, _ = _cursor(connection, sink)
            found = connection.execute(
                f"SELECT 1 FROM event WHERE {PENDING} LIMIT 1",  # noqa: S608
                {"sink": sink, "acked": acked},
            ).fetchone()
            return found is not None

        return self._read(read)

    def _write(self, work: Callable[[sqlite3.Connection], T], *, rows: int = 0, size: int = 0) -> T:
        writer = self._writer
        if writer is None:
            raise OutboxError(f"the outbox {self.path} is not open")
        return writer.run(work, rows=rows, size=size, timeout_s=self._deadline_s)

    def _read(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Run ``work`` on one consistent picture of the file; a damaged one is replaced first."""
        generation = self._file.generation
        try:
            return self._file.read(work)
        except sqlite3.Error as exc:
            if not is_damage(exc):
                raise explain(exc, self.path) from exc
        self._write(self._file.complain(generation))
        try:
            return self._file.read(work)
        except sqlite3.Error as exc:
            raise explain(exc, self.path) from exc

    def _note_replaced(self, replacement: Replacement) -> None:
        with self._hearing:
            self._replacements, hear = (*self._replacements, replacement), self._hear_replaced
        hear(replacement)

    def _wake_all(self) -> None:
        for wake in self._wakes:
            wake()

    def _report_dropped(self, news: int, total: int) -> None:
        log.warning(
            "the outbox is at its limit: undelivered events were dropped, oldest first",
            path=str(self.path),
            dropped=news,
            dropped_total=total,
        )


def _known(row: tuple[T, ...] | None, sink: str) -> tuple[T, ...]:
    if row is None:
        raise ValueError(f"no sink named {sink!r} is registered")
    return row


def _cursor(connection: sqlite3.Connection, sink: str) -> tuple[int, int | None, str | None]:
    """Return what the sink has passed, and the last row and the key of its batch under way."""
    row = connection.execute("SELECT acked_seq, batch_last, batch_key FROM cursor WHERE sink = ?", (sink,)).fetchone()
    acked, last, key = _known(row, sink)
    if not (isinstance(acked, int) and isinstance(last, int | None) and isinstance(key, str | None)):
        raise damage("a place of a sink that makes no sense")
    return acked, last, key


def _begin(connection: sqlite3.Connection) -> int:
    """Return what a sink without a row has passed: all events, but none where rows about sinks were lost."""
    row = connection.execute("SELECT acked_seq FROM cursor WHERE sink = ?", (LOST,)).fetchone()
    row = row or connection.execute("SELECT seq FROM sqlite_sequence WHERE name = 'event'").fetchone()
    return int(row[0]) if row else 0


def _rows(
    connection: sqlite3.Connection, sink: str, acked: int, last: int | None, max_events: int
) -> list[tuple[int, bytes]]:
    """Return the batch under way (``last`` is set), or the next ``max_events`` rows within ``MAX_BATCH_BYTES``.

    A body that is no event counts as damage of the file: no sink could ever get past it.
    """
    until = "" if last is None else " AND seq <= :last"
    limit = "" if last is not None else " LIMIT :limit"
    cursor = connection.execute(
        f"SELECT seq, body FROM event WHERE {PENDING}{until} ORDER BY seq{limit}",  # noqa: S608
        {"sink": sink, "acked": acked, "last": last, "limit": max_events},
    )
    rows: list[tuple[int, bytes]] = []
    size = 0
    with closing(cursor):
        for seq, body in cursor:
            if not is_event(body):
                raise damage("a body that is no event")
            size += len(body)
            if rows and last is None and size > MAX_BATCH_BYTES:
                break
            rows.append((seq, body))
    return rows


def _pass(connection: sqlite3.Connection, batch: Batch) -> None:
    """Move the sink's cursor behind the batch; a batch that has been replaced meanwhile is left alone."""
    _cursor(connection, batch.sink)
    connection.execute(
        "UPDATE cursor SET acked_seq = max(acked_seq, ?), not_before = NULL WHERE sink = ?",
        (batch.last_seq, batch.sink),
    )
    connection.execute(
        "UPDATE cursor SET batch_last = NULL, batch_key = NULL WHERE sink = ? AND (batch_key = ? OR batch_last <= ?)",
        (batch.sink, batch.key, batch.last_seq),
    )
