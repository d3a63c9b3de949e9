"""One owner per outbox: a lock that the kernel gives back when its process dies, however it dies."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from sentinel_pipeline.domain.errors import OutboxError


class OwnerLock:
    """Holds ``<outbox>.lock`` from ``acquire`` to ``release``; the file holds the owner's process id for people.

    The file itself stays: removing it would let two owners lock two different files of the same name.
    """

    def __init__(self, outbox: Path) -> None:
        self._outbox = outbox
        self.path = Path(f"{outbox}.lock")
        self._descriptor: int | None = None

    def acquire(self) -> None:
        """Become the owner. Raises ``OutboxError`` at once when somebody is, or when the directory refuses."""
        self._descriptor = self._take()

    def renew(self) -> None:
        """Take the lock again if its file was deleted. Raises ``OutboxError`` when somebody else has it by now."""
        if self._descriptor is None:
            return
        try:
            found, held = self.path.stat(), os.fstat(self._descriptor)
            if (found.st_dev, found.st_ino) == (held.st_dev, held.st_ino):
                return
        except FileNotFoundError:
            pass
        except OSError:
            return  # nothing is known, and a lock is held
        descriptor, self._descriptor = self._descriptor, self._take()
        os.close(descriptor)

    def _take(self) -> int:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as exc:
            raise OutboxError(
                f"no outbox can be kept at {self._outbox}: {exc.strerror}",
                remedy="name a directory that this user may write to as outbox path",
            ) from exc
        try:
            self._lock(descriptor)
        except BaseException:
            os.close(descriptor)
            raise
        return descriptor

    def _lock(self, descriptor: int) -> None:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as exc:
            owner = os.pread(descriptor, 20, 0).decode("ascii", "replace").strip() or "unknown"
            raise OutboxError(
                f"the outbox {self._outbox} is in use by process {owner}",
                remedy="end that program, or give this one its own outbox path",
            ) from exc
        except OSError as exc:
            raise OutboxError(
                f"the outbox {self._outbox} cannot be locked: {exc.strerror}",
                remedy="keep the outbox on a local disk; some network file systems have no locks",
            ) from exc
        try:
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"{os.getpid()}\n".encode("ascii"), 0)
        except OSError:
            return  # the disk is full: the lock holds all the same, only the name for people is missing

    def release(self) -> None:
        """Give the ownership back; may be called more than once."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)
