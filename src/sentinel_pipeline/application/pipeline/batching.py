"""One thread per model that runs the requests of many streams in batches.

A caller has at most one request in flight, and the one that was served longest ago is next, so a fast camera cannot
starve a slow one. Requests of a batch that fails run again one by one, callers whose pictures make the model fail or
hang keep to themselves (``suspects``), and batches become smaller where the model has no room for them (``room``).
"""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, Self

import numpy as np
import structlog
from numpy.typing import NDArray

from sentinel_pipeline.application.pipeline.room import Room
from sentinel_pipeline.application.pipeline.suspects import Suspects
from sentinel_pipeline.application.pipeline.turns import Callers, Gaps, Runs, batch_due, latest_start
from sentinel_pipeline.application.stream.meters import Quantiles
from sentinel_pipeline.domain.errors import ModelBusy, ModelError, ModelTimeout
from sentinel_pipeline.domain.redact import redact

Tensor = NDArray[Any]
BatchRunner = Callable[[Tensor], dict[str, Tensor]]

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Row:
    """What the model said about one tensor: its row of every output, and milliseconds queued and in the model."""

    outputs: dict[str, Tensor]
    wait_ms: float
    infer_ms: float


@dataclass(frozen=True, slots=True)
class DispatcherState:
    """How a dispatcher is doing.

    state: ``ready``; ``failing`` when it raised for the last picture of somebody who still asks; ``stalled`` while a
    batch is under way for longer than the time-out, or the last one of somebody was; ``closed``.
    reason: one sentence unless ready; also when it is, but has no room for batches of full size.
    batches, rows: run so far; wait_p95_ms: time queued.
    expired: requests that were not run because they had grown too old.
    """

    state: Literal["ready", "failing", "stalled", "closed"]
    reason: str
    batches: int
    rows: int
    batch_mean: float
    wait_p95_ms: float
    expired: int = 0


@dataclass(slots=True, eq=False)
class _Request:
    """One tensor on its way through; ``outputs`` or ``error`` is written before ``done`` is set."""

    tensor: Tensor
    caller: threading.Thread  # not its ident, which is the next thread's when this one has ended
    queued_at: float
    start_by: float  # monotonic seconds
    done: threading.Event = field(default_factory=threading.Event)
    row: Row | None = None
    error: ModelError | None = None


