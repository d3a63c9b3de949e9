"""What a failed delivery means: decided here, without a clock or a network."""

from __future__ import annotations

import traceback
from dataclasses import dataclass
from enum import StrEnum

from sentinel_pipeline.application.event.outages import Doing
from sentinel_pipeline.domain.errors import (
    PayloadTooLarge,
    Rejected,
    SentinelError,
    SinkGone,
    TransportError,
    Unauthorised,
)
from sentinel_pipeline.domain.redact import redact

MAX_RETRY_AFTER_S = 86_400.0  # a receiver's slip of the pen must not silence a sink for a year


class SinkState(StrEnum):
    """How a sink is doing."""

    IDLE = "idle"  # nothing was delivered yet
    UP = "up"  # the last delivery went well, or what was refused since then is put aside
    RETRYING = "retrying"  # the last one failed and will be repeated
    PAUSED = "paused"  # the receiver refuses our credentials: everything is kept, tried again slowly
    STOPPED = "stopped"  # the receiver asked never to be called again: everything is kept until a restart


class Circuit(StrEnum):
    """Whether a sink's receiver is called."""

    CLOSED = "closed"  # whenever there is something to deliver
    OPEN = "open"  # not now: after a failure, until the wait is over; of a stopped sink never
    HALF_OPEN = "half-open"  # once, when there is something to deliver, to see whether it works again


DOING = {
    SinkState.IDLE: Doing.NOTHING,
    SinkState.UP: Doing.WELL,
    SinkState.RETRYING: Doing.FAILING,
    SinkState.PAUSED: Doing.DOWN,
    SinkState.STOPPED: Doing.DOWN,
}


class Verdict(StrEnum):
    """What happens to the batch."""

    RETRY = "retry"  # again later, under the same key
    PAUSE = "pause"  # again much later, under the same key
    SPLIT = "split"  # its first half next, under a new key
    PARK = "park"  # to the dead letters
    STOP = "stop"  # nothing more to this sink


@dataclass(frozen=True, slots=True)
class Decision:
    """reason: one sentence without credentials. not_before_s: seconds that the receiver asked for. defect: our bug."""

    verdict: Verdict
    reason: str
    not_before_s: float = 0.0
    defect: bool = False


def decide(exc: Exception, size: int) -> Decision:
    """Return what ``exc``, raised while a batch of ``size`` events was sent, means for that batch.

    An exception that is not a ``TransportError`` is a defect of the transport; it must not cost an event, so the batch
    is sent again.
    """
    asked = exc.retry_after_s if isinstance(exc, TransportError) else None
    defect = not isinstance(exc, TransportError | TimeoutError)
    return Decision(_verdict(exc, size), explain(exc), min(max(asked or 0.0, 0.0), MAX_RETRY_AFTER_S), defect)


def _verdict(exc: Exception, size: int) -> Verdict:
    match exc:
        case Unauthorised():
            return Verdict.PAUSE
        case SinkGone():
            return Verdict.STOP
        case PayloadTooLarge() | Rejected():
            # One bad event makes a receiver refuse its whole batch: halving finds it, the others get through.
            return Verdict.SPLIT if size > 1 else Verdict.PARK
    return Verdict.RETRY


def explain_defect(exc: BaseException) -> str:
    """Return the whole traceback, without credentials."""
    return redact("".join(traceback.format_exception(exc)))


def explain(exc: BaseException) -> str:
    """Return one line for a person, without credentials."""
    text = str(exc) if isinstance(exc, SentinelError) else f"{type(exc).__name__}: {exc}".removesuffix(": ")
    return redact(" ".join(text.split()))


class BatchSize:
    """How many events the next batch may have.

    Halves with each batch that the receiver found too large or wrong, so that a receiver with a smaller limit is not
    asked in vain each time; doubles after eight batches that went well.
    """

    RECOVERY = 8

    def __init__(self, most: int) -> None:
        self._most = most
        self._well = 0
        self.now = most

    def split(self, size: int) -> None:
        """A batch of ``size`` was split."""
        self.now, self._well = max(1, size // 2), 0

    def delivered(self) -> None:
        """A batch went well."""
        self._well += 1
        if self._well >= self.RECOVERY:
            self.now, self._well = min(self._most, self.now * 2), 0

    def reset(self) -> None:
        """What made batches fail is gone."""
        self.now, self._well = self._most, 0
