"""Small measures of what happens often: a rate, and quantiles of a duration."""

from __future__ import annotations

from collections import deque
from threading import Lock

import numpy as np


class RateMeter:
    """Events per second over the last ``window`` seconds. Safe from any thread; times come in."""

    def __init__(self, window: float = 5.0) -> None:
        self._window = window
        self._times: deque[float] = deque()
        self._lock = Lock()
        self.total = 0
        self.last: float | None = None  # when the last event came, monotonic seconds

    def tick(self, now: float) -> None:
        """Count one event at monotonic time ``now``."""
        with self._lock:
            self.total += 1
            self.last = now
            self._times.append(now)
            self._forget(now)

    def rate(self, now: float) -> float:
        """Return events per second; 0 when nothing came within the window."""
        with self._lock:
            self._forget(now)
            if len(self._times) < 2:
                return 0.0
            # Spans the silence since the last event only when that is longer than usual, so that a steady source
            # reads exactly its rate and a stalled one sinks to 0.
            span = self._times[-1] - self._times[0]
            usual = span / (len(self._times) - 1)
            return (len(self._times) - 1) / (span + max(0.0, now - self._times[-1] - 2 * usual) or 1e-9)

    def _forget(self, now: float) -> None:
        while self._times and now - self._times[0] > self._window:
            self._times.popleft()


class Quantiles:
    """Quantiles over the last ``size`` durations. Safe from any thread."""

    def __init__(self, size: int = 1000) -> None:
        self._values: deque[float] = deque(maxlen=size)
        self._lock = Lock()

    def add(self, value: float) -> None:
        """Take in one duration, in any unit."""
        with self._lock:
            self._values.append(value)

    def snapshot(self) -> dict[str, float]:
        """Return p50, p95 and p99 in the unit of the durations; zeros when there is none."""
        with self._lock:
            values = list(self._values)
        p50, p95, p99 = np.percentile(values, (50, 95, 99)) if values else (0.0, 0.0, 0.0)
        return {"p50": round(float(p50), 2), "p95": round(float(p95), 2), "p99": round(float(p99), 2)}
