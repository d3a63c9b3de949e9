"""When a receiver, an output or a model counts as down. Pure: time comes in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from sentinel_pipeline.domain.events import Event
from sentinel_pipeline.domain.system_events import Outage, Part, part_down, part_up

DOWN_AFTER_S = 10.0  # of failing without a success in between


class Doing(StrEnum):
    """How a part is doing."""

    NOTHING = "nothing"  # not used yet, or stopped by the operator
    WELL = "well"
    FAILING = "failing"  # it may pass
    DOWN = "down"  # it will not pass by itself, such as refused credentials


@dataclass(frozen=True, slots=True)
class Condition:
    """How a part is doing. ``done``: what it has done well so far (events, pictures)."""

    doing: Doing
    reason: str
    done: int


@dataclass(slots=True)
class _Failing:
    monotonic: float
    wall: float


class Outages:
    """Watches parts that are looked at now and then. One owner."""

    def __init__(
        self, open_outages: Mapping[Part, Outage] | None = None, *, down_after_s: float = DOWN_AFTER_S
    ) -> None:
        self._outages = dict(open_outages or {})
        self._down_after_s = down_after_s
        self._failing: dict[Part, _Failing] = {}
        self._done: dict[Part, int] = {}

    def step(self, conditions: Mapping[Part, Condition], now: float, wall: float) -> list[Event]:
        """Return what changed. ``now``: monotonic; ``wall``: Unix seconds."""
        told = [self._look(part, condition, now, wall) for part, condition in conditions.items()]
        return [event for event in told if event is not None]

    def _look(self, part: Part, condition: Condition, now: float, wall: float) -> Event | None:
        progress = condition.done > self._done.get(part, 0)
        self._done[part] = condition.done
        outage = self._outages.get(part)
        if condition.doing is Doing.WELL or (progress and condition.doing is Doing.FAILING):
            self._failing.pop(part, None)
            if outage is None or condition.doing is not Doing.WELL:
                return None
            del self._outages[part]
            return part_up(part, outage, wall)
        if condition.doing is Doing.NOTHING or outage is not None:
            return None
        since = self._failing.setdefault(part, _Failing(now, wall))
        if condition.doing is Doing.FAILING and now - since.monotonic < self._down_after_s:
            return None
        self._outages[part] = Outage(since.wall, condition.reason)
        return part_down(part, self._outages[part], wall)
