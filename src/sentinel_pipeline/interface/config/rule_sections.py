"""The rules of a stream: when what a camera sees becomes an event."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from sentinel_pipeline.interface.config.fields import (
    DURATION,
    EventType,
    Id,
    Name,
    PointField,
    Polygon,
    Quantity,
)
from sentinel_pipeline.interface.config.section import Section, optional, required

_CLASSES = "Classes that count. Empty: all that `detect.classes` lets through."
_COOLDOWN = "How long the same object stays quiet after an incident."
_CLEAR_AFTER = "How long an object must be out of the polygon before the incident is over."
_POLYGON = (
    "Points [x, y] in shares of the picture's width and height from 0 to 1, at least three."
    " An object is where the middle of its box's lower edge is."
)
_Wait = Annotated[float, Quantity(DURATION, 0, "1d")]


class _Rule(Section):
    name: Id = required("Name of the rule, once per stream; `module_name` of its events.", example="gate-zone")
    classes: tuple[Name, ...] = optional((), _CLASSES)
    cooldown: _Wait = optional("0s", _COOLDOWN)


class ZoneRule(_Rule):
    """Objects inside a polygon: DETECTED on entering, CONFIRMED after a while, CLEARED on leaving."""

    when: Literal["zone"] = required("Kind of rule: zone.")
    polygon: Polygon = required(_POLYGON, example=[[0, 0], [1, 0], [1, 1], [0, 1]])
    event: EventType = optional("INTRUSION", "Type of the events.")
    confirm_after: _Wait = optional("500ms", "How long an object must be inside before it is believed.")
    clear_after: _Wait = optional("2s", _CLEAR_AFTER)


class LineRule(_Rule):
    """Objects that cross a line, one CONFIRMED event each. Needs `track.enabled`."""

    when: Literal["line"] = required("Kind of rule: line.")
    start: PointField = required(
        "Where the line begins: [x, y] in shares of width and height.", alias="from", example=[0.5, 0]
    )
    end: PointField = required(
        "Where the line ends: [x, y] in shares of width and height.", alias="to", example=[0.5, 1]
    )
    direction: Literal["both", "left", "right"] = optional(
        "both", "Crossings that count: towards which side, looking from `from` to `to`."
    )
    event: EventType = optional("LINE_CROSSED", "Type of the events.")


class DwellRule(_Rule):
    """Objects that stay inside a polygon for too long."""

    when: Literal["dwell"] = required("Kind of rule: dwell.")
    polygon: Polygon = required(_POLYGON, example=[[0, 0], [1, 0], [1, 1], [0, 1]])
    longer_than: Annotated[float, Quantity(DURATION, "100ms", "7d")] = required(
        "How long an object may stay.", example="30s"
    )
    event: EventType = optional("LOITERING", "Type of the events.")
    clear_after: _Wait = optional("2s", _CLEAR_AFTER)


RuleSection = Annotated[ZoneRule | LineRule | DwellRule, Field(discriminator="when")]
