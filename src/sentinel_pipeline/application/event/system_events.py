"""Brings events about the program itself into the outbox, in a thread of its own: nothing waits for it."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Collection, Mapping
from threading import Event as Flag
from threading import Lock, Thread
from types import TracebackType

import structlog

from sentinel_pipeline.application.event.outages import Condition, Outages
from sentinel_pipeline.application.event.stream_events import Emit, Posted, StreamEvents
from sentinel_pipeline.application.event.tally import Tally
from sentinel_pipeline.domain.errors import EventUnfit, OutboxError
from sentinel_pipeline.domain.events import Event
from sentinel_pipeline.domain.redact import redact
from sentinel_pipeline.domain.system_events import SYSTEM, Outage, Part

log = structlog.get_logger(__name__)

Look = Callable[[], Mapping[Part, Condition]]

LOOK_S = 1.0  # between two looks at the parts
POLL_S = 0.05  # between two looks at an analysis that has to finish its last picture
PATIENCE_S = 5.0  # that it gets for it: a model that hangs must not hide that the camera is lost
AGAIN_S = 1.0  # after which a refused event is offered again
MOST = 1000  # events that wait; more push the oldest out
CLOSE_S = 1.0


class SystemEvents:
    """Takes system events from any thread at once and stores them soon, in order per stream.

    emit: stores events, may block and raise ``OutboxError``; what it refuses is kept and offered again.
    streams_down, parts_down: outages that an earlier life of the program left open.

    A context manager; ``close`` stores what still waits, if the outbox takes it.
    """

    def __init__(
        self,
        emit: Emit,
        *,
        streams_down: Mapping[str, Outage] | None = None,
        parts_down: Mapping[Part, Outage] | None = None,
    ) -> None:
        self._emit = emit
        self._looks: tuple[Look, ...] = ()
        self._streams_down = dict(streams_down or {})
        self._outages = Outages(parts_down)
        self._parts: frozenset[Part] | None = None  # all there are now, until the thread has seen to it
        self._streams: dict[str, StreamEvents] = {}
        self._lock = Lock()
        self._waiting: deque[tuple[float, Posted]] = deque(maxlen=MOST)
        self._lost = Tally(self._report_lost)
        self._wake, self._ending = Flag(), Flag()
        self._refusal = ""
        self._thread = Thread(target=self._run, name="system-events")

    def __enter__(self) -> SystemEvents:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """End within about a second; may be called more than once."""
        self._ending.set()
        self._wake.set()
        if self._thread.ident is not None:
            self._thread.join(CLOSE_S)
            if self._thread.is_alive():
                log.warning("the outbox does not answer: system events may be lost")

    def tell(self, event: Event) -> None:
        """Store an event soon; does not block."""
        self._post(Posted(event, self.stream(event.stream_id), lambda: True))

    def watch(self, look: Look) -> None:
        """Ask ``look`` once a second how some parts are doing, and tell what goes down and comes back."""
        self._looks = (*self._looks, look)

    def keep(self, streams: Collection[str], parts: Collection[Part]) -> None:
        """These are all there are from now on: outages of others are closed with the reason ``no longer configured``.

        Call it when the others have ended, so that none of them goes down once more.
        """
        with self._lock:
            gone = (self._streams.keys() | self._streams_down.keys()) - {*streams, SYSTEM}
        for stream_id in sorted(gone):
            self.stream(stream_id).removed(time.time())
        with self._lock:
            self._parts = frozenset(parts)

    def stream(self, stream_id: str) -> StreamEvents:
        """Return what the events of a stream go through: the same for the same id."""
        with self._lock:
            if stream_id not in self._streams:
                outage = self._streams_down.pop(stream_id, None)
                self._streams[stream_id] = StreamEvents(stream_id, self._emit, self._post, outage)
            return self._streams[stream_id]

    def _post(self, posted: Posted) -> None:
        with self._lock:
            lost = len(self._waiting) == MOST
            self._waiting.append((time.monotonic() + PATIENCE_S, posted))
        if lost:
            self._lost.add()
        self._wake.set()

    def _run(self) -> None:
        look_at = 0.0
        while not self._ending.is_set():
            self._wake.wait(self._pause())
            self._wake.clear()
            try:
                if time.monotonic() >= look_at:
                    look_at = time.monotonic() + LOOK_S
                    self._look_at_parts()
                self._store_settled(all_of_them=False)
            except Exception as exc:  # outermost loop of a thread: told, and the next event is another try
                log.exception("internal error in system events", error=redact(repr(exc)))
        self._store_settled(all_of_them=True)
        self._lost.flush(now=True)

    def _pause(self) -> float:
        with self._lock:
            waits = bool(self._waiting)
        if self._refusal:
            return AGAIN_S
        return POLL_S if waits else LOOK_S

    def _look_at_parts(self) -> None:
        conditions = {part: condition for look in self._looks for part, condition in look().items()}
        told = self._outages.step(conditions, time.monotonic(), time.time())
        with self._lock:
            parts, self._parts = self._parts, None
        if parts is not None:
            told += self._outages.keep(parts, time.time())
        for event in told:
            self.tell(event)

    def _store_settled(self, *, all_of_them: bool) -> None:
        """Store what is ready; an event that is not holds up those behind it of the same stream only."""
        with self._lock:
            waiting = list(self._waiting)
        held: set[int] = set()
        for entry in waiting:
            until, posted = entry
            ready = all_of_them or posted.settled() or time.monotonic() >= until
            if id(posted.stream) in held or not ready or not self._store(posted):
                held.add(id(posted.stream))
                continue
            with self._lock:
                if entry in self._waiting:
                    self._waiting.remove(entry)

    def _store(self, posted: Posted) -> bool:
        try:
            posted.stream.store(posted.event)
        except EventUnfit as exc:
            log.error("a system event is dropped: it cannot be stored", reason=redact(str(exc)))  # noqa: TRY400 - said
        except OutboxError as exc:
            if not self._refusal:
                log.warning("a system event cannot be stored; it is kept and offered again", reason=str(exc))
            self._refusal = str(exc)
            return False
        self._refusal = ""
        return True

    def _report_lost(self, news: int, total: int) -> None:
        log.error("too many system events wait for the outbox: the oldest were dropped", dropped=news, total=total)
