"""The rules: pure, so that time comes in as a number."""

from __future__ import annotations

import pytest

from sentinel_pipeline.domain.events import EventStage
from sentinel_pipeline.domain.rules import make_rule
from sentinel_pipeline.domain.streams import DwellRuleSpec, LineRuleSpec, ZoneRuleSpec
from sentinel_pipeline.domain.tracking import Track

SIZE = (100, 100)
LEFT_HALF = ((0.0, 0.0), (0.5, 0.0), (0.5, 1.0), (0.0, 1.0))
DETECTED, CONFIRMED, CLEARED = EventStage.DETECTED, EventStage.CONFIRMED, EventStage.CLEARED


def person(x: float, y: float = 50, track_id: int | None = 1, label: str = "person", confidence: float = 0.8) -> Track:
    """A track whose feet are at (x, y) pixels."""
    return Track(track_id, label, confidence, (x - 5, y - 20, x + 5, y), 0.0)


def zone(**changes: object) -> ZoneRuleSpec:
    settings = {"confirm_after": 0.5, "clear_after": 2.0, "cooldown": 0.0, "classes": ("person",), **changes}
    return ZoneRuleSpec("gate", LEFT_HALF, "INTRUSION", **settings)  # type: ignore[arg-type]


def test_rules_zone_lives_through_its_three_stages() -> None:
    """An incident is detected at once, confirmed after confirm_after and cleared clear_after the object left."""
    rule = make_rule(zone())
    script = [(0.0, [person(20)]), (0.4, [person(21)]), (0.6, [person(22)]), (0.8, [person(80)]), (2.5, []), (2.7, [])]
    seen = [(now, f.stage, f.incident_id) for now, tracks in script for f in rule.step(tracks, now, SIZE)]
    assert [(now, stage) for now, stage, _ in seen] == [(0.0, DETECTED), (0.6, CONFIRMED), (2.7, CLEARED)]
    assert len({incident for *_, incident in seen}) == 1


def test_rules_zone_bridges_a_short_absence() -> None:
    """An object that is away for less than clear_after keeps its incident."""
    rule = make_rule(zone())
    rule.step([person(20)], 0.0, SIZE)
    assert rule.step([], 1.0, SIZE) == []
    assert [f.stage for f in rule.step([person(20)], 1.9, SIZE)] == [CONFIRMED]


def test_rules_zone_keeps_incidents_of_two_objects_apart() -> None:
    """Each tracked object has an incident of its own."""
    rule = make_rule(zone())
    found = rule.step([person(20, track_id=1), person(30, track_id=2)], 0.0, SIZE)
    assert [f.track.track_id for f in found] == [1, 2]
    assert found[0].incident_id != found[1].incident_id
    assert rule.active() == {1, 2}


def test_rules_zone_shares_one_incident_between_untracked_objects() -> None:
    """Without tracking the zone itself is occupied or not, and the surest object speaks for it."""
    rule = make_rule(zone())
    found = rule.step([person(20, track_id=None, confidence=0.5), person(30, track_id=None, confidence=0.9)], 0.0, SIZE)
    assert [f.track.confidence for f in found] == [0.9]


def test_rules_zone_cooldown_holds_back_the_next_incident() -> None:
    """After an incident the same object opens none for ``cooldown`` seconds, and one right after."""
    rule = make_rule(zone(cooldown=10.0, clear_after=1.0))
    rule.step([person(20)], 0.0, SIZE)
    assert [f.stage for f in rule.step([], 1.0, SIZE)] == [CLEARED]
    assert rule.step([person(20)], 5.0, SIZE) == []
    assert [f.stage for f in rule.step([person(20)], 11.5, SIZE)] == [DETECTED]


def test_rules_zone_ignores_other_classes_and_other_places() -> None:
    """Only the rule's classes count, and only where they touch the ground."""
    rule = make_rule(zone())
    assert rule.step([person(20, label="car"), person(70)], 0.0, SIZE) == []


def test_rules_zone_reaches_to_the_edge_of_the_picture() -> None:
    """An object cut off by the lower edge is inside a polygon that reaches the edge."""
    rule = make_rule(zone())
    assert len(rule.step([person(20, y=100)], 0.0, SIZE)) == 1


def line(**changes: object) -> LineRuleSpec:
    return LineRuleSpec("door", (0.5, 0.0), (0.5, 1.0), "LINE_CROSSED", **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("direction", "path", "expected"),
    [
        pytest.param("both", (40, 60), ["left"], id="towards-larger-x-is-left-of-a-line-drawn-downwards"),
        pytest.param("both", (60, 40), ["right"], id="and-back-is-right"),
        pytest.param("right", (40, 60), [], id="other-direction-not-wanted"),
        pytest.param("left", (40, 60), ["left"], id="wanted-direction"),
        pytest.param("both", (10, 40), [], id="no-crossing"),
        pytest.param("both", (40, 60, 40), ["left", "right"], id="there-and-back"),
    ],
)
def test_rules_line_tells_the_direction(direction: str, path: tuple[int, ...], expected: list[str]) -> None:
    """A crossing is reported once, with its side as seen along the line."""
    rule = make_rule(line(direction=direction))
    found = [f for i, x in enumerate(path) for f in rule.step([person(x)], i * 0.2, SIZE)]
    assert [f.details["direction"] for f in found] == expected
    assert all(f.stage is CONFIRMED for f in found)


def test_rules_line_needs_the_same_object_on_both_sides() -> None:
    """Two objects on either side are no crossing, and untracked objects never are."""
    rule = make_rule(line())
    rule.step([person(40, track_id=1), person(40, track_id=None)], 0.0, SIZE)
    assert rule.step([person(60, track_id=2), person(60, track_id=None)], 0.2, SIZE) == []


def test_rules_dwell_reports_who_stays_too_long() -> None:
    """Nothing before ``longer_than``, one confirmation after it with the time stayed, cleared when gone."""
    rule = make_rule(DwellRuleSpec("loiterer", LEFT_HALF, "LOITERING", longer_than=30.0, clear_after=2.0))
    times = [0.0, 1.5, *[float(t) for t in range(3, 36)]]
    found = [(now, f) for now in times for f in rule.step([person(20)], now, SIZE)]
    assert [(now, f.stage, f.details) for now, f in found] == [(30.0, CONFIRMED, {"dwell_s": 30.0})]
    assert [f.stage for f in rule.step([], 37.0, SIZE)] == [CLEARED]
