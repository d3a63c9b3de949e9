"""The events of one stream, from its rules and about itself, in the order of their times."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from threading import Lock

from sentinel_pipeline.domain.events import Event
from sentinel_pipeline.domain.system_events import Outage, resolution_changed, stream_down, stream_up

Emit = Callable[[Sequence[Event]], None]

# What the clocks of a camera and of this machine may differ by; more is a clock that was corrected, which the times of
# events follow.
CLOCKS_DIFFER_S = 10.0


@dataclass(frozen=True, slots=True)
class Posted:
    """A system event on its way. ``settled`` says whether everything that happened before it has been emitted."""

    event: Event
    stream: StreamEvents
    settled: Callable[[], bool]


class StreamEvents:
    """One per stream id, for as long as the program runs, also across restarts of the stream. Safe from any thread.

    emit: stores events. post: takes a system event, stores it later with ``store``; must not block.
    outage: one that an earlier life of the program has left open.
    """

    def __init__(
        self, stream_id: str, emit: Emit, post: Callable[[Posted], None], outage: Outage | None = None
    ) -> None:
        self._id, self._emit, self._post = stream_id, emit, post
        self._outage = outage
        self._telling = Lock()
        self._storing = Lock()
        self._newest = 0.0

    @property
    def outage(self) -> Outage | None:
        """What is going on while the camera is lost."""
        return self._outage

    def emit(self, events: Sequence[Event]) -> None:
        """Store the events of the stream's rules. Raises ``OutboxError``."""
        with self._storing:
            self._emit(events)
            self._newest = max((event.ts for event in events), default=self._newest)

    def store(self, event: Event) -> None:
        """Store a posted event, with a time that is not before those stored already. Raises ``OutboxError``."""
        with self._storing:
            behind = self._newest - event.ts
            placed = replace(event, ts=self._newest) if 0 < behind <= CLOCKS_DIFFER_S else event
            self._emit([placed])
            self._newest = placed.ts

    def down(self, reason: str, ts: float, settled: Callable[[], bool]) -> None:
        """The camera was lost at ``ts``; told once until it is back."""
        with self._telling:
            if self._outage is None:
                self._outage = Outage(ts, reason)
                self._post(Posted(stream_down(self._id, self._outage), self, settled))

    def up(self, ts: float) -> None:
        """A picture taken at ``ts`` has come; told when the camera was lost before."""
        with self._telling:
            outage, self._outage = self._outage, None
            if outage is not None:
                self._post(Posted(stream_up(self._id, outage, ts), self, _at_once))

    def removed(self, ts: float) -> None:
        """There is no such stream any more since ``ts``: an outage that is open is closed, since nothing else will."""
        with self._telling:
            outage, self._outage = self._outage, None
            if outage is not None:
                self._post(Posted(stream_up(self._id, outage.moot, ts), self, _at_once))

    def resized(self, old: tuple[int, int], new: tuple[int, int], ts: float) -> None:
        """The picture taken at ``ts`` has another size than the one before."""
        self._post(Posted(resolution_changed(self._id, old, new, ts), self, _at_once))


def _at_once() -> bool:
    return True
