"""A mailbox that holds frames back until there was time to look at them."""

from __future__ import annotations

import math
import time

from sentinel_pipeline.application.pipeline.mailbox import Mailbox
from sentinel_pipeline.domain.frame import Frame


class DelayLine(Mailbox[Frame]):
    """Hands frames out in order ``delay`` seconds after they were received, none before; those due are a mailbox.

    Of frames whose time has come the newest ``size`` are kept, as in other mailboxes, so that a reader that is slower
    than the camera gets none that is old; the others are dropped and counted. Of a camera with more than ``_MOST_FPS``
    frames per second some are not taken, counted too: the oldest cannot make room before its time, which would never
    come. After ``close`` nothing is handed out any more: what has not been looked at stays here.
    """

    _MOST_FPS = 60

    def __init__(self, delay: float, size: int) -> None:
        super().__init__(size + math.ceil(delay * self._MOST_FPS))
        self._delay, self._size = delay, size

    def put(self, item: Frame) -> None:
        """Take a frame; never blocks. What finds no room, or comes after ``close``, is dropped and counted."""
        with self._ready:
            self._drop_overtaken(time.monotonic())
            if self._closed or len(self._items) == self._items.maxlen:
                self._dropped += 1
                return
            self._items.append(item)
            self._ready.notify()

    def get(self, timeout: float | None = None) -> Frame | None:
        """Return the oldest kept frame whose time has come; None when time is up before, or after ``close``."""
        until = math.inf if timeout is None else time.monotonic() + timeout
        with self._ready:
            while not self._closed:
                now = time.monotonic()
                self._drop_overtaken(now)
                due = self._due(0) if self._items else math.inf
                if due <= now:
                    return self._items.popleft()
                if until <= now:
                    return None
                wait = min(due, until) - now
                self._ready.wait(None if wait == math.inf else wait)
            return None

    def _drop_overtaken(self, now: float) -> None:
        """Drop and count the frames behind which ``size`` newer ones are due already."""
        while len(self._items) > self._size and self._due(self._size) <= now:
            self._items.popleft()
            self._dropped += 1

    def _due(self, index: int) -> float:
        return self._items[index].received_at + self._delay
