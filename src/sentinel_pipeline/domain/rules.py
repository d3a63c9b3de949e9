"""When what a camera sees becomes an incident. Pure: tracks and stream time come in, findings come out.

An object's place is the middle of its box's lower edge: where a person or a car touches the ground.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from sentinel_pipeline.domain.events import EventStage, new_event_id
from sentinel_pipeline.domain.geometry import Point, in_polygon, segments_cross, side_of_line
from sentinel_pipeline.domain.streams import DwellRuleSpec, LineRuleSpec, RuleSpec, ZoneRuleSpec
from sentinel_pipeline.domain.tracking import Track


@dataclass(frozen=True, slots=True)
class Finding:
    """One step in the life of an incident, to be sent as an event.

    incident_id: the same for all stages of one incident.
    track: the object as it was last seen by the rule.
    details: what else the rule has to say, JSON values only.
    """

    rule: str
    event: str
    stage: EventStage
    incident_id: str
    track: Track
    details: dict[str, Any] = field(default_factory=dict)


class Rule(Protocol):
    """One rule of one stream; one thread only."""

    def step(self, tracks: Sequence[Track], now: float, size: tuple[int, int]) -> list[Finding]:
        """Return what is new. ``now``: stream time in seconds; ``size``: of the picture, in pixels."""
        ...

    def active(self) -> frozenset[int | None]:
        """Return the track ids with an incident under way (None for untracked objects)."""
        ...

    def end(self) -> list[Finding]:
        """Close every incident under way: nobody will look any more, and what stays open is an alarm for ever."""
        ...


def make_rule(spec: RuleSpec) -> Rule:
    """Return a fresh rule for ``spec``."""
    match spec:
        case ZoneRuleSpec():
            return ZoneRule(spec)
        case LineRuleSpec():
            return LineRule(spec)
        case DwellRuleSpec():
            return DwellRule(spec)


def ground_point(track: Track, size: tuple[int, int]) -> Point:
    """Return where the object stands, as shares of width and height in [0, 1)."""
    x1, _, x2, y2 = track.xyxy
    edge = 1 - 1e-6  # an object cut off by the picture's edge is inside a polygon that reaches the edge
    return (min((x1 + x2) / 2 / size[0], edge), min(y2 / size[1], edge))


def _concerned(tracks: Sequence[Track], classes: tuple[str, ...]) -> Iterator[Track]:
    return (t for t in tracks if not classes or t.label in classes)


@dataclass(slots=True)
class _Visit:
    """An object's stay in a polygon."""

    since: float
    last: float
    track: Track
    incident_id: str = ""
    confirmed: bool = False


class _Visits:
    """Who is inside a polygon since when; a visit ends when its object was not seen inside for ``clear_after``.

    Untracked objects share one visit: the polygon is occupied or it is not.
    """

    def __init__(self, polygon: tuple[Point, ...], classes: tuple[str, ...], clear_after: float) -> None:
        self._polygon, self._classes, self._clear_after = polygon, classes, clear_after
        self.open: dict[int | None, _Visit] = {}

    def step(self, tracks: Sequence[Track], now: float, size: tuple[int, int]) -> tuple[list[_Visit], list[_Visit]]:
        """Return the visits of the objects inside now, and the visits that have ended."""
        inside: dict[int | None, _Visit] = {}
        for track in _concerned(tracks, self._classes):
            if in_polygon(ground_point(track, size), self._polygon):
                visit = self.open.setdefault(track.track_id, _Visit(now, now, track))
                if track.track_id in inside and track.confidence <= visit.track.confidence:
                    continue  # of several untracked objects the surest one speaks for the visit
                visit.last, visit.track = now, track
                inside[track.track_id] = visit
        ended = [key for key, visit in self.open.items() if key not in inside and now - visit.last >= self._clear_after]
        return list(inside.values()), [self.open.pop(key) for key in ended]

    def end(self) -> list[_Visit]:
        """Return the visits that have an incident, and forget all."""
        left, self.open = [visit for visit in self.open.values() if visit.incident_id], {}
        return left


