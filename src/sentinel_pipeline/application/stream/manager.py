"""All streams: starts, stops and compares them with what is wanted."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from threading import Lock
from typing import Any

import structlog

from sentinel_pipeline.application.event.outages import Condition
from sentinel_pipeline.application.stream.worker import StreamWorker
from sentinel_pipeline.domain.frame import Frame
from sentinel_pipeline.domain.streams import StreamSpec
from sentinel_pipeline.domain.system_events import Part

log = structlog.get_logger(__name__)


def plan(live: Mapping[str, StreamSpec], wanted: Mapping[str, StreamSpec]) -> tuple[set[str], set[str]]:
    """Return the ids to stop and the ids to start; a changed spec is in both. Pure."""
    stop = {key for key, spec in live.items() if wanted.get(key) != spec}
    start = {key for key, spec in wanted.items() if live.get(key) != spec}
    return stop, start


class StreamManager:
    """Runs one worker per stream. A context manager: leaving it stops every stream. Safe from any thread."""

    STOP_TIMEOUT = 3.0

    def __init__(self, make_worker: Callable[[StreamSpec], StreamWorker]) -> None:
        self._make_worker = make_worker
        self._workers: dict[str, StreamWorker] = {}
        self._lock = Lock()  # of the dictionary, never held while waiting
        self._changing = Lock()  # one change at a time, from the look at what runs to the start of what is new
        self._stopped = False

    def __enter__(self) -> StreamManager:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def apply(self, specs: Iterable[StreamSpec]) -> None:
        """Make the running streams those of ``specs``; unchanged ones are not touched. Does nothing after ``stop``."""
        wanted = {spec.id: spec for spec in specs}
        with self._changing:
            with self._lock:
                stop, start = plan({key: worker.spec for key, worker in self._workers.items()}, wanted)
                leaving = [self._workers[key] for key in sorted(stop)] if not self._stopped else []
            self._end(leaving)
            with self._lock:
                for key in stop - start if not self._stopped else ():  # what is replaced is there until then
                    del self._workers[key]
            for key in sorted(start):
                self._begin(wanted[key])

    def restart(self, stream_id: str) -> None:
        """Stop one stream and start it afresh. Raises ``KeyError`` when there is none of that id."""
        with self._changing:
            with self._lock:
                old = self._workers[stream_id]
            self._end([old])
            self._begin(old.spec)

    def newest_frame(self, stream_id: str) -> Frame | None:
        """Return a stream's newest frame, None before the first. Raises ``KeyError`` when there is none of that id."""
        with self._lock:
            return self._workers[stream_id].newest_frame

    def snapshot(self) -> dict[str, dict[str, Any]]:
        """Return every stream's part of the report, by id."""
        with self._lock:
            workers = list(self._workers.values())
        return {worker.spec.id: worker.health.snapshot() for worker in workers}

    def publishers(self) -> dict[Part, Condition]:
        """Return how the outputs of all streams are doing."""
        with self._lock:
            workers = list(self._workers.values())
        return {part: condition for worker in workers for part, condition in worker.health.publishers().items()}

    def stop(self) -> None:
        """Stop every stream for good but keep their last figures; returns whether or not all threads have ended."""
        with self._lock:
            self._stopped = True
            workers = list(self._workers.values())
        for worker in workers:
            worker.stop()  # before waiting for a change under way, which may be waiting for one of them
        with self._changing:
            self._end(workers)

    def close(self) -> None:
        """Stop every stream and forget it; may be called more than once."""
        self.stop()
        with self._lock:
            self._workers.clear()

    def _begin(self, spec: StreamSpec) -> None:
        worker = self._make_worker(spec)
        with self._lock:
            if self._stopped:
                return
            self._workers[spec.id] = worker
        worker.start()  # ends at once where ``stop`` has come first; ``stop`` then waits for it

    def _end(self, workers: list[StreamWorker]) -> None:
        for worker in workers:
            worker.stop()
        deadline = time.monotonic() + self.STOP_TIMEOUT
        for worker in workers:
            if not worker.join(deadline):
                log.warning("a stream's thread hangs and was left behind", stream=worker.spec.id)
