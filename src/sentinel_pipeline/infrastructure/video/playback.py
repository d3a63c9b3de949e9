"""The pace at which a file is played, so that it behaves as a camera does."""

from __future__ import annotations


class Playback:
    """Holds the pictures of a file back to the rate of their timestamps. Pure: times come in. One thread only.

    read_timeout: seconds for which a source may hand out nothing. A pause in the file that is longer is shortened:
    waited for in full, it would look like a read that hangs, and the file would be started over at it for ever.
    """

    _GAP = 10.0  # seconds; a longer wait means a damaged timestamp
    _SHARE = 0.9  # of the read time-out; the rest is for reading and decoding

    def __init__(self, read_timeout: float) -> None:
        self._longest = self._SHARE * read_timeout
        self._offset: float | None = None  # monotonic time of timestamp 0

    def restart(self) -> None:
        """Start over with the next picture: the file was rewound."""
        self._offset = None

    def wait(self, pts: float | None, now: float) -> float:
        """Return the seconds to wait before the picture with this timestamp; ``now`` in monotonic seconds."""
        if pts is None:
            return 0.0
        if self._offset is None or not -self._GAP < pts + self._offset - now < self._GAP:
            self._offset = now - pts
        self._offset = min(self._offset, now + self._longest - pts)
        return max(0.0, pts + self._offset - now)
