"""What a stream's worker says about its camera: lost, found, pictures of another size. Keeps the newest picture."""

from __future__ import annotations

import time
from collections.abc import Callable

from sentinel_pipeline.application.event.stream_events import StreamEvents
from sentinel_pipeline.domain.frame import Frame


class StreamWatch:
    """Sees every picture (``frame``, from the capture thread) and every failure (``lost``) of one worker.

    settled: whether everything that was found in the pictures so far has been emitted.
    newest: the newest picture, which may be old when the camera is away; read from any thread.
    """

    def __init__(self, events: StreamEvents | None = None, settled: Callable[[], bool] = lambda: True) -> None:
        self._events, self._settled = events, settled
        self.newest: Frame | None = None

    def frame(self, frame: Frame) -> None:
        """Take notice of a picture; never blocks."""
        last, self.newest = self.newest, frame
        if self._events is None:
            return
        if self._events.outage is not None:
            self._events.up(frame.captured_at)
        if last is not None and last.size != frame.size:
            self._events.resized(last.size, frame.size, frame.captured_at)

    def lost(self, reason: str) -> None:
        """Take notice of a connection that ended, or was not to be had; never blocks."""
        if self._events is not None:
            self._events.down(reason, self._now(), self._settled)

    def _now(self) -> float:
        """Return the present in the camera's own time, Unix seconds, so that its events stay in order."""
        if self.newest is None:
            return time.time()
        return self.newest.captured_at + (time.monotonic() - self.newest.received_at)
