"""What the stages of a stream have in common: a mailbox, a thread that empties it, a count of what it pushed out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from threading import Thread

from sentinel_pipeline.application.pipeline.mailbox import Mailbox
from sentinel_pipeline.application.stream.health import StreamHealth
from sentinel_pipeline.domain.frame import Frame


class Stage(ABC):
    """A thread that takes frames out of ``inbox``. ``offer`` is called by the capture thread; the rest from any thread.

    name: of the thread. busy: the cause under which ``health`` counts the frames that newer ones pushed out.
    """

    def __init__(self, name: str, inbox: Mailbox[Frame], health: StreamHealth, busy: str) -> None:
        self._inbox, self._health, self._busy = inbox, health, busy
        self._counted = 0  # of the mailbox's drops
        self._thread = Thread(target=self._run, name=name)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    @abstractmethod
    def offer(self, frame: Frame) -> None:
        """Take a frame, or leave it; never blocks."""

    def close(self) -> None:
        """Tell the thread to end; ``join`` waits for it."""
        self._inbox.close()

    def join(self, timeout: float) -> bool:
        """Return whether the thread has ended within ``timeout`` seconds."""
        if self._thread.ident is not None:
            self._thread.join(timeout)
        return not self._thread.is_alive()

    @abstractmethod
    def _run(self) -> None:
        """Empty the mailbox until it is closed."""

    def _count_drops(self) -> None:
        """Tell of the frames that the mailbox has pushed out since the last call."""
        dropped = self._inbox.dropped
        if dropped != self._counted:
            self._health.drop(self._busy, dropped - self._counted)
            self._counted = dropped
