"""When a receiver counts as down."""

from __future__ import annotations

from sentinel_pipeline.application.event.delivery_policy import SinkState
from sentinel_pipeline.application.event.sink_outages import SinkCondition, SinkOutages
from sentinel_pipeline.domain.system_events import Outage

WALL = 1_732_406_400.0


class Watched:
    """One sink, looked at second by second."""

    def __init__(self, **left_open: Outage) -> None:
        self._outages = SinkOutages(left_open)

    def at(self, second: float, state: SinkState, delivered: int = 0, reason: str = "refused") -> list[str]:
        told = self._outages.step({"vms": SinkCondition(state, reason, delivered)}, second, WALL + second)
        self.told = told
        return [event.type for event in told]


def test_sink_is_down_after_ten_seconds_of_failing_once() -> None:
    """Ten seconds of failing make one event, with the time of the first failure; success makes the other."""
    sink = Watched()
    assert sink.at(0, SinkState.UP, 5) == []
    assert [sink.at(second, SinkState.RETRYING, 5) for second in range(1, 11)] == [[]] * 10
    assert sink.at(11, SinkState.RETRYING, 5) == ["SYSTEM_SINK_DOWN"]
    (down,) = sink.told
    assert (down.ts, down.details["since"]) == (WALL + 11, "2024-11-24T00:00:01.000Z")
    assert [sink.at(second, SinkState.RETRYING, 5) for second in range(12, 40)] == [[]] * 28
    assert sink.at(41, SinkState.UP, 6) == ["SYSTEM_SINK_UP"]
    (up,) = sink.told
    assert up.details["incident_id"] == down.details["incident_id"]
    assert up.details["down_s"] == 40.0
    assert sink.at(42, SinkState.UP, 7) == []


def test_sink_that_delivers_now_and_then_is_not_down() -> None:
    """A success between two looks starts the ten seconds anew, although both looks saw it failing."""
    sink = Watched()
    for second in range(40):
        assert sink.at(second, SinkState.RETRYING, second // 9) == []


def test_sink_that_is_paused_or_stopped_is_down_at_once() -> None:
    """Refused credentials and a receiver that wants no more events need no ten seconds."""
    for state in (SinkState.PAUSED, SinkState.STOPPED):
        sink = Watched()
        assert sink.at(0, SinkState.UP, 1) == []
        assert sink.at(1, state, 1, "401") == ["SYSTEM_SINK_DOWN"]
        assert sink.told[0].details["reason"] == "401"


def test_sink_that_was_never_used_says_nothing() -> None:
    """Nothing to deliver is neither up nor down."""
    sink = Watched()
    assert [sink.at(second, SinkState.IDLE) for second in range(30)] == [[]] * 30


def test_sink_left_open_by_an_earlier_life_is_closed_by_its_first_success() -> None:
    """The outage of the last run is not told again, and ends with the same incident."""
    outage = Outage(WALL - 100, "refused")
    sink = Watched(vms=outage)
    assert sink.at(0, SinkState.IDLE) == []
    assert [sink.at(second, SinkState.RETRYING) for second in range(1, 30)] == [[]] * 29
    assert sink.at(30, SinkState.UP, 1) == ["SYSTEM_SINK_UP"]
    assert sink.told[0].details["incident_id"] == outage.incident_id
