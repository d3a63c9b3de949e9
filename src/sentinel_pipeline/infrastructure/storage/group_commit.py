"""One writer thread that puts the work of many threads into one commit, so that one fsync serves them all."""

from __future__ import annotations

import queue
import sqlite3
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import structlog

from sentinel_pipeline.domain.errors import OutboxError
from sentinel_pipeline.infrastructure.storage.schema import explain, primary_code

log = structlog.get_logger(__name__)

T = TypeVar("T")

LINGER_S = 0.005
MAX_ROWS = 256
MAX_BYTES = 4 * 1024 * 1024
IDLE_TICK_S = 5.0


@dataclass(eq=False)
class _Job:
    """``work`` runs inside the transaction.

    It may raise ``OutboxError`` or ``ValueError``, for its own caller only: what it has changed until then stays.
    """

    work: Callable[[sqlite3.Connection], Any]
    rows: int
    size: int
    future: Future[Any] = field(default_factory=Future)


_Outcome = tuple[Any, OutboxError | ValueError | None]


class GroupCommit:
    """Owns the writing connection and its thread.

    ``stored()`` is called in that thread after a commit that added rows, ``tick(connection)`` after commits and when
    idle; ``tick`` returns True when it wants to go on at once. Both must not block.
    """

    def __init__(
        self,
        path: Path,
        connection: sqlite3.Connection,
        *,
        stored: Callable[[], None],
        tick: Callable[[sqlite3.Connection], bool],
    ) -> None:
        self._path = path
        self._connection = connection
        self._stored = stored
        self._tick = tick
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._admission = threading.Lock()  # no job may enter behind the end mark
        self._closed = False
        self._tick_at = time.monotonic()
        self._departed_at, self._company = self._tick_at, 0  # of the last commit: when, and of how many jobs
        self.trouble = ""
        self._thread = threading.Thread(target=self._loop, name="outbox-writer")

    def start(self) -> None:
        """Begin to work; the connection then belongs to the thread, which closes it."""
        self._thread.start()

    def run(self, work: Callable[[sqlite3.Connection], T], *, rows: int = 0, size: int = 0, timeout_s: float) -> T:
        """Run ``work`` in the next transaction and return its result after the commit.

        Jobs with ``rows`` may wait a few milliseconds for company. Raises ``OutboxError`` when the disk refuses or the
        deadline passes; work that had not begun by then is never done.
        """
        job = _Job(work, rows, size)
        with self._admission:
            if self._closed:
                raise OutboxError(f"the outbox {self._path} is closed")
            self._jobs.put(job)
        try:
            result: T = job.future.result(timeout_s)
        except TimeoutError as exc:
            undone = job.future.cancel()
            raise OutboxError(
                f"the outbox {self._path} did not answer within {timeout_s:g} s",
                remedy="check the disk" if undone else "check the disk; what was being stored may still be stored",
            ) from exc
        return result

    def close(self, timeout_s: float) -> bool:
        """Finish what was handed in and end the thread; False when that takes longer than ``timeout_s``."""
        with self._admission:
            if not self._closed:
                self._closed = True
                self._jobs.put(None)
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _loop(self) -> None:
        more, ended = True, False
        try:
            while not ended:
                jobs, ended = self._gather(0.0 if more else IDLE_TICK_S)
                if jobs:
                    self._commit(jobs)
                more = self._housekeeping(more)
        finally:
            self._connection.close()

    def _gather(self, wait_s: float) -> tuple[list[_Job], bool]:
        """Return the jobs of the next commit, perhaps none, and whether the end mark was among them."""
        jobs: list[_Job] = []
        rows = size = 0
        deadline = time.monotonic() + wait_s
        while rows < MAX_ROWS and size < MAX_BYTES:
            try:
                job = self._jobs.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                return jobs, False
            if job is None:
                return jobs, True
            if not jobs:
                deadline = self._departure(job)
            jobs.append(job)
            rows, size = rows + job.rows, size + job.size
            if len(jobs) >= self._company:
                deadline = 0.0  # as many as last time: who may come is here; whoever is in the queue comes along
        return jobs, False

    def _departure(self, first: _Job) -> float:
        """Return when the commit that begins with ``first`` goes: at once, or ``LINGER_S`` after the one before it.

        Waiting for company pays only where company was seen: a lone caller would wait for nothing at each event, and
        what arrives while a commit is on its way shares the next one anyhow.
        """
        busy = first.rows and self._company > 1
        return self._departed_at + LINGER_S if busy else time.monotonic()

    def _commit(self, jobs: list[_Job]) -> None:
        self._departed_at, self._company = time.monotonic(), len(jobs)
        wanted = [job for job in jobs if job.future.set_running_or_notify_cancel()]
        try:
            outcomes = self._transact_twice(wanted)
        except sqlite3.Error as exc:
            self._fail(wanted, explain(exc, self._path), exc)
            return
        except Exception as exc:  # the thread's outermost loop: a defect in one job must not end the writer
            log.exception("storing failed in an unforeseen way")
            self._fail(wanted, OutboxError(f"storing failed: {type(exc).__name__}"), exc)
            return
        self._recovered()
        if any(job.rows for job in wanted):
            self._stored()
        for job, (value, error) in zip(wanted, outcomes, strict=True):
            if error is None:
                job.future.set_result(value)
            else:
                job.future.set_exception(error)

    def _transact_twice(self, jobs: list[_Job]) -> list[_Outcome]:
        try:
            return self._transact(jobs)
        except sqlite3.Error as exc:
            if primary_code(exc) != sqlite3.SQLITE_FULL:
                raise
        # A checkpoint lets the log start over inside its own file, so the second try may need no new space.
        with suppress(sqlite3.Error):
            self._connection.execute("PRAGMA wal_checkpoint(PASSIVE)")
        return self._transact(jobs)

    def _transact(self, jobs: list[_Job]) -> list[_Outcome]:
        outcomes: list[_Outcome] = []
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            for job in jobs:
                try:
                    outcomes.append((job.work(self._connection), None))
                except (OutboxError, ValueError) as exc:
                    outcomes.append((None, exc))
            self._connection.execute("COMMIT")
        except BaseException:
            # SQLite itself rolls back on some errors (full, I/O): then there is nothing left to undo.
            if self._connection.in_transaction:
                with suppress(sqlite3.Error):
                    self._connection.execute("ROLLBACK")
            raise
        return outcomes

    def _fail(self, jobs: list[_Job], error: OutboxError, cause: Exception) -> None:
        if not self.trouble:
            log.error("events cannot be stored", reason=str(error), cause=str(cause))
        self.trouble = str(error)
        for job in jobs:
            own = OutboxError(error.args[0], remedy=error.remedy)  # each thread raises an exception of its own
            own.__cause__ = cause
            job.future.set_exception(own)

    def _recovered(self) -> None:
        if self.trouble:
            log.info("events can be stored again", after=self.trouble)
            self.trouble = ""

    def _housekeeping(self, more: bool) -> bool:
        """Run ``tick`` once a second at most, or at once when the last one had more to do."""
        now = time.monotonic()
        if not more and now < self._tick_at:
            return False
        self._tick_at = now + 1.0
        try:
            return self._apart(self._tick)
        except Exception:  # the thread's outermost loop: a defect in tidying must not end the writer
            log.exception("tidying the outbox failed in an unforeseen way")
            return False

    def _apart(self, work: Callable[[sqlite3.Connection], bool]) -> bool:
        """Run ``work`` in a transaction of its own; False when the disk refuses even that."""
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            result = work(self._connection)
            self._connection.execute("COMMIT")
        except sqlite3.Error:
            # Tidying waits for better times; the same trouble shows, and is reported, at the next append.
            return False
        finally:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
        return result
