"""What a stream's worker says about its camera: lost, found, pictures of another size."""

from __future__ import annotations

import time
from collections.abc import Callable

from sentinel_pipeline.application.event.stream_events import StreamEvents
from sentinel_pipeline.domain.frame import Frame


class StreamWatch:
    """Sees every picture (``frame``, from the capture thread) and every failure (``lost``) of one worker.

    settled: whether everything that was found in the pictures so far has been emitted.
    keep_newest: keep the newest picture, several megabytes of memory, for whoever asks for a snapshot.
    newest: that picture, which may be old when the camera is away; read from any thread. None where it is not kept.
    """

    def __init__(
        self,
        events: StreamEvents | None = None,
        settled: Callable[[], bool] = lambda: True,
        *,
        keep_newest: bool = False,
    ) -> None:
        self._events, self._settled, self._keep_newest = events, settled, keep_newest
        self._size: tuple[int, int] | None = None  # of the newest picture
        self._ahead: float | None = None  # seconds by which the camera's Unix time is ahead of our monotonic time
        self.newest: Frame | None = None

    def frame(self, frame: Frame) -> None:
        """Take notice of a picture; never blocks."""
        if self._keep_newest:
            self.newest = frame
        before, self._size = self._size, frame.size
        self._ahead = frame.captured_at - frame.received_at
        if self._events is None:
            return
        if self._events.outage is not None:
            self._events.up(frame.captured_at)
        if before is not None and before != frame.size:
            self._events.resized(before, frame.size, frame.captured_at)

    def lost(self, reason: str) -> None:
        """Take notice of a connection that ended, or was not to be had; never blocks."""
        if self._events is not None:
            self._events.down(reason, self._now(), self._settled)

    def _now(self) -> float:
        """Return the present in the camera's own time, Unix seconds, so that its events stay in order."""
        return time.time() if self._ahead is None else time.monotonic() + self._ahead
