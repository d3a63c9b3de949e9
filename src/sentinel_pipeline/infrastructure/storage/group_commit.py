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
from typing import Any, TypeVar

import structlog

from sentinel_pipeline.domain.errors import OutboxError
from sentinel_pipeline.infrastructure.storage.outbox_file import OutboxFile
from sentinel_pipeline.infrastructure.storage.schema import explain, is_damage, primary_code

log = structlog.get_logger(__name__)

T = TypeVar("T")

LINGER_S = 0.005
MAX_ROWS = 256
MAX_BYTES = 4 * 1024 * 1024
TICK_S = 1.0
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
    """Owns the thread of the writing connection. A file that is damaged or lost is replaced, and the work done there.

    ``stored()`` is called in that thread after a commit that added rows, ``tick(connection)`` after commits and when
    idle; ``tick`` returns True when it wants to go on at once. Both must not block.
    """

    def __init__(
        self,
        file: OutboxFile,
        *,
        stored: Callable[[], None],
        tick: Callable[[sqlite3.Connection], bool],
    ) -> None:
        self._file = file
        self._path = file.path
        self._stored = stored
        self._tick = tick
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._admission = threading.Lock()  # no job may enter behind the end mark
        self._closed = False
        self._tick_at = time.monotonic()
        self._departed_at, self._company = self._tick_at, 0  # of the last commit: when, and of how many jobs
        self.trouble = ""
        self._out_of_place = ""  # the trouble, if it is one that the housekeeping sees come and go
        self._thread = threading.Thread(target=self._loop, name="outbox-writer")

    def start(self) -> None:
        """Begin to work; the file's writing connection then belongs to the thread, which closes it."""
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
            self._leave()
        finally:
            self._file.close()

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
            outcomes = self._store(wanted)
        except OutboxError as exc:
            self._fail(wanted, exc, exc)
            return
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

    def _store(self, jobs: list[_Job]) -> list[_Outcome]:
        """Do the jobs in one transaction of a file that is ours, sound and in its place."""
        self._file.keep_ownership()
        storing = any(job.rows for job in jobs)
        if storing and self._file.lost():
            self._file.restore()
        try:
            outcomes = _transact_twice(self._file.writer(), jobs)
        except sqlite3.Error as exc:
            if not is_damage(exc):
                raise
            outcomes = _transact_twice(self._file.rebuild(), jobs)
        if storing and self._file.lost():
            self._file.restore()
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
        self._tick_at = now + TICK_S
        try:
            self._file.keep_ownership()
            if self._file.lost(thorough=True):
                self._file.restore()
            more = self._apart(self._file.writer())
        except OutboxError as exc:
            self._fail([], exc, exc)
            self._out_of_place = self.trouble
            return False
        except sqlite3.Error as exc:
            if is_damage(exc):
                with suppress(OutboxError, sqlite3.Error):
                    self._file.rebuild()
            return False
        except Exception:  # the thread's outermost loop: a defect in tidying must not end the writer
            log.exception("tidying the outbox failed in an unforeseen way")
            return False
        if self.trouble == self._out_of_place:
            self._recovered()
        return more

    def _leave(self) -> None:
        """Write the file again if it was deleted since the last look: after the end nobody can."""
        try:
            if self._file.lost(thorough=True):
                self._file.restore(at_once=True)
        except (OutboxError, sqlite3.Error) as exc:
            reason = exc if isinstance(exc, OutboxError) else explain(exc, self._path)
            log.error(  # noqa: TRY400 - the reason says it all
                "the outbox was deleted, and what was pending is lost", path=str(self._path), reason=str(reason)
            )

    def _apart(self, connection: sqlite3.Connection) -> bool:
        """Tidy in a transaction of its own."""
        try:
            connection.execute("BEGIN IMMEDIATE")
            more = self._tick(connection)
            connection.execute("COMMIT")
        finally:
            if connection.in_transaction:
                with suppress(sqlite3.Error):
                    connection.execute("ROLLBACK")
        return more


def _transact_twice(connection: sqlite3.Connection, jobs: list[_Job]) -> list[_Outcome]:
    try:
        return _transact(connection, jobs)
    except sqlite3.Error as exc:
        if primary_code(exc) != sqlite3.SQLITE_FULL:
            raise
    # A checkpoint lets the log start over inside its own file, so the second try may need no new space.
    with suppress(sqlite3.Error):
        connection.execute("PRAGMA wal_checkpoint(PASSIVE)")
    return _transact(connection, jobs)


def _transact(connection: sqlite3.Connection, jobs: list[_Job]) -> list[_Outcome]:
    outcomes: list[_Outcome] = []
    connection.execute("BEGIN IMMEDIATE")
    try:
        for job in jobs:
            try:
                outcomes.append((job.work(connection), None))
            except (OutboxError, ValueError) as exc:
                outcomes.append((None, exc))
        connection.execute("COMMIT")
    except BaseException:
        # SQLite itself rolls back on some errors (full, I/O): then there is nothing left to undo.
        if connection.in_transaction:
            with suppress(sqlite3.Error):
                connection.execute("ROLLBACK")
        raise
    return outcomes
