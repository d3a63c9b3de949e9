"""Stream time that only moves forward, made from timestamps that do not."""

from __future__ import annotations

_LEAST = 1e-4  # seconds between two pictures


class Timeline:
    """Turns presentation timestamps into stream time in seconds, from 0, always increasing.

    Cameras jump: the clock is set, the RTP timestamp wraps, an edited file starts over, a timestamp is missing. A step
    back, or one that is more than ``max_jump`` seconds ahead of what was received meanwhile, is replaced by the time
    that passed at the receiver. So is no step at all, and the next step is that much shorter: no two pictures have the
    same time, and two fields with one timestamp do not make time run faster. One object serves a stream for its whole
    life; ``restart`` marks a new connection.
    Pure: the receive time comes in. One thread only.
    """

    def __init__(self, max_jump: float = 10.0) -> None:
        self._max_jump = max_jump
        self._pts: float | None = None  # the last timestamp seen
        self._now: float | None = None  # when it was received
        self._time = 0.0
        self._ahead = 0.0  # seconds by which stream time has gone on while timestamps stood still
        self.jumps = 0

    def restart(self) -> None:
        """Expect timestamps that have nothing to do with those before: a new connection."""
        self._pts, self._ahead = None, 0.0

    def stamp(self, pts: float | None, now: float) -> float:
        """Return the stream time of a frame.

        ``pts``: its timestamp in seconds, None when missing; ``now``: monotonic seconds when it was received.
        """
        if self._now is None:
            self._pts, self._now = pts, now
            return self._time
        elapsed = max(0.0, now - self._now)
        step = elapsed
        if pts is not None and self._pts is not None:
            moved = pts - self._pts
            if moved == 0.0:
                self._ahead += elapsed
            elif 0.0 < moved <= elapsed + self._max_jump:
                step = max(moved - self._ahead, _LEAST)
                self._ahead += step - moved
            else:
                self.jumps += 1
        self._pts, self._now = pts, now
        self._time += max(step, _LEAST)
        return self._time
