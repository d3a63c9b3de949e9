"""When a receiver counts as down. Pure: time comes in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from sentinel_pipeline.application.event.delivery_policy import SinkState
from sentinel_pipeline.domain.events import Event
from sentinel_pipeline.domain.system_events import Outage, sink_down, sink_up

DOWN_AFTER_S = 10.0  # of failing without a success in between


@dataclass(frozen=True, slots=True)
class SinkCondition:
    """How a sink is doing. ``delivered``: events so far."""

    state: SinkState
    reason: str
    delivered: int


@dataclass(slots=True)
class _Failing:
    monotonic: float
    wall: float


class SinkOutages:
    """Watches sinks that are looked at now and then. One owner."""

    def __init__(self, open_outages: Mapping[str, Outage] | None = None, *, down_after_s: float = DOWN_AFTER_S) -> None:
        self._outages = dict(open_outages or {})
        self._down_after_s = down_after_s
        self._failing: dict[str, _Failing] = {}
        self._delivered: dict[str, int] = {}

    def step(self, conditions: Mapping[str, SinkCondition], now: float, wall: float) -> list[Event]:
        """Return what changed. ``now``: monotonic; ``wall``: Unix seconds."""
        told = [self._look(sink, condition, now, wall) for sink, condition in conditions.items()]
        return [event for event in told if event is not None]

    def _look(self, sink: str, condition: SinkCondition, now: float, wall: float) -> Event | None:
        progress = condition.delivered > self._delivered.get(sink, 0)
        self._delivered[sink] = condition.delivered
        outage = self._outages.get(sink)
        if condition.state is SinkState.UP or (progress and condition.state is SinkState.RETRYING):
            self._failing.pop(sink, None)
            if outage is None or condition.state is not SinkState.UP:
                return None
            del self._outages[sink]
            return sink_up(sink, outage, wall)
        if condition.state is SinkState.IDLE or outage is not None:
            return None
        since = self._failing.setdefault(sink, _Failing(now, wall))
        if condition.state is SinkState.RETRYING and now - since.monotonic < self._down_after_s:
            return None
        self._outages[sink] = Outage(since.wall, condition.reason)
        return sink_down(sink, self._outages[sink], wall)