class _Cooldown:
    """Keeps the same object from opening incident after incident."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._until: dict[int | None, float] = {}

    def start(self, key: int | None, now: float) -> None:
        self._until = {k: until for k, until in self._until.items() if until > now}
        if self._seconds > 0:
            self._until[key] = now + self._seconds

    def over(self, key: int | None, now: float) -> bool:
        return self._until.get(key, now) <= now


class ZoneRule:
    """DETECTED when an object enters, CONFIRMED when it has stayed ``confirm_after``, CLEARED when it has left."""

    def __init__(self, spec: ZoneRuleSpec) -> None:
        self._spec = spec
        self._visits = _Visits(spec.polygon, spec.classes, spec.clear_after)
        self._cooldown = _Cooldown(spec.cooldown)

    def step(self, tracks: Sequence[Track], now: float, size: tuple[int, int]) -> list[Finding]:
        """Return the stages reached with this picture."""
        findings = []
        inside, ended = self._visits.step(tracks, now, size)
        for visit in inside:
            if not visit.incident_id and self._cooldown.over(visit.track.track_id, now):
                visit.incident_id, visit.since = new_event_id(), now
                findings.append(self._finding(EventStage.DETECTED, visit))
            if visit.incident_id and not visit.confirmed and now - visit.since >= self._spec.confirm_after:
                visit.confirmed = True
                findings.append(self._finding(EventStage.CONFIRMED, visit))
        for visit in ended:
            if visit.incident_id:
                self._cooldown.start(visit.track.track_id, now)
                findings.append(self._finding(EventStage.CLEARED, visit))
        return findings

    def active(self) -> frozenset[int | None]:
        """Return the tracks whose incident is open."""
        return frozenset(key for key, visit in self._visits.open.items() if visit.incident_id)

    def end(self) -> list[Finding]:
        """Clear what is open."""
        return [self._finding(EventStage.CLEARED, visit) for visit in self._visits.end()]

    def _finding(self, stage: EventStage, visit: _Visit) -> Finding:
        return Finding(self._spec.name, self._spec.event, stage, visit.incident_id, visit.track)


class DwellRule:
    """CONFIRMED when an object has stayed ``longer_than`` seconds, CLEARED when it has left after that."""

    def __init__(self, spec: DwellRuleSpec) -> None:
        self._spec = spec
        self._visits = _Visits(spec.polygon, spec.classes, spec.clear_after)
        self._cooldown = _Cooldown(spec.cooldown)

    def step(self, tracks: Sequence[Track], now: float, size: tuple[int, int]) -> list[Finding]:
        """Return the stages reached with this picture."""
        findings = []
        inside, ended = self._visits.step(tracks, now, size)
        for visit in inside:
            long = now - visit.since >= self._spec.longer_than
            if long and not visit.incident_id and self._cooldown.over(visit.track.track_id, now):
                visit.incident_id = new_event_id()
                findings.append(self._finding(EventStage.CONFIRMED, visit, now))
        for visit in ended:
            if visit.incident_id:
                self._cooldown.start(visit.track.track_id, now)
                findings.append(self._finding(EventStage.CLEARED, visit, visit.last))
        return findings

    def active(self) -> frozenset[int | None]:
        """Return the tracks that have stayed too long."""
        return frozenset(key for key, visit in self._visits.open.items() if visit.incident_id)

    def end(self) -> list[Finding]:
        """Clear what is open."""
        return [self._finding(EventStage.CLEARED, visit, visit.last) for visit in self._visits.end()]

    def _finding(self, stage: EventStage, visit: _Visit, until: float) -> Finding:
        details = {"dwell_s": round(until - visit.since, 2)}
        return Finding(self._spec.name, self._spec.event, stage, visit.incident_id, visit.track, details)


class LineRule:
    """One CONFIRMED event for every crossing: it is over when it is seen. Needs tracked objects."""

    _FORGET = 10.0  # seconds after which an object's last place says nothing about a crossing

    def __init__(self, spec: LineRuleSpec) -> None:
        self._spec = spec
        self._places: dict[int, tuple[Point, float]] = {}
        self._cooldown = _Cooldown(spec.cooldown)

    def step(self, tracks: Sequence[Track], now: float, size: tuple[int, int]) -> list[Finding]:
        """Return the crossings between the last picture and this one."""
        findings = []
        for track in _concerned(tracks, self._spec.classes):
            if track.track_id is None:
                continue
            here = ground_point(track, size)
            before, _ = self._places.get(track.track_id, (here, now))
            self._places[track.track_id] = (here, now)
            direction = self._crossing(before, here)
            if direction and self._cooldown.over(track.track_id, now):
                self._cooldown.start(track.track_id, now)
                findings.append(self._finding(track, direction))
        self._places = {key: place for key, place in self._places.items() if now - place[1] <= self._FORGET}
        return findings

    def active(self) -> frozenset[int | None]:
        """A crossing has no duration."""
        return frozenset()

    def end(self) -> list[Finding]:
        """A crossing is over when it is told."""
        return []

    def _crossing(self, before: Point, here: Point) -> str:
        start, end = self._spec.start, self._spec.end
        if not segments_cross(before, here, start, end):
            return ""
        direction = "right" if side_of_line(here, start, end) > 0 else "left"
        return direction if self._spec.direction in ("both", direction) else ""

    def _finding(self, track: Track, direction: str) -> Finding:
        return Finding(
            self._spec.name, self._spec.event, EventStage.CONFIRMED, new_event_id(), track, {"direction": direction}
        )
