"""When to try again: the one source of waiting times for cameras, outputs and sinks."""

from __future__ import annotations

import random
from collections.abc import Iterator


def backoff(base_delay: float = 1.0, max_delay: float = 30.0, jitter: float = 0.2) -> Iterator[float]:
    """Yield seconds to wait: base, 2*base, 4*base, ... never above ``max_delay``.

    ``jitter`` in [0, 1] takes up to that share off each delay at random, so that a hundred cameras behind one switch do
    not come back in step.
    """
    delay = base_delay
    while True:
        yield min(delay, max_delay) * (1 - jitter * random.random())  # noqa: S311 - spreading load, not a secret
        delay = min(delay * 2, max_delay)


class Retry:
    """Decides how long to wait after each failure; starts over once an attempt has lived long enough.

    Pure: takes durations, keeps no clock. Not thread-safe; one owner each.
    """

    def __init__(
        self,
        base_delay: float = 1.0,
        max_delay: float = 30.0,
        max_retries: int | None = None,
        *,
        healthy_after: float = 5.0,
        jitter: float = 0.2,
    ) -> None:
        self._base_delay, self._max_delay, self._jitter = base_delay, max_delay, jitter
        self._max_retries = max_retries
        self._healthy_after = healthy_after
        self._delays = backoff(base_delay, max_delay, jitter)
        self.attempts = 0

    def failed(self, lived_s: float) -> float | None:
        """Return the seconds to wait after a failure, or None when ``max_retries`` failures in a row are reached.

        ``lived_s``: how long the attempt was well before it failed; 0 when it never was.
        """
        if lived_s >= self._healthy_after:
            self._delays = backoff(self._base_delay, self._max_delay, self._jitter)
            self.attempts = 0
        self.attempts += 1
        if self._max_retries is not None and self.attempts > self._max_retries:
            return None
        return next(self._delays)
