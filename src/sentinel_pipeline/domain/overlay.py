"""What is drawn on a published picture."""

from __future__ import annotations

from dataclasses import dataclass

from sentinel_pipeline.domain.geometry import Point


@dataclass(frozen=True, slots=True)
class Box:
    """A labelled box in source pixels (x1, y1, x2, y2); ``alarm`` when a rule has fired for it."""

    xyxy: tuple[float, float, float, float]
    label: str
    alarm: bool = False


@dataclass(frozen=True, slots=True)
class Zone:
    """A polygon (or a line, with two points), in shares of width and height in [0, 1]."""

    points: tuple[Point, ...]
    name: str
    active: bool = False


@dataclass(frozen=True, slots=True)
class Overlay:
    """Everything to draw. ``notice`` is a line of text across the picture, such as "NO SIGNAL"."""

    boxes: tuple[Box, ...] = ()
    zones: tuple[Zone, ...] = ()
    notice: str = ""
