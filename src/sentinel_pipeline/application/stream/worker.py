"""One supervised stream: connects, feeds its pipeline, reconnects for ever."""

from __future__ import annotations

import time
from collections.abc import Callable
from threading import Event as Flag
from threading import Lock, Thread

from sentinel_pipeline.application.pipeline.pipeline import Pipeline
from sentinel_pipeline.application.ports import FrameSource
from sentinel_pipeline.application.stream.capture import Capture
from sentinel_pipeline.application.stream.health import StreamHealth
from sentinel_pipeline.application.stream.supervisor import supervise
from sentinel_pipeline.domain.backoff import Retry
from sentinel_pipeline.domain.errors import SentinelError, StreamRefused
from sentinel_pipeline.domain.frame import Frame
from sentinel_pipeline.domain.streams import StreamSpec, StreamState

# Cameras lock an account after a few wrong passwords, so that a refused login is repeated rarely.
REFUSED_LOGIN = (401, 403)
REFUSED_DELAY = 60.0


class StreamWorker:
    """Owns the threads of one stream. ``start`` once; ``stop`` and ``join`` from any thread."""

    def __init__(
        self,
        spec: StreamSpec,
        *,
        open_source: Callable[[StreamHealth], FrameSource],
        make_pipeline: Callable[[StreamSpec, StreamHealth], Pipeline],
    ) -> None:
        self.spec = spec
        self.health = StreamHealth(spec.id)
        self._open_source = open_source
        self._pipeline = make_pipeline(spec, self.health)
        self._stop = Flag()
        self._lock = Lock()
        self._capture: Capture | None = None
        self._ran = False
        self._thread = Thread(target=self._supervise, name=f"stream:{spec.id}")

    @property
    def newest_frame(self) -> Frame | None:
        """The newest frame, None before the first."""
        return self._pipeline.newest_frame

    def start(self) -> None:
        """Start the stream's threads."""
        self.health.move(StreamState.CONNECTING)
        self._pipeline.start()
        self._thread.start()

    def stop(self) -> None:
        """Tell all threads to end; returns at once."""
        self._stop.set()
        with self._lock:
            if self._capture is not None:
                self._capture.interrupt()
        self._pipeline.close()

    def join(self, deadline: float) -> bool:
        """Wait until monotonic time ``deadline``; return whether every thread has ended."""
        if self._thread.ident is not None:
            self._thread.join(max(0.0, deadline - time.monotonic()))
        ended = self._pipeline.join(deadline) and not self._thread.is_alive()
        if ended:
            self.health.move(StreamState.STOPPED, "stopped")
        return ended

    def _supervise(self) -> None:
        reconnect = self.spec.reconnect
        retry = Retry(reconnect.base_delay, reconnect.max_delay, reconnect.max_retries)
        supervise(
            self._connect,
            retry,
            self._stop,
            failed=self._failed,
            given_up=self._given_up,
        )

    def _connect(self, alive: Callable[[], None]) -> None:
        def frame_came() -> None:
            alive()
            if self.health.state is not StreamState.RUNNING:
                self.health.reconnects += self._ran
                self._ran = True
                self.health.move(StreamState.RUNNING)

        source, received = self._open_source(self.health), self.health.received
        capture = Capture(self.spec.id, source, self._pipeline.accept, self.spec.decode, lambda: received.last)
        with self._lock:
            if self._stop.is_set():
                return
            self._capture = capture
        try:
            capture.run(frame_came)
        finally:
            with self._lock:
                self._capture = None

    def _failed(self, error: SentinelError) -> float:
        if not isinstance(error, StreamRefused):
            self.health.move(StreamState.RECONNECTING, str(error))
            return 0.0
        login = error.status in REFUSED_LOGIN
        # A server in front of the camera answers 404 while the camera is away: that is a loss, not a wrong path.
        self.health.move(StreamState.FAILED if login or not self._ran else StreamState.RECONNECTING, str(error))
        return REFUSED_DELAY if login else 0.0

    def _given_up(self, error: SentinelError) -> None:
        self.health.move(StreamState.FAILED, f"given up after {self.spec.reconnect.max_retries} retries: {error}")
