"""What is drawn on a published picture."""

from __future__ import annotations

from dataclasses import dataclass

from sentinel_pipeline.domain.geometry import Point
from sentinel_pipeline.domain.streams import HidingMethod


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
class Trail:
    """Where an object has been: its foot points in source pixels, the newest last."""

    points: tuple[Point, ...]
    label: str
    alarm: bool = False


@dataclass(frozen=True, slots=True)
class Hidden:
    """What is made unrecognisable before anything is drawn: boxes in source pixels, or the whole picture."""

    method: HidingMethod
    regions: tuple[tuple[float, float, float, float], ...] = ()
    everything: bool = False


@dataclass(frozen=True, slots=True)
class Overlay:
    """Everything to hide and to draw.

    notice: a line of text across the picture, such as "NO SIGNAL". time: when the picture was taken, as people read it.
    """

    boxes: tuple[Box, ...] = ()
    zones: tuple[Zone, ...] = ()
    notice: str = ""
    trails: tuple[Trail, ...] = ()
    time: str = ""
    hidden: Hidden | None = None
