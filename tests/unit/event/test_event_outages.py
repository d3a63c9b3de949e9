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


def test_part_is_back_only_when_it_has_done_something() -> None:
    """A model that nobody asks any more looks well; it is told to be back with its first answer."""
    model = Watched(part=Part("model", "people"))
    model.at(0, Doing.WELL, 5)
    assert [model.at(second, Doing.FAILING, 5) for second in range(1, 11)] == [[]] * 10
    assert model.at(11, Doing.FAILING, 5) == ["SYSTEM_MODEL_DOWN"]
    assert [model.at(second, Doing.WELL, 5) for second in range(12, 30)] == [[]] * 18
    assert model.at(30, Doing.WELL, 6) == ["SYSTEM_MODEL_UP"]


def test_part_that_was_restarted_counts_anew() -> None:
    """An output that is opened afresh counts its pictures from 0: the first of them is a success all the same."""
    output = Watched(part=Part("publisher", "rtsp://h/gate", "gate"))
    output.at(0, Doing.WELL, 500)
    assert output.at(1, Doing.DOWN, 500) == ["SYSTEM_PUBLISHER_DOWN"]
    assert output.at(2, Doing.WELL, 0) == []
    assert output.at(3, Doing.WELL, 25) == ["SYSTEM_PUBLISHER_UP"]


@pytest.mark.parametrize("absent", [False, True], ids=["does nothing", "is not there"])
def test_failing_does_not_go_on_while_a_part_is_not_used(absent: bool) -> None:
    """A failed try an hour ago and another one now are not an hour of failing."""
    outages = Outages()
    failing, unused = {VMS: Condition(Doing.FAILING, "refused", 0)}, {VMS: Condition(Doing.NOTHING, "", 0)}
    assert outages.step(failing, 0, WALL) == []
    assert outages.step({} if absent else unused, 1, WALL + 1) == []
    assert outages.step(failing, 3600, WALL + 3600) == []
    (down,) = outages.step(failing, 3610, WALL + 3610)
    assert down.details["since"] == "2024-11-24T01:00:00.000Z"


def test_outage_of_a_part_that_was_taken_out_is_closed_once() -> None:
    """Its second event has the incident and says why; a part that is still there stays down."""
    other = Outage(WALL, "401")
    outages = Outages({VMS: other, Part("sink", "old"): Outage(WALL, "refused")})
    (up,) = outages.keep([VMS], WALL + 60)
    assert (up.type, up.details["sink"], up.details["down_s"]) == ("SYSTEM_SINK_UP", "old", 60.0)
    assert up.details["reason"] == "no longer configured"
    assert outages.keep([VMS], WALL + 61) == []
    (up,) = outages.step({VMS: Condition(Doing.WELL, "", 1)}, 62, WALL + 62)
    assert up.details["incident_id"] == other.incident_id
