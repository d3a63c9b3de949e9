"""A mailbox that holds frames back until there was time to look at them."""

from __future__ import annotations

import math
import time

from sentinel_pipeline.application.pipeline.mailbox import Mailbox
from sentinel_pipeline.domain.frame import Frame


class DelayLine(Mailbox[Frame]):
    """Hands each frame out ``delay`` seconds after it was received, in order.

    Of a camera with more than ``_MOST_FPS`` frames per second some are not taken, counted; the oldest cannot make room
    as in other mailboxes, because its time would never come. After ``close`` nothing is handed out any more: what has
    not been looked at stays here.
    """

    _MOST_FPS = 60

    def __init__(self, delay: float) -> None:
        super().__init__(max(2, math.ceil(delay * self._MOST_FPS)))
        self._delay = delay

    def put(self, item: Frame) -> None:
        """Take a frame; never blocks. What finds no room, or comes after ``close``, is dropped and counted."""
        with self._ready:
            if self._closed or len(self._items) == self._items.maxlen:
                self._dropped += 1
                return
            self._items.append(item)
            self._ready.notify()

    def get(self, timeout: float | None = None) -> Frame | None:
        """Return the oldest frame once its time has come; None when time is up before, or after ``close``."""
        until = math.inf if timeout is None else time.monotonic() + timeout
        with self._ready:
            while not self._closed:
                now = time.monotonic()
                due = self._items[0].received_at + self._delay if self._items else math.inf
                if due <= now:
                    return self._items.popleft()
                if until <= now:
                    return None
                wait = min(due, until) - now
                self._ready.wait(None if wait == math.inf else wait)
            return None
