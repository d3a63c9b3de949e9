"""The constant output rate: which output slot a picture gets, and when the last one must be repeated."""

from __future__ import annotations

from math import floor


class Pacer:
    """Assigns pictures to slots of 1/fps seconds, as they arrive. Pure: times come in. One thread only.

    A picture goes out at once in the slot nearest to its arrival, so that a camera at the output rate has no waiting
    and no repeats in spite of jitter of up to half an interval. A slot that stays empty gets the last picture again
    half an interval later. Slots never repeat and never go back.
    """

    _BEHIND = 1.0  # seconds; further behind than that (a suspended machine) slots are skipped, not filled

    def __init__(self, fps: float) -> None:
        self._fps = fps
        self._start: float | None = None
        self._next = 0
        self.skipped = 0

    def arrive(self, now: float) -> range:
        """Return the slots due at the arrival of a picture: the last for it, those before for the picture before it.

        Empty when its slot is taken already: the source is faster than the output.
        """
        if self._start is None:
            self._start = now
        return self._take(floor((now - self._start) * self._fps + 0.5))

    def due(self, now: float) -> range:
        """Return the slots that must be filled with the last picture by now."""
        if self._start is None:
            return range(0)
        return self._take(floor((now - self._start) * self._fps - 1.0 + 1e-6))

    def wait(self, now: float) -> float | None:
        """Return the seconds until ``due`` has something to say; None before the first picture."""
        if self._start is None:
            return None
        return max(0.0, self._start + (self._next + 1.0) / self._fps - now)

    def _take(self, slot: int) -> range:
        if slot < self._next:
            return range(0)
        first = self._next
        if slot - first > self._BEHIND * self._fps:
            self.skipped += slot - first
            first = slot
        self._next = slot + 1
        return range(first, slot + 1)
