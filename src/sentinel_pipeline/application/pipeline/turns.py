"""Whose turn it is at a model, and how long an incomplete batch waits for company. Pure decisions: times come in."""

from __future__ import annotations

from collections import deque
from statistics import median

CALLER_WINDOW = 1.0  # seconds; a stream that has not asked for so long is not waited for
PATIENCE = 2.0  # how many usual gaps the next request is given to come


def batch_due(queued: int, oldest_age: float, callers: int, max_size: int, window: float) -> float | None:
    """Return the seconds until the queue should run as a batch: 0 now, None when it is empty.

    ``callers``: how many threads have asked lately. Each has one request in flight at most, so once as many are queued
    nobody is left to wait for; a single caller therefore never waits, and neither does anybody with ``max_size`` 1.
    oldest_age: seconds that the first request has been queued. window: seconds that it may be held back.
    """
    if queued == 0:
        return None
    if queued >= min(max_size, callers):
        return 0.0
    return max(0.0, window - oldest_age)


def latest_start(expires_at: float, queued_at: float, takes: float) -> float:
    """Return by when a request must begin to be done when it expires, if the model takes ``takes`` seconds.

    Half of its time it may wait in any case: with a model that takes longer than pictures may be old, late answers are
    better than none.
    """
    return expires_at - min(takes, (expires_at - queued_at) / 2)


class Runs:
    """Watches how long requests take, from the start of their batch to the answer. Not thread-safe."""

    def __init__(self, size: int = 32) -> None:
        self._seconds: deque[float] = deque(maxlen=size)

    def note(self, seconds: float) -> None:
        """Take in that a request took ``seconds``."""
        self._seconds.append(seconds)

    def usual(self) -> float:
        """Return how long one takes at most, leaving out one hiccup among the last ones; 0 when nothing is known."""
        return sorted(self._seconds)[-2] if len(self._seconds) > 1 else 0.0


class Gaps:
    """Watches how closely requests follow one another. Not thread-safe."""

    def __init__(self, size: int = 32) -> None:
        self._gaps: deque[float] = deque(maxlen=size)
        self._last: float | None = None

    def note(self, now: float) -> None:
        """Take in a request at ``now`` (monotonic seconds)."""
        if self._last is not None:
            self._gaps.append(max(0.0, now - self._last))
        self._last = now

    def window(self, missing: int, max_wait: float) -> float:
        """Return how long it pays to wait for ``missing`` more requests, at most ``max_wait`` seconds.

        Twice what they usually take to come. Nothing when not even one usually comes within ``max_wait``: waiting would
        cost latency and gain no company. The median gap decides, so that cameras in step, which ask together and then
        pause, are waited for as briefly as they need.
        """
        if not self._gaps:
            return max_wait
        usual = median(self._gaps)
        return min(max_wait, PATIENCE * missing * usual) if usual <= max_wait else 0.0


class Callers:
    """Knows the threads that have asked within the last ``window`` seconds, and when each was served. Not thread-safe.

    A caller that was not served keeps its place before those who were, even when its request grows too old in the
    queue and is replaced by a newer one: at overload everybody is served in turn, however fast each of them asks.
    """

    def __init__(self, window: float = CALLER_WINDOW) -> None:
        self._window = window
        self._seen: dict[object, float] = {}
        self._served: dict[object, int] = {}
        self._turn = 0

    def note(self, caller: object, now: float) -> None:
        """Take in that ``caller`` (a thread) asks at ``now`` (monotonic seconds)."""
        self._seen[caller] = now

    def serve(self, caller: object) -> None:
        """Take in that it is served: it is now the last in turn."""
        self._turn += 1
        self._served[caller] = self._turn

    def turn(self, caller: object) -> int:
        """Return a number by which to sort: the lowest is next. Who was never served comes first."""
        return self._served.get(caller, 0)

    def count(self, now: float) -> int:
        """Return how many asked lately, and forget the others."""
        self._seen = {caller: at for caller, at in self._seen.items() if now - at <= self._window}
        self._served = {caller: turn for caller, turn in self._served.items() if caller in self._seen}
        return len(self._seen)