class Dispatcher:
    """Runs ``run`` on batches of the tensors that many threads submit, in one thread of its own.

    run: takes (n, …) and returns arrays whose first axis is n; called from the dispatcher's thread only.
    max_size: rows per batch. max_wait: most seconds that an incomplete batch waits; how long it does is learnt from how
    closely requests follow one another, and it never does while only one thread is asking.
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
        self._max_wait = max_wait
        self._timeout = timeout
        self._changed = threading.Condition()  # guards everything below
        self._queue: deque[_Request] = deque()
        self._callers = Callers()
        self._gaps = Gaps()
        self._runs = Runs()
        self._suspects = Suspects()
        self._room = Room(max_size)
        self._running_since: float | None = None
        self._stall_reported = False
        self._fault = ""
        self._batches = 0
        self._rows = 0
        self._expired = 0
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

    def submit(self, tensor: Tensor, *, expires_at: float | None = None) -> Row:
        """Run one tensor (without batch axis) and return its row; blocks up to the time-out.

        expires_at: monotonic seconds after which its answer is no use any more. Raises ``ModelBusy`` when its turn has
        not come so early before then that the model can be done. Raises ``ModelTimeout`` at the time-out, or at once
        while a batch is stalled and while the caller is left out because its pictures have stalled the model;
        ``ModelError`` when the picture failed or the dispatcher is closed. The tensor must not be written to any more:
        after a time-out the model may still be reading it.
        """
        now = time.monotonic()
        request = _Request(tensor, threading.current_thread(), now, math.inf if expires_at is None else expires_at)
        self._enqueue(request)
        self._wait_for(request, now + self._timeout)
        if request.error is not None:
            # a new error for every caller: raising one object in several threads would mix up their tracebacks
            error = request.error
            raise type(error)(str(error.args[0]), remedy=error.remedy) from error
        row = request.row
        assert row is not None  # noqa: S101 - set before ``done`` when there is no error
        with self._changed:
            self._runs.note(time.monotonic() - now - row.wait_ms / 1000)
        return row

    def snapshot(self) -> DispatcherState:
        """Return how it is doing; safe from any thread."""
        with self._changed:
            stalled_s = self._stalled_for(time.monotonic())
            batches, rows, closed = self._batches, self._rows, self._closed
            fault, slow = self._suspects.fault(time.monotonic())
            expired, trouble = self._expired, self._room.trouble
        state: Literal["ready", "failing", "stalled", "closed"] = "ready"
        if fault:
            state = "stalled" if slow else "failing"
        if stalled_s is not None:
            state, fault = "stalled", f"an inference has been under way for {stalled_s:.1f} s"
        elif closed:
            state, fault = "closed", f"model {self._name} is closed"
        elif not fault:
            fault = trouble
        mean = rows / batches if batches else 0.0
        return DispatcherState(state, fault, batches, rows, round(mean, 2), self._waits.snapshot()["p95"], expired)

    # In the callers' threads

    def _enqueue(self, request: _Request) -> None:
        with self._changed:
            if self._closed or self._thread.ident is None:
                raise ModelError(f"model {self._name} is {'closed' if self._closed else 'not started'}")
            stalled_s = self._stalled_for(request.queued_at)
            served = self._suspects.asks(request.caller, request.queued_at)
            if stalled_s is None and served:
                self._callers.note(request.caller, request.queued_at)
                self._gaps.note(request.queued_at)
                request.start_by = latest_start(request.start_by, request.queued_at, self._runs.usual())
                self._queue.append(request)
                self._changed.notify_all()
                return
        # The same words each time: whoever logs changes of the reason must not do so with every frame.
        if stalled_s is None:
            raise ModelTimeout(f"model {self._name} hangs over pictures of this camera: it is asked seldom")
        raise ModelTimeout(f"model {self._name} is stuck in an inference, for more than {self._timeout:g} s")

    def _wait_for(self, request: _Request, deadline: float) -> None:
        """Wait until it is done. It leaves the queue when it expires; once it is being run, it is waited for."""
        fresh_s = max(0.0, min(request.start_by, deadline) - request.queued_at)
        if request.done.wait(fresh_s) or (request.start_by < deadline and self._expire(request)):
            return
        if not request.done.wait(max(0.0, deadline - time.monotonic())):
            self._withdraw(request)
            if not request.done.is_set():  # it may have come back while we withdrew
                raise ModelTimeout(f"model {self._name} did not answer within {self._timeout:g} s")

    def _expire(self, request: _Request) -> bool:
        """Take a request that has grown too old out of the queue; return whether it was still there."""
        with self._changed:
            if request not in self._queue:
                return False
            self._queue.remove(request)
            self._expired += 1
        _finish(request, error=self._too_old())
        return True

    def _too_old(self) -> ModelBusy:
        return ModelBusy(f"model {self._name} has more to do than it can: the picture grew too old before its turn")

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
        while self._work_off(self._next_batch()):
            pass

    def _work_off(self, batch: list[_Request]) -> bool:
        """Run a batch; return whether there was one, of which nothing stays in memory until the next comes."""
        if not batch:
            return False
        error = self._serve(batch)
        with self._changed:
            given_up = self._stalled_for(time.monotonic()) is not None
        if error is None or len(batch) == 1 or given_up:
            self._end_batch(batch, error)
            return True
        answered = [self._serve_alone(request) for request in batch]
        if all(answered):
            self._lower_batch(len(batch), error)
        return True

    def _serve_alone(self, request: _Request) -> bool:
        """Run one picture of a batch that failed, which must not cost it its answer; return whether it has one."""
        with self._changed:
            self._running_since = time.monotonic()
        error = self._serve([request])
        self._end_batch([request], error)
        return error is None

    def _lower_batch(self, rows: int, error: ModelError) -> None:
        with self._changed:
            old = self._room.trouble
            self._room.failed(rows, str(error), time.monotonic())
            trouble = self._room.trouble
        if trouble != old:
            log.warning("model runs smaller batches", model=self._name, reason=trouble)

    def _serve(self, batch: list[_Request]) -> ModelError | None:
        started = time.monotonic()
        try:
            rows = self._rows_of(batch, started)
        except Exception as exc:  # noqa: BLE001 - the thread's outermost loop: any failure goes to the callers
            return _as_model_error(self._name, exc)
        for request, row in zip(batch, rows, strict=True):
            request.row = row
        return None

    def _next_batch(self) -> list[_Request]:
        """Wait until a batch is due and take it; empty when the dispatcher is closed."""
        while True:
            with self._changed:
                while not self._closed and (wait := self._wait_s(time.monotonic())) != 0.0:
                    self._changed.wait(wait)
                if self._closed:
                    return []
                now = time.monotonic()
                expired = [request for request in self._queue if request.start_by <= now]
                for request in expired:
                    self._queue.remove(request)
                self._expired += len(expired)
                batch = self._take(self._room.limit(now)) if self._queue else []
                self._running_since = now if batch else None
            for request in expired:
                _finish(request, error=self._too_old())
            if batch:
                return batch

    def _wait_s(self, now: float) -> float | None:
        """Return the seconds until a batch is due; None when nothing is queued. Needs the lock."""
        if not self._queue:
            return None
        queued, callers, limit = len(self._queue), self._callers.count(now), self._room.limit(now)
        window = self._gaps.window(min(limit, callers) - queued, self._max_wait)
        return batch_due(queued, now - self._queue[0].queued_at, callers, limit, window)

    def _take(self, limit: int) -> list[_Request]:
        """Take the requests whose turn it is, as far as they have the first one's shape. Needs the lock."""
        in_turn = sorted(self._queue, key=lambda request: self._callers.turn(request.caller))  # stable: then by arrival
        first = in_turn[0]
        batch = [first]
        if not self._suspects.alone(first.caller):
            batch = [r for r in in_turn if r.tensor.shape == first.tensor.shape and not self._suspects.alone(r.caller)]
        batch = batch[:limit]
        for request in batch:
            self._queue.remove(request)
            self._callers.serve(request.caller)
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
        now = time.monotonic()
        with self._changed:
            slow_s, old_trouble = self._stalled_for(now), self._room.trouble
            self._running_since = None
            was_stalled, self._stall_reported = self._stall_reported, False
            if error is not None or slow_s is not None:
                fault = _fault(batch, error, slow_s)
                self._suspects.failed((r.caller for r in batch), fault, now, stalled=slow_s is not None)
            else:
                self._room.well(len(batch), now)
                for request in batch:
                    self._suspects.well(request.caller, now)
            old, (self._fault, _) = self._fault, self._suspects.fault(now)
            if error is None:
                self._batches += 1
                self._rows += len(batch)
            recovered = old_trouble and not self._room.trouble
        for request in batch:
            _finish(request, error=error)
        if self._fault and not old:
            log.error("model fails", model=self._name, error=self._fault)
        elif (old or was_stalled) and not self._fault:
            log.info("model works again", model=self._name)
        if recovered:
            log.info("model runs batches of full size again", model=self._name)


def _finish(request: _Request, *, error: ModelError | None) -> None:
    request.error = error
    request.done.set()


def _fault(batch: list[_Request], error: ModelError | None, slow_s: float | None) -> str:
    """Say what was wrong with a batch that failed, or took ``slow_s`` seconds, which is too long."""
    if slow_s is None:
        return str(error)
    who = ", ".join(sorted(request.caller.name for request in batch))
    return f"an inference for {who} took {slow_s:.1f} s" + (f" and failed: {error}" if error else "")


def _as_model_error(name: str, exc: Exception) -> ModelError:
    if isinstance(exc, ModelError):
        return exc
    error = ModelError(f"model {name} failed: {type(exc).__name__}: {redact(str(exc))[:200]}")
    error.__cause__ = exc
    return error
