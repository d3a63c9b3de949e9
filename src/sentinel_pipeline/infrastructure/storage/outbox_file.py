"""The file under a running outbox: its owner, its two connections, and what is done when it is damaged or deleted."""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TypeVar

from sentinel_pipeline.domain.errors import OutboxError
from sentinel_pipeline.infrastructure.storage.owner_lock import OwnerLock
from sentinel_pipeline.infrastructure.storage.place import ensure_place
from sentinel_pipeline.infrastructure.storage.rescue import (
    Places,
    Replacement,
    finish_replacement,
    mode_of,
    open_or_replace,
    replace_damaged,
    replace_lost,
)
from sentinel_pipeline.infrastructure.storage.schema import connect, damage, explain, is_damage, open_database

T = TypeVar("T")

AGAIN_S = 30.0  # between two replacements that leave a file behind: a bad disk must not be filled
REST = 10.0  # a replacement that failed is tried again after so many times as long as the try took, AGAIN_S at most


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
        self._aside_from = 0.0  # when the next file may be set aside
        self._retry_from = 0.0  # when a replacement may be tried again, and why the last one failed
        self._reason, self._remedy = "", ""
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
        """Return the writing connection; opens the file again when a replacement of it was cut short.

        Raises like ``rebuild``.
        """
        return self._writer or self._reopen()

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
        if self._writer is None:
            return False
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
        """Lock the lock file anew if somebody has deleted it. Raises ``OutboxError``: the file is not ours now."""
        self._owner.renew()

    def rebuild(self) -> sqlite3.Connection:
        """Replace the damaged file and return a connection to the new one.

        Lets ``sqlite3.Error`` out and raises ``OutboxError``: then it may be tried again.
        """
        if time.monotonic() < self._aside_from:
            raise OutboxError(
                f"{self.path} is damaged again within {AGAIN_S:g} s of being replaced",
                remedy="check the disk and the memory of this machine",
            )
        with self._paced():
            replacement = replace_damaged(
                self.path, self._writer, self.places, let_go=self._let_go, hurry=lambda: self._ending
            )
        self._note(replacement)
        return self._go_on()

    def restore(self, *, at_once: bool = False) -> None:
        """Write a lost file again from the connection that still has it; nothing when another program has the lock.

        ``at_once``: whether to try also when a try has just failed.

        Lets ``sqlite3.Error`` out and raises ``OutboxError``: then it may be tried again.
        """
        self.keep_ownership()
        here, known = self._identity()[0], self._known[0]
        foreign = here is not None and here != known
        if foreign and time.monotonic() < self._aside_from and not at_once:
            raise OutboxError(
                f"another file was put in the place of {self.path} again within {AGAIN_S:g} s",
                remedy="find out what does that, and end it",
            )
        try:
            with self._paced(at_once=at_once):
                replacement = replace_lost(self.writer(), self.path, self._mode, foreign=foreign)
        except sqlite3.Error:  # what is open is damaged as well
            self.rebuild()
            return
        self._let_go()
        self._note(replacement)
        self._go_on()

    @contextmanager
    def _paced(self, *, at_once: bool = False) -> Iterator[None]:
        """Let a try that copies the whole file, and failed, not be made again for each event.

        Lets only a ``sqlite3.Error`` that means damage out; raises ``OutboxError`` for all others.
        """
        began = time.monotonic()
        if began < self._retry_from and not at_once:
            raise OutboxError(self._reason, remedy=self._remedy)
        try:
            yield
        except (OutboxError, sqlite3.Error) as exc:
            if isinstance(exc, sqlite3.Error) and is_damage(exc):
                raise
            why = exc if isinstance(exc, OutboxError) else explain(exc, self.path)
            self._reason, self._remedy = why.args[0], why.remedy
            now = time.monotonic()
            self._retry_from = now + min(AGAIN_S, REST * (now - began))
            raise OutboxError(self._reason, remedy=self._remedy) from exc

    def _note(self, replacement: Replacement) -> None:
        if replacement.aside is not None:
            self._aside_from = time.monotonic() + AGAIN_S
        self._replaced(replacement)

    def _let_go(self) -> None:
        """Close both connections. In this order neither is a last one that may write: that one would copy its log into
        the file, and a damaged log must not get there.
        """
        with self._reading:
            self.close()
            self._stop_reading()

    def _reopen(self) -> sqlite3.Connection:
        """Open a file that was let go to be replaced; perhaps it was, perhaps half, perhaps it is still damaged."""
        finished = finish_replacement(self.path)
        if finished is not None:
            self._note(finished)
        if self.path.exists():
            try:
                return self._go_on(check=True)
            except sqlite3.Error as exc:
                if not is_damage(exc):
                    raise
        return self.rebuild()

    def _go_on(self, *, check: bool = False) -> sqlite3.Connection:
        connection = open_database(self.path, timeout_s=self._timeout_s, check=check)
        self._begin(connection)
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
