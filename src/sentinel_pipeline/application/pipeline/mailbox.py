"""The bounded hand-over between two threads: newest first, the writer never waits."""

from __future__ import annotations

from collections import deque
from threading import Condition
from typing import Generic, TypeVar

T = TypeVar("T")


class Mailbox(Generic[T]):
    """Keeps the newest ``size`` items; a full mailbox drops its oldest item and counts it.

    Safe for any number of writers and readers. After ``close`` readers get what is left, then None.
    """

    def __init__(self, size: int) -> None:
        if size < 1:
            raise ValueError("a mailbox holds at least one item")
        self._items: deque[T] = deque(maxlen=size)
        self._ready = Condition()
        self._dropped = 0
        self._closed = False

    @property
    def dropped(self) -> int:
        """How many items were pushed out by newer ones."""
        return self._dropped

    def __len__(self) -> int:
        """How many items wait."""
        return len(self._items)

    @property
    def closed(self) -> bool:
        """Whether ``close`` was called."""
        return self._closed

    def put(self, item: T) -> None:
        """Hand over ``item``; never blocks. After ``close`` the item is dropped and counted."""
        with self._ready:
            if self._closed:
                self._dropped += 1
                return
            self._dropped += len(self._items) == self._items.maxlen
            self._items.append(item)
            self._ready.notify()

    def get(self, timeout: float | None = None) -> T | None:
        """Return the oldest item kept, waiting up to ``timeout`` seconds; None when time is up or all is over."""
        with self._ready:
            self._ready.wait_for(lambda: self._items or self._closed, timeout)
            return self._items.popleft() if self._items else None

    def latest(self, timeout: float | None = None) -> T | None:
        """Return the newest item and drop (and count) those before it; waits like ``get``."""
        with self._ready:
            self._ready.wait_for(lambda: self._items or self._closed, timeout)
            if not self._items:
                return None
            newest = self._items.pop()
            self._dropped += len(self._items)
            self._items.clear()
            return newest

    def close(self) -> None:
        """Wake every waiting reader; may be called more than once."""
        with self._ready:
            self._closed = True
            self._ready.notify_all()
