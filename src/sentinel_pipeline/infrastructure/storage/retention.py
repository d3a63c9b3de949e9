"""What goes when the outbox reaches its limits, and in which order."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import takewhile
from pathlib import Path

from sentinel_pipeline.domain.errors import OutboxFull
from sentinel_pipeline.infrastructure.storage.schema import PAGE_SIZE

GRACE_S = 3600.0
CHUNK = 64
TIDY_ROWS = 2000

# A clock that shows less has not been set: nobody can have stored an event before there was a program to do it.
FIRST_RELEASE = datetime(2026, 1, 1, tzinfo=UTC).timestamp()
CLOCK_S = 2.0  # what a clock may be moved without being noticed

# Sinks that hold events back: the registered ones, and those left out a short while ago (a slip in the configuration).
HOLDING = "(retired_at IS NULL OR retired_at > :grace)"


@dataclass(frozen=True, slots=True)
class Limits:
    """max_size in bytes; max_age in seconds or None; keep: delivered events that stay for the operator.

    drop: the oldest pending events make room, else new ones are refused.
    """

    max_size: int
    max_age: float | None
    drop: bool
    keep: int


class Retention:
    """Keeps the file within its limits. Every method runs in the writer's transaction, in the writer's thread.

    ``dropped(count)`` hears of events that went before every sink had them.
    """

    def __init__(self, limits: Limits, path: Path, dropped: Callable[[int], None], clock: Callable[[], float]) -> None:
        self._limits = limits
        self._path = path
        self._dropped = dropped
        self._clock = clock
        # A tenth stays free, so that cursors and dead letters can still be written when events are refused.
        self._usable_pages = limits.max_size * 9 // 10 // PAGE_SIZE
        self._opened = _elapsed()
        self._clock_ahead = 0.0  # of the elapsed time
        self._last_seq_before = 0

    def configure(self, connection: sqlite3.Connection) -> None:
        """Set SQLite's own hard bounds. ``journal_size_limit`` keeps the log's size: it is never truncated to nothing,
        so that a running outbox can go on inside its own files when another program fills the disk.
        """
        pages = self._limits.max_size // PAGE_SIZE
        connection.execute(f"PRAGMA max_page_count = {pages}")
        log_size = min(max(self._limits.max_size // 4, 256 * 1024), 4 * 1024 * 1024)
        connection.execute(f"PRAGMA journal_size_limit = {log_size}")
        connection.execute(
            f"PRAGMA wal_autocheckpoint = {log_size // PAGE_SIZE // 4}"
        )  # the rest is for one big commit
        self._opened = _elapsed()
        newest = connection.execute("SELECT max(seq) FROM event").fetchone()[0]
        self._last_seq_before = newest or 0
        self._clock_ahead = self._clock() - _elapsed()
        self._date_anew(connection)

    def make_room(self, connection: sqlite3.Connection, bodies: Sequence[bytes]) -> None:
        """Delete until ``bodies`` fit. Raises ``OutboxFull`` when they do not and pending events must stay."""
        allowed = self._usable_pages - _pages(bodies)
        chunk = max(8, len(bodies))  # about as many as come, then more: little is given up beyond what is needed
        while _used(connection) > allowed:
            if not self._give_up(connection, chunk):
                raise OutboxFull(
                    f"the outbox {self._path} has reached its max_size of {self._limits.max_size} bytes",
                    remedy="repair the receivers that do not take their events, or raise max_size",
                )
            chunk = min(chunk * 2, 256)

    def tidy(self, connection: sqlite3.Connection) -> bool:
        """Delete what is old, one bounded portion; True when there is more to do."""
        self._notice_clock(connection)
        gone = self.trim_history(connection, TIDY_ROWS, keep=self._limits.keep)
        # Too much can be there: max_size was lowered, or the operator replayed events.
        while gone < TIDY_ROWS and _used(connection) > self._usable_pages:
            more = self._give_up(connection, CHUNK)
            if not more:
                break
            gone += more
        return self._expire(connection) or gone >= TIDY_ROWS

    def _give_up(self, connection: sqlite3.Connection, rows: int) -> int:
        """Delete up to ``rows`` of what is missed least; return how many, 0 when nothing may go."""
        return (
            self.trim_history(connection, rows)
            or self._drop_dead(connection, rows)
            or (self._drop_pending(connection, rows) if self._limits.drop else 0)
        )

    def trim_history(self, connection: sqlite3.Connection, rows: int, keep: int = 0) -> int:
        """Delete up to ``rows`` of the oldest events that every sink has, sparing the newest ``keep`` events."""
        oldest, newest = connection.execute("SELECT min(seq), max(seq) FROM event").fetchone()
        if oldest is None:
            return 0
        floor = connection.execute(
            f"SELECT min(acked_seq) FROM cursor WHERE {HOLDING}",  # noqa: S608
            {"grace": self._clock() - GRACE_S},
        ).fetchone()[0]
        last = min(newest - keep, newest if floor is None else floor, oldest + rows - 1)
        return connection.execute("DELETE FROM event WHERE seq <= ?", (last,)).rowcount

    def _drop_dead(self, connection: sqlite3.Connection, rows: int) -> int:
        gone = connection.execute("DELETE FROM dead WHERE id IN (SELECT id FROM dead ORDER BY id LIMIT ?)", (rows,))
        if gone.rowcount > 0:
            self._dropped(gone.rowcount)
        return gone.rowcount

    def _drop_pending(self, connection: sqlite3.Connection, rows: int) -> int:
        """Delete the oldest ``rows`` events whoever still wants them, and count that per sink."""
        last = connection.execute(
            "SELECT max(seq) FROM (SELECT seq FROM event ORDER BY seq LIMIT ?)", (rows,)
        ).fetchone()
        return self._forget(connection, last[0]) if last[0] is not None else 0

    def _forget(self, connection: sqlite3.Connection, last: int) -> int:
        """Delete events up to ``last``; a batch under way that loses events is given up, so its key is not reused."""
        missed = connection.execute(
            "UPDATE cursor SET batch_last = NULL, batch_key = NULL, dropped = dropped + ("
            "  SELECT count(*) FROM event WHERE seq > acked_seq AND seq <= :last AND event.sink IN ('', cursor.sink))"
            " WHERE EXISTS ("
            "  SELECT 1 FROM event WHERE seq > acked_seq AND seq <= :last AND event.sink IN ('', cursor.sink))",
            {"last": last},
        )
        if missed.rowcount:
            held = connection.execute(
                "SELECT count(*) FROM event WHERE seq <= :last AND EXISTS (SELECT 1 FROM cursor"  # noqa: S608
                f" WHERE acked_seq < seq AND event.sink IN ('', cursor.sink) AND {HOLDING})",
                {"last": last, "grace": self._clock() - GRACE_S},
            ).fetchone()[0]
            if held:
                self._dropped(held)
        return connection.execute("DELETE FROM event WHERE seq <= ?", (last,)).rowcount

    def _expire(self, connection: sqlite3.Connection) -> bool:
        """Drop events and dead letters older than ``max_age``, from the old end."""
        if self._limits.max_age is None:
            return False
        cutoff = self._clock() - self._limits.max_age
        head = connection.execute("SELECT seq, stored_at FROM event ORDER BY seq LIMIT ?", (TIDY_ROWS,)).fetchall()
        expired = [seq for seq, _ in takewhile(lambda row: row[1] < cutoff, head)]
        if expired:
            self._forget(connection, expired[-1])
        gone = connection.execute(
            "DELETE FROM dead WHERE id IN (SELECT id FROM dead WHERE at < ? ORDER BY id LIMIT ?)", (cutoff, TIDY_ROWS)
        )
        if gone.rowcount > 0:
            self._dropped(gone.rowcount)
        return max(len(expired), gone.rowcount) >= TIDY_ROWS

    def _notice_clock(self, connection: sqlite3.Connection) -> None:
        """See whether the clock was set, and correct the dates that are then wrong."""
        ahead = self._clock() - _elapsed()
        if abs(ahead - self._clock_ahead) > CLOCK_S:
            self._date_anew(connection)
            connection.execute("UPDATE cursor SET not_before = not_before + ?", (ahead - self._clock_ahead,))
            connection.execute("COMMIT")  # only what is on the disk counts as corrected
            connection.execute("BEGIN IMMEDIATE")
            self._clock_ahead = ahead

    def _date_anew(self, connection: sqlite3.Connection) -> None:
        """Let the age of rows begin now whose date cannot be true; ages decide what is dropped.

        Not true is a date in the future, one before the first release, and for rows of this run one before it began.
        A clock that is wrong itself (no battery, no network yet) says nothing.
        """
        now = self._clock()
        if now < FIRST_RELEASE:
            return
        values = {
            "now": now,
            "future": now + CLOCK_S,
            "past": FIRST_RELEASE,
            "begun": now - (_elapsed() - self._opened) - CLOCK_S,
            "before": self._last_seq_before,
        }
        connection.execute(
            "UPDATE event SET stored_at = :now WHERE stored_at > :future OR stored_at < :past"
            " OR (seq > :before AND stored_at < :begun)",
            values,
        )
        connection.execute("UPDATE dead SET at = :now WHERE at > :future OR at < :past", values)
        connection.execute(
            "UPDATE cursor SET retired_at = :now WHERE retired_at > :future OR retired_at < :past", values
        )


def _elapsed() -> float:
    """Return seconds of a clock that nobody sets and that goes on while the machine sleeps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def _used(connection: sqlite3.Connection) -> int:
    """Return the pages in use, this transaction's changes included."""
    total: int = connection.execute("PRAGMA page_count").fetchone()[0]
    free: int = connection.execute("PRAGMA freelist_count").fetchone()[0]
    return total - free


def _pages(bodies: Sequence[bytes]) -> int:
    """Return how many pages the rows will take at most, roughly: a body beyond a page goes to overflow pages."""
    small = sum(len(body) + 48 for body in bodies if len(body) < PAGE_SIZE - 64)
    large = sum(len(body) // (PAGE_SIZE - 4) + 2 for body in bodies if len(body) >= PAGE_SIZE - 64)
    return small // (PAGE_SIZE - 64) + large + 4
