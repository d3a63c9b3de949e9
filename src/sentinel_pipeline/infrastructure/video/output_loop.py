"""The thread of one output."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Protocol

import structlog

from sentinel_pipeline.application.stream.supervisor import Alive, supervise
from sentinel_pipeline.domain.backoff import Retry
from sentinel_pipeline.domain.errors import SentinelError
from sentinel_pipeline.domain.redact import redact
from sentinel_pipeline.infrastructure.video.ffmpeg_child import FFmpegChild

log = structlog.get_logger(__name__)

STARTING, RUNNING, RETRYING, STOPPED = "starting", "running", "retrying", "stopped"


class Feeder(Protocol):
    """Gives a child its input. All calls come from the loop's thread, but for ``wake``."""

    def begin(self) -> None:
        """Prepare for a new child."""
        ...

    def step(self, child: FFmpegChild) -> int:
        """Wait at most half a second for pictures, write them, check the child; return how many were written.

        Raises ``PublishError``.
        """
        ...

    def finish(self, child: FFmpegChild) -> None:
        """Write what is left, to a healthy child that is about to be ended. Raises ``PublishError``."""
        ...

    def end(self) -> None:
        """Let go of what belonged to the child; called after every ``begin``."""
        ...

    def wake(self) -> None:
        """Make a waiting ``step`` return, from now on."""
        ...


class OutputLoop:
    """Starts a child, lets a feeder write into it until it fails, waits, and starts again.

    spawn: returns a started child or raises ``PublishError``.
    target: the output's URL, for the log.
    ``start`` begins the thread; ``close`` ends it and its child. The properties may be read from any thread.
    """

    def __init__(
        self, stream_id: str, target: str, spawn: Callable[[], FFmpegChild], feeder: Feeder, retry: Retry | None = None
    ) -> None:
        self._spawn = spawn
        self._feeder = feeder
        self._retry = retry or Retry(healthy_after=5.0)
        self._log = log.bind(stream_id=stream_id, url=redact(target))
        self._thread = threading.Thread(target=self._run, name=f"publish-{stream_id}")
        self._stop = threading.Event()
        self._stop_by = 0.0
        self._child: FFmpegChild | None = None
        self.state = STARTING
        self.reason = ""
        self.restarts = 0
        self.published = 0  # pictures given to a child whose output was open, or opened later
        self.lost = 0  # pictures given to a child whose output never opened

    def start(self) -> None:
        """Begin the thread; at most once."""
        self._thread.start()

    @property
    def child(self) -> FFmpegChild | None:
        """The child of now, None while there is none."""
        return self._child

    def ask_to_stop(self, timeout: float = 3.0) -> None:
        """Begin to end the thread and its child, which then have ``timeout`` seconds; ``close`` waits for them."""
        if self._stop_by == 0.0:
            self._stop_by = time.monotonic() + timeout
        self._stop.set()
        self._feeder.wake()

    def close(self, timeout: float = 3.0) -> None:
        """End the thread and its child within ``timeout`` seconds, whatever they are doing.

        A healthy child may finish its output; a stuck one is killed. May be called more than once.
        """
        self.ask_to_stop(timeout)
        if not self._thread.is_alive():
            self.state = STOPPED
            return
        self._thread.join(0.2 * timeout)
        while self._thread.is_alive() and time.monotonic() < self._stop_by:
            child = self._child
            if child is not None:  # again and again: the thread may just be about to make one
                child.cancel()
            self._thread.join(0.1)
        if self._thread.is_alive():
            self._log.error("an output did not stop in time", timeout_s=timeout)

    def _run(self) -> None:
        supervise(
            self._publish,
            self._retry,
            self._stop,
            starting=self._starting,
            failed=self._failed,
            given_up=self._given_up,
        )
        self.state = STOPPED

    def _starting(self) -> None:
        self.restarts += self.state == RETRYING

    def _publish(self, alive: Alive) -> None:
        """Publish until something fails or ``close`` is called."""
        child = self._child = self._spawn()
        try:
            self._feed(child, alive)
        finally:
            self._child = None
            child.stop(max(0.0, self._stop_by - time.monotonic() - 0.2) if self._stop.is_set() else 0.0)

    def _feed(self, child: FFmpegChild, alive: Alive) -> None:
        waiting = 0
        try:
            self._feeder.begin()
            while not self._stop.is_set():
                waiting += self._feeder.step(child)
                if not child.opened:
                    continue
                alive()
                self.published, waiting = self.published + waiting, 0
                if self.state != RUNNING:
                    self._moved(RUNNING, "")
            self._feeder.finish(child)
        finally:
            self.lost += waiting
            self._feeder.end()

    def _failed(self, error: SentinelError) -> float:
        if not self._stop.is_set():
            self._moved(RETRYING, str(error))
        return 0.0

    def _given_up(self, error: SentinelError) -> None:
        self.reason = str(error)
        self._log.error("publishing given up", reason=self.reason)

    def _moved(self, state: str, reason: str) -> None:
        """Change the state; only a change is logged, not each of a hundred equal failures."""
        changed = (state, reason) != (self.state, self.reason)
        self.state, self.reason = state, reason
        if changed and state == RUNNING:
            self._log.info("publishing")
        elif changed:
            self._log.warning("publishing interrupted, retrying", reason=reason)
