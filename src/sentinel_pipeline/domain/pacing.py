"""The constant output rate: which output slot a picture gets, and when the last one must be repeated."""

from __future__ import annotations

from math import floor


class Pacer:
    """Assigns pictures to slots of 1/fps seconds, as they arrive. Pure: times come in. One thread only.

    A picture goes out at once, in the slot nearest to its arrival, so that a camera at the output rate has no waiting
    and no repeats in spite of jitter of up to half an interval. Of a picture with stream time the jitter does not count
    at all: one that the network held up gets the slot that it would have had. A slot that stays empty gets the last
    picture again half an interval later, and later still, by an interval at most, where pictures are held up.
    Slots never repeat and never go back.

    The grid follows the mean arrival by up to half an interval either way: where the first picture happened to come
    late, the jitter of all later ones would otherwise lie across the border of two slots. It follows no further, so
    that a camera whose clock is off is repeated or skipped now and then and the output stays in step with real time.
    """

    _FOLLOW = 0.05  # share of each deviation by which the grid, and the mean delay, moves
    _LEARN = 0.002  # share of each deviation that counts as the camera's clock being slow or fast
    _JITTER = 0.25  # seconds; a larger deviation is a stall or a jump of the camera's clock
    _FORGET = 0.99  # share of the patience for pictures held up that is left a picture later
    _BEHIND = 1.0  # seconds; further behind than that (a suspended machine) slots are skipped, not filled

    def __init__(self, fps: float) -> None:
        self._fps = fps
        self._start: float | None = None
        self._shift = 0.0  # of the grid, in intervals, within half an interval
        self._delay: float | None = None  # mean of arrival less stream time, in seconds
        self._drift = 0.0  # by which it grows from picture to picture
        self._patience = 0.0  # intervals for which a slot is kept for a picture that is held up
        self._next = 0
        self.skipped = 0

    def arrive(self, now: float, pts: float | None = None) -> range:
        """Return the slots due at the arrival of a picture: the last for it, those before for the picture before it.

        Empty when its slot is taken already: the source is faster than the output. ``pts``: its stream time in seconds.
        """
        if self._start is None:
            self._start = now
        steady = self._without_jitter(now, pts)
        place = (steady - self._start) * self._fps - self._shift
        if floor(place + 0.5) < self._next and now - steady > 1 / self._fps and pts is not None:
            self._delay = now - pts  # stream time says that it is overdue, again: it is stream time that is slow
            place = (now - self._start) * self._fps - self._shift
        slot = floor(place + 0.5)
        self._shift = min(max(self._shift + self._FOLLOW * (place - slot), -0.5), 0.5)
        return self._take(slot)

    def due(self, now: float) -> range:
        """Return the slots that must be filled with the last picture by now."""
        if self._start is None:
            return range(0)
        return self._take(floor((now - self._start) * self._fps - self._shift - 1.0 - self._patience + 1e-6))

    def wait(self, now: float) -> float | None:
        """Return the seconds until ``due`` has something to say; None before the first picture."""
        if self._start is None:
            return None
        return max(0.0, self._start + (self._next + self._shift + 1.0 + self._patience) / self._fps - now)

    def _without_jitter(self, now: float, pts: float | None) -> float:
        """Return when a picture would have come had nothing held it up; never later than it came."""
        if pts is None:
            return now
        late = 0.0 if self._delay is None else now - pts - self._delay
        if self._delay is None or abs(late) > self._JITTER:
            self._delay, self._drift = now - pts, 0.0
            return now
        self._drift += self._LEARN * late
        self._delay += self._drift + self._FOLLOW * late
        self._patience = max(self._FORGET * self._patience, min(1.0, late * self._fps))
        return min(now, pts + self._delay)

    def _take(self, slot: int) -> range:
        if slot < self._next:
            return range(0)
        first = self._next
        if slot - first > self._BEHIND * self._fps:
            self.skipped += slot - first
            first = slot
        self._next = slot + 1
        return range(first, slot + 1)


class Thinning:
    """Says which slots a picture is worth encoding for: all while somebody watches, else one in ``every`` seconds.

    That one keeps the path alive at the media server, which can only say who watches a path that is there. Pure; slots
    come in increasing order. One thread only.

    alone: whether the picture wanted last must be decodable alone: nobody has the one before it, or it is long ago.
    """

    def __init__(self, fps: float, every: float = 2.0) -> None:
        self._step = max(1, round(fps * every))
        self._last: int | None = None
        self._watched = True
        self.alone = False

    def wants(self, slot: int, *, watched: bool) -> bool:
        """Return whether to encode a picture for ``slot``, and take it as done."""
        if not watched and self._last is not None and slot - self._last < self._step:
            return False
        self.alone = not (watched and self._watched)
        self._last, self._watched = slot, watched
        return True
