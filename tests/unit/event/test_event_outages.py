"""When a receiver, an output or a model counts as down."""

from __future__ import annotations

import pytest

from sentinel_pipeline.application.event.outages import Condition, Doing, Outages
from sentinel_pipeline.domain.system_events import Kind, Outage, Part

WALL = 1_732_406_400.0
VMS = Part("sink", "vms")


class Watched:
    """One part, looked at second by second."""

    def __init__(self, outage: Outage | None = None, part: Part = VMS) -> None:
        self._part = part
        self._outages = Outages({part: outage} if outage else None)

    def at(self, second: float, doing: Doing, done: int = 0, reason: str = "refused") -> list[str]:
        told = self._outages.step({self._part: Condition(doing, reason, done)}, second, WALL + second)
        self.told = told
        return [event.type for event in told]


def test_sink_is_down_after_ten_seconds_of_failing_once() -> None:
    """Ten seconds of failing make one event, with the time of the first failure; success makes the other."""
    sink = Watched()
    assert sink.at(0, Doing.WELL, 5) == []
    assert [sink.at(second, Doing.FAILING, 5) for second in range(1, 11)] == [[]] * 10
    assert sink.at(11, Doing.FAILING, 5) == ["SYSTEM_SINK_DOWN"]
    (down,) = sink.told
    assert (down.ts, down.details["since"]) == (WALL + 11, "2024-11-24T00:00:01.000Z")
    assert [sink.at(second, Doing.FAILING, 5) for second in range(12, 40)] == [[]] * 28
    assert sink.at(41, Doing.WELL, 6) == ["SYSTEM_SINK_UP"]
    (up,) = sink.told
    assert up.details["incident_id"] == down.details["incident_id"]
    assert up.details["down_s"] == 40.0
    assert sink.at(42, Doing.WELL, 7) == []


def test_sink_that_delivers_now_and_then_is_not_down() -> None:
    """A success between two looks starts the ten seconds anew, although both looks saw it failing."""
    sink = Watched()
    for second in range(40):
        assert sink.at(second, Doing.FAILING, second // 9) == []


def test_sink_that_is_paused_or_stopped_is_down_at_once() -> None:
    """Refused credentials and a receiver that wants no more events need no ten seconds."""
    sink = Watched()
    assert sink.at(0, Doing.WELL, 1) == []
    assert sink.at(1, Doing.DOWN, 1, "401") == ["SYSTEM_SINK_DOWN"]
    assert sink.told[0].details["reason"] == "401"


def test_sink_that_was_never_used_says_nothing() -> None:
    """Nothing to deliver is neither up nor down."""
    sink = Watched()
    assert [sink.at(second, Doing.NOTHING) for second in range(30)] == [[]] * 30


def test_sink_left_open_by_an_earlier_life_is_closed_by_its_first_success() -> None:
    """The outage of the last run is not told again, and ends with the same incident."""
    outage = Outage(WALL - 100, "refused")
    sink = Watched(outage)
    assert sink.at(0, Doing.NOTHING) == []
    assert [sink.at(second, Doing.FAILING) for second in range(1, 30)] == [[]] * 29
    assert sink.at(30, Doing.WELL, 1) == ["SYSTEM_SINK_UP"]
    assert sink.told[0].details["incident_id"] == outage.incident_id


@pytest.mark.parametrize(
    ("kind", "name", "stream_id"),
    [("sink", "vms", "system"), ("publisher", "rtsp://h/gate", "gate"), ("model", "people", "system")],
)
def test_parts_of_every_kind_have_events_of_their_own(kind: Kind, name: str, stream_id: str) -> None:
    """The type says what kind of part it is, the details which one, and an output's belong to its stream."""
    part = Watched(part=Part(kind, name, stream_id))
    part.at(0, Doing.WELL, 1)
    assert part.at(1, Doing.DOWN, 1) == [f"SYSTEM_{kind.upper()}_DOWN"]
    (down,) = part.told
    assert part.at(2, Doing.WELL, 2) == [f"SYSTEM_{kind.upper()}_UP"]
    for event in (down, *part.told):
        assert (event.stream_id, event.module_name, event.details[kind]) == (stream_id, "system", name)


def test_part_that_is_stopped_or_not_used_is_neither_down_nor_up() -> None:
    """An output that the operator stops while it fails says nothing more, until it works again."""
    output = Watched(part=Part("publisher", "rtsp://h/gate", "gate"))
    assert [output.at(second, Doing.FAILING) for second in range(10)] == [[]] * 10
    assert output.at(10, Doing.FAILING) == ["SYSTEM_PUBLISHER_DOWN"]
    assert [output.at(second, Doing.NOTHING) for second in range(11, 20)] == [[]] * 9
    assert output.at(20, Doing.WELL, 1) == ["SYSTEM_PUBLISHER_UP"]
