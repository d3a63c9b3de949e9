"""One thread per model that runs the requests of many streams in batches.

A caller has at most one request in flight and requests are served in order of arrival, so a fast camera cannot starve a
slow one: while its request runs, everybody else's is ahead of its next.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, Self

import numpy as np
import structlog
from numpy.typing import NDArray

from sentinel_pipeline.application.stream.meters import Quantiles
from sentinel_pipeline.domain.errors import ModelError, ModelTimeout
from sentinel_pipeline.domain.redact import redact

Tensor = NDArray[Any]
BatchRunner = Callable[[Tensor], dict[str, Tensor]]

log = structlog.get_logger(__name__)

CALLER_WINDOW = 1.0  # seconds; a stream that has not asked for so long is not waited for


def batch_due(queued: int, oldest_age: float, callers: int, max_size: int, max_wait: float) -> float | None:
    """Return the seconds until the queue should run as a batch: 0 now, None when it is empty.

    ``callers``: how many threads have asked lately. Each has one request in flight at most, so once as many are queued
    nobody is left to wait for; a single caller therefore never waits.
    oldest_age: seconds that the first request has been queued.
    """
    if queued == 0:
        return None
    if queued >= min(max_size, callers):
        return 0.0
    return max(0.0, max_wait - oldest_age)


class RecentCallers:
    """Counts the threads that have asked within the last ``window`` seconds. Times come in; not thread-safe."""

    def __init__(self, window: float = CALLER_WINDOW) -> None:
        self._window = window
        self._seen: dict[int, float] = {}

    def note(self, caller: int, now: float) -> None:
        """Take in that ``caller`` (a thread's ident) asks at ``now`` (monotonic seconds)."""
        self._seen[caller] = now

    def count(self, now: float) -> int:
        """Return how many asked lately, and forget the others."""
        self._seen = {caller: at for caller, at in self._seen.items() if now - at <= self._window}
        return len(self._seen)


@dataclass(frozen=True, slots=True)
class Row:
    """What the model said about one tensor: its row of every output, and milliseconds queued and in the model."""

    outputs: dict[str, Tensor]
    wait_ms: float
    infer_ms: float


@dataclass(frozen=True, slots=True)
class DispatcherState:
    """How a dispatcher is doing.

    state: ``ready``; ``failing`` when the last batch raised; ``stalled`` while a batch is under way for longer than the
    time-out; ``closed``. reason: one sentence unless ready. batches, rows: run so far; wait_p95_ms: time queued.
    """

    state: Literal["ready", "failing", "stalled", "closed"]
    reason: str
    batches: int
    rows: int
    batch_mean: float
    wait_p95_ms: float


@dataclass(slots=True, eq=False)
class _Request:
    """One tensor on its way through; ``outputs`` or ``error`` is written before ``done`` is set."""

    tensor: Tensor
    queued_at: float
    done: threading.Event = field(default_factory=threading.Event)
    row: Row | None = None
    error: ModelError | None = None


class Dispatcher:
    """Runs ``run`` on batches of the tensors that many threads submit, in one thread of its own.

    run: takes (n, …) and returns arrays whose first axis is n; called from the dispatcher's thread only.
    max_size: rows per batch. max_wait: seconds that an incomplete batch waits, only while several threads are asking.
    timeout: seconds after which a caller stops waiting, and after which a batch under way counts as stalled.

    Start it with ``with`` or ``start``; ``submit`` and ``snapshot`` are safe from any thread.
    """

    def __init__(
        self, name: str, run: BatchRunner, *, max_size: int = 8, max_wait: float = 0.005, timeout: float = 2.0
    ) -> None:
        if max_size < 1 or max_wait < 0 or timeout <= 0:
            raise ValueError(f"max_size {max_size}, max_wait {max_wait} and timeout {timeout} must be positive")
        self._name = name
        self._run = run
        self._max_size = max_size
        self._max_wait = max_wait
        self._timeout = timeout
        self._changed = threading.Condition()  # guards everything below
        self._queue: deque[_Request] = deque()
        self._callers = RecentCallers()
        self._running_since: float | None = None
        self._stall_reported = False
        self._fault = ""
        self._batches = 0
        self._rows = 0
        self._closed = False
        self._waits = Quantiles()
        self._thread = threading.Thread(target=self._work, name=f"model-{name}", daemon=False)

    def start(self) -> None:
        """Begin to serve. Call it once."""
        self._thread.start()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self, timeout: float = 2.0) -> bool:
        """Refuse what is queued and end the thread. May be called more than once.

        Returns False when the thread is still inside the model after ``timeout`` seconds: it cannot be stopped from
        here, so the process has to end without it.
        """
        with self._changed:
            self._closed = True
            left = list(self._queue)
            self._queue.clear()
            self._changed.notify_all()
        for request in left:
            _finish(request, error=ModelError(f"model {self._name} is closed"))
        if self._thread.ident is None:
            return True
        self._thread.join(timeout)
        if self._thread.is_alive():
            log.error("model thread does not end", model=self._name, waited_s=timeout)
            return False
        return True

    def submit(self, tensor: Tensor) -> Row:
        """Run one tensor (without batch axis) and return its row; blocks up to the time-out.

        Raises ``ModelTimeout`` at the deadline, or at once while a batch is stalled; ``ModelError`` when the batch
        failed or the dispatcher is closed. The tensor must not be written to any more: after a time-out the model may
        still be reading it.
        """
        request = _Request(tensor, time.monotonic())
        self._enqueue(request)
        if not request.done.wait(self._timeout):
            self._withdraw(request)
            if not request.done.is_set():  # it may have come back while we withdrew
                raise ModelTimeout(f"model {self._name} did not answer within {self._timeout:g} s")
        if request.error is not None:
            # a new error for every caller: raising one object in several threads would mix up their tracebacks
            raise ModelError(str(request.error.args[0]), remedy=request.error.remedy) from request.error
        assert request.row is not None  # noqa: S101 - set before ``done`` when there is no error
        return request.row

    def snapshot(self) -> DispatcherState:
        """Return how it is doing; safe from any thread."""
        with self._changed:
            stalled_s = self._stalled_for(time.monotonic())
            batches, rows, fault, closed = self._batches, self._rows, self._fault, self._closed
        state: Literal["ready", "failing", "stalled", "closed"] = "failing" if fault else "ready"
        if stalled_s is not None:
            state, fault = "stalled", f"an inference has been under way for {stalled_s:.1f} s"
        elif closed:
            state, fault = "closed", f"model {self._name} is closed"
        mean = rows / batches if batches else 0.0
        return DispatcherState(state, fault, batches, rows, round(mean, 2), self._waits.snapshot()["p95"])

    # In the callers' threads

    def _enqueue(self, request: _Request) -> None:
        with self._changed:
            if self._closed or self._thread.ident is None:
                raise ModelError(f"model {self._name} is {'closed' if self._closed else 'not started'}")
            stalled_s = self._stalled_for(request.queued_at)
            if stalled_s is None:
                self._callers.note(threading.get_ident(), request.queued_at)
                self._queue.append(request)
                self._changed.notify_all()
                return
        raise ModelTimeout(f"model {self._name} is stuck: an inference has been under way for {stalled_s:.1f} s")

    def _withdraw(self, request: _Request) -> None:
        """Take a request that is too late out of the queue, so that nobody computes it; report a stall once."""
        with self._changed:
            if request in self._queue:
                self._queue.remove(request)
            report = self._stalled_for(time.monotonic()) is not None and not self._stall_reported
            self._stall_reported |= report
        if report:
            log.error("model stalled", model=self._name, timeout_s=self._timeout)

    def _stalled_for(self, now: float) -> float | None:
        """Return how long the batch under way has been running when that is too long. Needs the lock."""
        if self._running_since is None or now - self._running_since <= self._timeout:
            return None
        return now - self._running_since

    # In the dispatcher's thread

    def _work(self) -> None:
        while batch := self._next_batch():
            started = time.monotonic()
            try:
                rows = self._rows_of(batch, started)
            except Exception as exc:  # noqa: BLE001 - the thread's outermost loop: any failure goes to the callers
                self._end_batch(batch, _as_model_error(self._name, exc))
                continue
            for request, row in zip(batch, rows, strict=True):
                request.row = row
            self._end_batch(batch, None)

    def _next_batch(self) -> list[_Request]:
        """Wait until a batch is due and take it; empty when the dispatcher is closed."""
        with self._changed:
            while not self._closed:
                now = time.monotonic()
                age = now - self._queue[0].queued_at if self._queue else 0.0
                wait = batch_due(len(self._queue), age, self._callers.count(now), self._max_size, self._max_wait)
                if wait == 0.0:
                    self._running_since = now
                    return self._take()
                self._changed.wait(wait)
        return []

    def _take(self) -> list[_Request]:
        """Take the oldest requests, as far as they have one shape. Needs the lock."""
        batch = [self._queue.popleft()]
        while self._queue and len(batch) < self._max_size and self._queue[0].tensor.shape == batch[0].tensor.shape:
            batch.append(self._queue.popleft())
        return batch

    def _rows_of(self, batch: list[_Request], started: float) -> list[Row]:
        tensors = [request.tensor for request in batch]
        outputs = self._run(tensors[0][None] if len(tensors) == 1 else np.stack(tensors))
        infer_ms = (time.monotonic() - started) * 1000
        for name, output in outputs.items():
            if output.ndim == 0 or len(output) != len(batch):
                raise ModelError(f"output {name} has shape {output.shape} for a batch of {len(batch)}")
        waits = [(started - request.queued_at) * 1000 for request in batch]
        for wait_ms in waits:
            self._waits.add(wait_ms)
        return [
            Row({name: output[i] for name, output in outputs.items()}, wait_ms, infer_ms)
            for i, wait_ms in enumerate(waits)
        ]

    def _end_batch(self, batch: list[_Request], error: ModelError | None) -> None:
        """Account for the batch, then let its callers go on."""
        with self._changed:
            self._running_since = None
            was_stalled, self._stall_reported = self._stall_reported, False
            old, self._fault = self._fault, str(error) if error else ""
            if error is None:
                self._batches += 1
                self._rows += len(batch)
        for request in batch:
            _finish(request, error=error)
        if self._fault and not old:
            log.error("model fails", model=self._name, error=self._fault)
        elif (old or was_stalled) and not self._fault:
            log.info("model works again", model=self._name)


def _finish(request: _Request, *, error: ModelError | None) -> None:
    request.error = error
    request.done.set()


def _as_model_error(name: str, exc: Exception) -> ModelError:
    if isinstance(exc, ModelError):
        return exc
    error = ModelError(f"model {name} failed: {type(exc).__name__}: {redact(str(exc))[:200]}")
    error.__cause__ = exc
    return error
