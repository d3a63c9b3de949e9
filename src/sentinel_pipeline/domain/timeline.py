"""Stream time that only moves forward, made from timestamps that do not."""

from __future__ import annotations


class Timeline:
    """Turns presentation timestamps into stream time in seconds, from 0, never decreasing.

    Cameras jump: the clock is set, the RTP timestamp wraps, an edited file starts over, a timestamp is missing. A step
    back, or one that is more than ``max_jump`` seconds ahead of what was received meanwhile, is replaced by the time
    that passed at the receiver. One object serves a stream for its whole life; ``restart`` marks a new connection.
    Pure: the receive time comes in. One thread only.
    """

    def __init__(self, max_jump: float = 10.0) -> None:
        self._max_jump = max_jump
        self._pts: float | None = None  # the last timestamp seen
        self._now: float | None = None  # when it was received
        self._time = 0.0
        self.jumps = 0

    def restart(self) -> None:
        """Expect timestamps that have nothing to do with those before: a new connection."""
        self._pts = None

    def stamp(self, pts: float | None, now: float) -> float:
        """Return the stream time of a frame.

        ``pts``: its timestamp in seconds, None when missing; ``now``: monotonic seconds when it was received.
        """
        elapsed = 0.0 if self._now is None else max(0.0, now - self._now)
        if pts is None or self._pts is None:
            step = elapsed
        else:
            step = pts - self._pts
            if not 0.0 <= step <= elapsed + self._max_jump:
                self.jumps += 1
                step = elapsed
        self._pts, self._now = pts, now
        self._time += step
        return self._time
