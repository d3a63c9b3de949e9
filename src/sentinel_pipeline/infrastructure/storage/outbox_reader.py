"""The operator's view into an outbox: list, show, dead letters, replay; also while its program runs."""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from sentinel_pipeline.domain.errors import OutboxError
from sentinel_pipeline.infrastructure.storage.place import was_ours
from sentinel_pipeline.infrastructure.storage.schema import APPLICATION_ID, VERSION, connect, explain, is_damage

T = TypeVar("T")

REPLAY_WAIT_S = 5.0


@dataclass(frozen=True, slots=True)
class StoredEvent:
    """One event as it lies in the outbox.

    body: wire form 1, JSON.
    stored_at: Unix seconds.
    pending_for: the sinks that do not have it yet, sorted; empty after delivery.
    replay_for: the only sink that an operator's replay is for, or an empty string.
    """

    seq: int
    body: bytes
    stored_at: float
    pending_for: tuple[str, ...]
    replay_for: str = ""


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """One event that a sink will never take. ``stored_at``, ``at``: when it was stored and parked, Unix seconds."""

    seq: int
    sink: str
    reason: str
    body: bytes
    stored_at: float
    at: float


# Names for what the class's own method ``list`` hides inside it.
StoredEvents = list[StoredEvent]
DeadLetters = list[DeadLetter]


