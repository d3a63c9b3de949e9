"""Whose pictures a model fails on or hangs over: they run alone, and seldom. Pure decisions: times come in."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from weakref import WeakKeyDictionary

from sentinel_pipeline.domain.backoff import Retry

FRESH_S = 10.0  # a caller that has not asked for so long says nothing about the model any more
LEAVE_OUT_S, LEAVE_OUT_MAX_S = 1.0, 60.0
STEADY_S = 30.0  # without a stall, after which the waits start over


@dataclass(slots=True)
class _Record:
    asked: float
    fault: str = ""
    stalled: bool = False
    out_until: float = 0.0
    well_since: float | None = None
    retry: Retry = field(default_factory=lambda: Retry(LEAVE_OUT_S, LEAVE_OUT_MAX_S, healthy_after=STEADY_S))


class Suspects:
    """Knows the callers whose last picture was in a batch that failed or stalled. Not thread-safe.

    Until one of its pictures has gone well, such a caller runs alone, so that it spoils nobody else's batch. One that
    has stalled the model alone is left out for a while, longer each time: nothing can interrupt the model, and the
    others wait as long as it hangs.

    A caller is any object of which weak references can be made; what is known about it ends with it.
    """

    def __init__(self) -> None:
        self._records: WeakKeyDictionary[object, _Record] = WeakKeyDictionary()

    def asks(self, caller: object, now: float) -> bool:
        """Take in that ``caller`` asks; return whether it may be served now."""
        record = self._records.get(caller)
        if record is None:
            return True
        record.asked = now
        return now >= record.out_until

    def alone(self, caller: object) -> bool:
        """Return whether ``caller`` must not share a batch."""
        record = self._records.get(caller)
        return record is not None and bool(record.fault)

    def failed(self, callers: Iterable[object], fault: str, now: float, *, stalled: bool) -> None:
        """A batch with pictures of these callers has failed, or came back too late (``stalled``), well or failed."""
        among = list(callers)
        for caller in among:
            record = self._records.setdefault(caller, _Record(now))
            record.fault, record.stalled = fault, stalled
            if stalled and len(among) == 1:
                lived = 0.0 if record.well_since is None else now - record.well_since
                record.out_until = now + (record.retry.failed(lived) or 0.0)
            record.well_since = None

    def well(self, caller: object, now: float) -> None:
        """A picture of ``caller`` has gone well."""
        record = self._records.get(caller)
        if record is not None:
            record.fault, record.stalled = "", False
            record.well_since = now if record.well_since is None else record.well_since

    def fault(self, now: float) -> tuple[str, bool]:
        """Return what is wrong with those who still ask, empty when nothing is, and whether that is a stall."""
        for caller, record in list(self._records.items()):
            if now - record.asked > FRESH_S and now >= record.out_until:
                del self._records[caller]
        faulty = [r for r in self._records.values() if r.fault and now - r.asked <= FRESH_S]
        worst = max(faulty, key=lambda record: (record.stalled, record.asked), default=None)
        return ("", False) if worst is None else (worst.fault, worst.stalled)
