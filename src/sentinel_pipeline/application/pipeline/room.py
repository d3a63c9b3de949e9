"""How many pictures a model takes at once, where that is fewer than it should. Pure decisions: times come in."""

from __future__ import annotations

from collections import deque

from sentinel_pipeline.domain.backoff import Retry

REPEATS, WITHIN_S = 3, 30.0  # one failure may be a hiccup
AGAIN_S, AGAIN_MAX_S = 1.0, 60.0
STEADY_S = 30.0  # of full batches, after which the waits start over


class Room:
    """Watches batches that fail although each of their pictures succeeds alone, as with a full GPU. Not thread-safe.

    Every such batch costs twice. After ``REPEATS`` of them batches are half as large as the smallest that failed; that
    size is tried again after a while, longer each time, and once it goes well there is no limit any more.

    most: rows per batch when all is well. trouble: one sentence while batches are smaller, else empty.
    """

    def __init__(self, most: int) -> None:
        self.trouble = ""
        self._most = most
        self._failed: deque[tuple[float, int]] = deque(maxlen=REPEATS)
        self._too_many = 0  # rows of the smallest batch that failed; 0 while there is no limit
        self._again_at = 0.0
        self._well_since: float | None = None
        self._retry = Retry(AGAIN_S, AGAIN_MAX_S, healthy_after=STEADY_S)

    def limit(self, now: float) -> int:
        """Return how many rows the next batch may have, at least 1."""
        if not self._too_many:
            return self._most
        return self._too_many if now >= self._again_at else self._too_many // 2

    def failed(self, rows: int, fault: str, now: float) -> None:
        """A batch of ``rows`` (at least 2) has failed, and then each of its pictures went well alone."""
        self._failed.append((now, rows))
        sizes = [size for at, size in self._failed if now - at <= WITHIN_S]
        if not self._too_many and len(sizes) < REPEATS:
            return
        lived = 0.0 if self._well_since is None else now - self._well_since
        self._again_at = now + (self._retry.failed(lived) or 0.0)
        self._well_since = None
        old, self._too_many = self._too_many, min(*sizes, self._too_many or rows)
        if self._too_many != old:  # the same words while it stays so: messages of drivers count bytes
            self.trouble = (
                f"batches of {self._too_many} fail though each picture succeeds alone, so it runs "
                f"{self._too_many // 2} at a time: {fault}"
            )

    def well(self, rows: int, now: float) -> None:
        """A batch of ``rows`` has gone well."""
        if self._too_many and rows >= self._too_many:
            self.trouble, self._too_many, self._well_since = "", 0, now
            self._failed.clear()