class OutboxReader:
    """Looks into an outbox from any process, whether or not its owner runs; each call opens and closes the file.

    Raises ``OutboxError`` where the file is missing, unreadable or not an outbox. Thread-safe.
    """

    def __init__(self, path: Path | str, *, clock: Callable[[], float] = time.time) -> None:
        self.path = Path(os.path.realpath(path))
        self._clock = clock

    def list(
        self,
        limit: int = 50,
        *,
        stream: str | None = None,
        type: str | None = None,
        stage: str | None = None,
        since: float | None = None,
        until: float | None = None,
        before: int | None = None,
        module: str | None = None,
        newest: int | None = None,
    ) -> StoredEvents:
        """Return up to ``limit`` events, newest first, delivered ones included as long as they are kept.

        since, until: capture time ``ts`` in Unix seconds, both inclusive. before: only events with a smaller ``seq``
        (the last one of the previous page). newest: only among so many of the newest, whatever they are, which bounds
        the search.
        """
        wanted: dict[str, Any] = {
            "json_extract(CAST(body AS TEXT), '$.stream_id') = ?": stream and _searchable(stream),
            "json_extract(CAST(body AS TEXT), '$.type') = ?": type and _searchable(type),
            "json_extract(CAST(body AS TEXT), '$.stage') = ?": stage and _searchable(stage),
            "json_extract(CAST(body AS TEXT), '$.ts') >= ?": since,
            "json_extract(CAST(body AS TEXT), '$.ts') <= ?": until,
            "seq < ?": before,
            "json_extract(CAST(body AS TEXT), '$.module_name') = ?": module and _searchable(module),
            "seq > (SELECT max(seq) FROM event) - ?": newest,
        }
        conditions = {sql: value for sql, value in wanted.items() if value is not None}
        return self._read(lambda connection: _events(connection, conditions, limit))

    def show(self, event_id: str) -> StoredEvent:
        """Return the newest copy of one event. Raises ``OutboxError`` when the outbox does not have it."""
        condition = {"json_extract(CAST(body AS TEXT), '$.event_id') = ?": _searchable(event_id)}
        found = self._read(lambda connection: _events(connection, condition, 1))
        if not found:
            raise OutboxError(f"{self.path} has no event {event_id}", remedy="list what it has: sentinel events list")
        return found[0]

    def dead(self, limit: int = 50, *, sink: str | None = None) -> DeadLetters:
        """Return up to ``limit`` dead letters (of ``sink``), newest first."""

        def read(connection: sqlite3.Connection) -> DeadLetters:
            rows = connection.execute(
                "SELECT seq, sink, reason, body, stored_at, at FROM dead WHERE ?1 IS NULL OR sink = ?1"
                " ORDER BY id DESC LIMIT ?2",
                (sink, limit),
            )
            return [DeadLetter(*row) for row in rows]

        return self._read(read)

    def sinks(self) -> tuple[str, ...]:
        """Return the names of the registered sinks, sorted."""
        return self._read(lambda connection: tuple(name for name, _ in _cursors(connection)))

    def replay(self, event_ids: Sequence[str], *, sink: str | None = None) -> int:
        """Queue copies of these events again, for ``sink`` or for all; return how many.

        Id and body stay the same, so that a receiver that has the event can tell. A running program takes them up
        within seconds. Raises ``OutboxError``, and then queues nothing, when an event or the sink is unknown.
        """

        def work(connection: sqlite3.Connection) -> int:
            self._must_know(connection, sink)
            bodies = [self._body(connection, event_id) for event_id in event_ids]
            now = self._clock()
            connection.executemany(
                "INSERT INTO event(sink, stored_at, body) VALUES(?, ?, ?)", [(sink or "", now, body) for body in bodies]
            )
            return len(bodies)

        return self._write(work)

    def replay_dead(self, *, sink: str | None = None) -> int:
        """Queue all dead letters (of ``sink``) again, each for the sink that refused it; return how many.

        They leave the dead-letter table. Those of sinks that are no longer registered stay.
        """

        def work(connection: sqlite3.Connection) -> int:
            self._must_know(connection, sink)
            chosen = "sink IN (SELECT sink FROM cursor WHERE retired_at IS NULL) AND (:sink IS NULL OR sink = :sink)"
            values = {"sink": sink, "now": self._clock()}
            connection.execute(
                "INSERT INTO event(sink, stored_at, body)"  # noqa: S608 - a constant
                f" SELECT sink, :now, body FROM dead WHERE {chosen} ORDER BY id",
                values,
            )
            return connection.execute(f"DELETE FROM dead WHERE {chosen}", values).rowcount  # noqa: S608

        return self._write(work)

    def _must_know(self, connection: sqlite3.Connection, sink: str | None) -> None:
        known = [name for name, _ in _cursors(connection)]
        if sink is not None and sink not in known:
            raise OutboxError(f"{self.path} has no sink {sink!r}", remedy=f"name one of: {', '.join(known) or 'none'}")

    def _body(self, connection: sqlite3.Connection, event_id: str) -> bytes:
        for table, order in (("event", "seq"), ("dead", "id")):
            row = connection.execute(
                f"SELECT body FROM {table} WHERE json_extract(CAST(body AS TEXT), '$.event_id') = ?"  # noqa: S608
                f" ORDER BY {order} DESC LIMIT 1",
                (_searchable(event_id),),
            ).fetchone()
            if row is not None:
                body: bytes = row[0]
                return body
        raise OutboxError(f"{self.path} has no event {event_id}", remedy="list what it has: sentinel events list")

    def _read(self, work: Callable[[sqlite3.Connection], T]) -> T:
        return self._with(work, begin="BEGIN", read_only=True)

    def _write(self, work: Callable[[sqlite3.Connection], T]) -> T:
        return self._with(work, begin="BEGIN IMMEDIATE", read_only=False)

    def _with(self, work: Callable[[sqlite3.Connection], T], *, begin: str, read_only: bool) -> T:
        if not self.path.is_file():
            raise OutboxError(
                f"there is no outbox at {self.path}",
                remedy="check the outbox path; a program makes it at its first start",
            )
        try:
            with closing(self._connect(read_only=read_only)) as connection:
                self._recognise(connection)
                connection.execute("PRAGMA synchronous = FULL")
                connection.execute(begin)
                result = work(connection)
                connection.execute("COMMIT")
                return result
        except sqlite3.Error as exc:
            if is_damage(exc) and not was_ours(self.path):
                raise OutboxError(f"{self.path} is not an outbox", remedy="check the outbox path") from exc
            raise explain(exc, self.path) from exc

    def _connect(self, *, read_only: bool) -> sqlite3.Connection:
        """Return a connection; without write permission on the folder an outbox that nobody uses can still be read.

        Even a reader of a write-ahead log makes files beside it, unless it is told that nothing can change (SQLite's
        ``immutable``). That is true while nobody has the log open and there is nothing in it.
        """
        log, shared = Path(f"{self.path}-wal"), Path(f"{self.path}-shm")
        unused = not shared.exists() and not (log.exists() and log.stat().st_size)
        frozen = read_only and unused and not os.access(self.path.absolute().parent, os.W_OK)
        return connect(self.path, read_only=read_only, immutable=frozen, timeout_s=REPLAY_WAIT_S)

    def _recognise(self, connection: sqlite3.Connection) -> None:
        owner = connection.execute("PRAGMA application_id").fetchone()[0]
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        if owner != APPLICATION_ID:
            raise OutboxError(f"{self.path} is not an outbox", remedy="check the outbox path")
        if version != VERSION:
            raise OutboxError(
                f"{self.path} has schema {version}, this release reads {VERSION}",
                remedy="use the release that wrote it, or start this one once to bring an older file up to date",
            )


def _searchable(text: str) -> str:
    """Return text that SQLite takes: a command line may carry bytes that are no UTF-8."""
    return text.encode("utf-8", "replace").decode()


def _cursors(connection: sqlite3.Connection) -> list[tuple[str, int]]:
    return connection.execute("SELECT sink, acked_seq FROM cursor WHERE retired_at IS NULL ORDER BY sink").fetchall()


def _events(connection: sqlite3.Connection, conditions: dict[str, Any], limit: int) -> list[StoredEvent]:
    where = " AND ".join(conditions) or "TRUE"
    rows = connection.execute(
        f"SELECT seq, sink, stored_at, body FROM event WHERE {where} ORDER BY seq DESC LIMIT ?",  # noqa: S608
        (*conditions.values(), limit),
    ).fetchall()
    cursors = _cursors(connection)
    return [
        StoredEvent(
            seq,
            body,
            stored_at,
            tuple(name for name, acked in cursors if acked < seq and only in ("", name)),
            replay_for=only,
        )
        for seq, only, stored_at, body in rows
    ]
