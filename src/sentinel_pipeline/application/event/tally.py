"""Many equal happenings, one log line."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable


class Tally:
    """Counts always, reports at most once per ``every`` seconds. Thread-safe.

    ``report(news, total)``: how many since the last report, and how many in all.
    """

    def __init__(
        self, report: Callable[[int, int], None], *, every: float = 5.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._report = report
        self._every = every
        self._clock = clock
        self._lock = threading.Lock()
        self._total = 0
        self._reported = 0
        self._next = 0.0

    @property
    def total(self) -> int:
        """How many there were in all."""
        return self._total

    def add(self, count: int = 1) -> None:
        """Count ``count`` more."""
        with self._lock:
            self._total += count
        self.flush()

    def flush(self, *, now: bool = False) -> None:
        """Report what is not reported yet, if it is time; ``now`` (at the end) without waiting for the time."""
        with self._lock:
            news, total = self._total - self._reported, self._total
            due = news and (now or self._clock() >= self._next)
            if due:
                self._reported, self._next = total, self._clock() + self._every
        if due:
            self._report(news, total)
