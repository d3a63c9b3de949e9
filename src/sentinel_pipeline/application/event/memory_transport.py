"""A receiver that lives in memory: shows what a sink would get, and fails on command."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from sentinel_pipeline.application.ports import Batch
from sentinel_pipeline.domain.events import Event


class MemoryTransport:
    """Keeps every batch it is sent. An ``EventTransport`` for trials and tests.

    outcomes: one per attempt, in order: an exception is raised, None delivers; after the last one all is delivered.
    attempts: every batch that ``send`` was called with; delivered: those that it took.
    """

    def __init__(self, outcomes: Iterable[BaseException | None] = ()) -> None:
        self._outcomes = deque(outcomes)
        self.attempts: list[Batch] = []
        self.delivered: list[Batch] = []
        self.is_open = False

    @property
    def events(self) -> list[Event]:
        """All events delivered, in order."""
        return [Event.from_wire(body) for batch in self.delivered for body in batch.bodies]

    async def open(self) -> None:
        """Become usable."""
        self.is_open = True

    async def send(self, batch: Batch) -> None:
        """Take the batch, or raise the next scripted outcome."""
        self.attempts.append(batch)
        outcome = self._outcomes.popleft() if self._outcomes else None
        if outcome is not None:
            raise outcome
        self.delivered.append(batch)

    async def close(self) -> None:
        """Become unusable."""
        self.is_open = False
