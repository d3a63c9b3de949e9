"""The file under a running outbox: its owner, its two connections, and what is done when it is damaged or deleted."""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import TypeVar

import structlog

from sentinel_pipeline.domain.errors import OutboxError
from sentinel_pipeline.infrastructure.storage.owner_lock import OwnerLock
from sentinel_pipeline.infrastructure.storage.place import ensure_place
from sentinel_pipeline.infrastructure.storage.rescue import (
    Places,
    Replacement,
    mode_of,
    open_or_replace,
    replace_damaged,
    replace_lost,
)
from sentinel_pipeline.infrastructure.storage.schema import connect, damage, explain, open_database

log = structlog.get_logger(__name__)

T = TypeVar("T")

AGAIN_S = 30.0  # between two replacements of damaged files: each leaves one behind, and a bad disk must not be filled


class OutboxFile:
    """Owns a writing connection, which belongs to the writer's thread, and one to read through.

    configure: sets the bounds of a new writing connection. timeout_s: longest wait for another process's lock.
    replaced: hears of each replacement of the file, in the thread that noticed; must not block.

    ``read`` is safe from any thread; everything else between ``open`` and ``close`` belongs to the writer's.
    """

    def __init__(
        self,
        path: Path,
        configure: Callable[[sqlite3.Connection], None],
        timeout_s: float,
        replaced: Callable[[Replacement], None],
    ) -> None:
        self.path = path
        self.places = Places()
        self.generation = 0  # counts the files there have been
        self._configure = configure
        self._timeout_s = timeout_s
        self._replaced = replaced
        self._owner = OwnerLock(path)
        self._writer: sqlite3.Connection | None = None
        self._reading = threading.Lock()
        self._reader: sqlite3.Connection | None = None
        self._ending = True
        self._rebuild_from = 0.0
        self._known: tuple[tuple[int, int] | None, ...] = ()
        self._folder = path.absolute().parent
        self._folder_known = 0, 0
        self._mode = 0

    def open(self) -> None:
        """Become the owner and open the file, or a new one. Raises ``OutboxError``."""
        ensure_place(self.path)
        self._owner.acquire()
        self._ending = False
        try:
            connection, replacement = open_or_replace(self.path, timeout_s=self._timeout_s)
            self._begin(connection)
        except sqlite3.Error as exc:
            self._owner.release()
            raise explain(exc, self.path) from exc
        except BaseException:
            self._owner.release()
            raise
        if replacement is not None:
            self._replaced(replacement)

    def writer(self) -> sqlite3.Connection:
        """Return the writing connection. Raises like ``rebuild`` when a damaged file could not be replaced yet."""
        return self._writer or self.rebuild()

    def end_reading(self) -> None:
        """Close the reading connection for good; what is being read is read to its end."""
        with self._reading:
            self._ending = True
            self._stop_reading()

    def close(self) -> None:
        """Close the writing connection; ends in one file when nothing else reads it."""
        connection, self._writer = self._writer, None
        if connection is not None:
            connection.close()

    def release(self) -> None:
        """Give up the ownership, after ``close``."""
        self._owner.release()

    def read(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Run ``work`` on one consistent picture of the file. Lets ``sqlite3.Error`` out; raises ``OutboxError``."""
        with self._reading:
            if self._reader is None:
                if self._ending:
                    raise OutboxError(f"the outbox {self.path} is not open")
                raise damage("it is being replaced")
            with closing(self._reader.cursor()) as snapshot:
                snapshot.execute("BEGIN")
                try:
                    return work(self._reader)
                finally:
                    if self._reader.in_transaction:  # an I/O error has ended it already
                        snapshot.execute("ROLLBACK")

    def complain(self, generation: int) -> Callable[[sqlite3.Connection], None]:
        """Return work for the writer that fails like a damaged file, unless that one has been replaced meanwhile."""

        def work(_: sqlite3.Connection) -> None:
            if self.generation == generation:
                raise damage("found by a reader")

        return work

    def lost(self, *, thorough: bool = False) -> bool:
        """Whether the file, or a part of it, is no longer where it was: what is stored now is gone with the process.

        Looks at the directory first, whose date changes with its names (to some milliseconds); ``thorough`` does not.
        """
        try:
            found = os.stat(self._folder)
            folder = found.st_ino, found.st_mtime_ns
            if folder == self._folder_known and not thorough:
                return False
            lost = self._identity() != self._known
        except FileNotFoundError:
            return True
        except OSError:
            return False  # the directory cannot be looked into any more; what is open stays open
        if not lost:
            self._folder_known = folder
        return lost

    def keep_ownership(self) -> None:
        """Lock the lock file anew if somebody has deleted it."""
        try:
            self._owner.renew()
        except OutboxError as exc:
            log.warning("somebody deleted the outbox's lock file, and now another program has it", reason=str(exc))

    def rebuild(self) -> sqlite3.Connection:
        """Replace the damaged file and return a connection to the new one.

        Lets ``sqlite3.Error`` out and raises ``OutboxError``: then it may be tried again.
        """
        if time.monotonic() < self._rebuild_from:
            raise OutboxError(
                f"{self.path} is damaged again within {AGAIN_S:g} s of being replaced",
                remedy="check the disk and the memory of this machine",
            )
        replacement = replace_damaged(
            self.path, self._writer, self.places, let_go=self._let_go, hurry=lambda: self._ending
        )
        self._rebuild_from = time.monotonic() + AGAIN_S
        return self._go_on(replacement)

    def restore(self) -> None:
        """Write a lost file again from the connection that still has it.

        Lets ``sqlite3.Error`` out and raises ``OutboxError``: then it may be tried again.
        """
        here, known = self._identity()[0], self._known[0]
        replacement = replace_lost(self.writer(), self.path, self._mode, foreign=here is not None and here != known)
        self._let_go()
        self.keep_ownership()
        self._go_on(replacement)

    def _let_go(self) -> None:
        """Close both connections. In this order neither is a last one that may write: that one would copy its log into
        the file, and a damaged log must not get there.
        """
        with self._reading:
            self.close()
            self._stop_reading()

    def _go_on(self, replacement: Replacement) -> sqlite3.Connection:
        connection = open_database(self.path, timeout_s=self._timeout_s, check=False)
        self._begin(connection)
        self._replaced(replacement)
        return connection

    def _begin(self, connection: sqlite3.Connection) -> None:
        try:
            self._configure(connection)
            with self._reading:
                if not self._ending:
                    self._reader = connect(self.path, read_only=True)
                    self._reader.execute("SELECT 1 FROM cursor LIMIT 1")
        except BaseException:
            connection.close()
            with self._reading:
                self._stop_reading()
            raise
        self._writer = connection
        self._known = self._identity()
        self._mode = mode_of(self.path)
        self.generation += 1

    def _stop_reading(self) -> None:
        reader, self._reader = self._reader, None
        if reader is not None:
            reader.close()

    def _identity(self) -> tuple[tuple[int, int] | None, ...]:
        return tuple(_inode(f"{self.path}{suffix}") for suffix in ("", "-wal", "-shm"))


def _inode(name: str) -> tuple[int, int] | None:
    try:
        found = os.stat(name)
    except (FileNotFoundError, NotADirectoryError):
        return None
    return found.st_dev, found.st_ino
