"""When a receiver, an output or a model counts as down. Pure: time comes in."""

from __future__ import annotations

from collections.abc import Collection, Mapping
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
    """Watches parts that are looked at now and then. One owner.

    A part is back when it does well and has done something since it went down: that nothing is known against it any
    more is no success.
    """

    def __init__(
        self, open_outages: Mapping[Part, Outage] | None = None, *, down_after_s: float = DOWN_AFTER_S
    ) -> None:
        self._outages = dict(open_outages or {})
        self._down_after_s = down_after_s
        self._failing: dict[Part, _Failing] = {}
        self._done: dict[Part, int] = {}
        self._revived: set[Part] = set()  # those down that have done something since

    def step(self, conditions: Mapping[Part, Condition], now: float, wall: float) -> list[Event]:
        """Return what changed. ``conditions``: of all parts there are. ``now``: monotonic; ``wall``: Unix seconds."""
        for part in self._failing.keys() - conditions.keys():
            del self._failing[part]
        told = [self._look(part, condition, now, wall) for part, condition in conditions.items()]
        return [event for event in told if event is not None]

    def keep(self, parts: Collection[Part], wall: float) -> list[Event]:
        """Close the outages of all other parts: nobody will say that they are back. Return what that tells."""
        gone = [part for part in self._outages if part not in parts]
        self._revived.difference_update(gone)
        return [part_up(part, self._outages.pop(part).moot, wall) for part in gone]

    def _look(self, part: Part, condition: Condition, now: float, wall: float) -> Event | None:
        progress = condition.done not in (0, self._done.get(part, 0))  # a part that was restarted counts from 0
        self._done[part] = condition.done
        if part in self._outages:
            return self._back(part, condition, wall, progress=progress)
        if condition.doing in (Doing.WELL, Doing.NOTHING) or (progress and condition.doing is Doing.FAILING):
            self._failing.pop(part, None)
            return None
        since = self._failing.setdefault(part, _Failing(now, wall))
        if condition.doing is Doing.FAILING and now - since.monotonic < self._down_after_s:
            return None
        del self._failing[part]
        self._outages[part] = Outage(since.wall, condition.reason)
        self._revived.discard(part)
        return part_down(part, self._outages[part], wall)

    def _back(self, part: Part, condition: Condition, wall: float, *, progress: bool) -> Event | None:
        if progress:
            self._revived.add(part)
        if condition.doing is not Doing.WELL or part not in self._revived:
            return None
        self._revived.discard(part)
        return part_up(part, self._outages.pop(part), wall)
