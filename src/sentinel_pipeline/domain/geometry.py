"""Boxes, polygons and the mapping between a picture and a model's input."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Point = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Fit:
    """How a source picture lies inside a model's input.

    The picture is scaled to ``content`` (width, height in input pixels) and placed at ``offset`` (left, top).
    ``to_source`` undoes exactly that: it uses the rounded content size, so the mapping back has no drift.
    """

    source: tuple[int, int]
    target: tuple[int, int]
    content: tuple[int, int]
    offset: tuple[int, int]

    @classmethod
    def letterbox(cls, source: tuple[int, int], target: tuple[int, int]) -> Fit:
        """Keep the aspect ratio, centre, and leave the rest to padding."""
        (sw, sh), (tw, th) = source, target
        scale = min(tw / sw, th / sh)
        content = (max(1, min(tw, round(sw * scale))), max(1, min(th, round(sh * scale))))
        return cls(source, target, content, ((tw - content[0]) // 2, (th - content[1]) // 2))

    @classmethod
    def stretch(cls, source: tuple[int, int], target: tuple[int, int]) -> Fit:
        """Fill the whole input; the aspect ratio is not kept."""
        return cls(source, target, target, (0, 0))

    def to_source(self, xyxy: Floats) -> Floats:
        """Map boxes (n, 4) from input pixels to source pixels, clipped to the picture."""
        (sw, sh), (cw, ch), (left, top) = self.source, self.content, self.offset
        boxes = (xyxy - np.array([left, top, left, top], np.float32)) * np.array(
            [sw / cw, sh / ch, sw / cw, sh / ch], np.float32
        )
        clipped: Floats = np.clip(boxes, 0, np.array([sw, sh, sw, sh], np.float32)).astype(np.float32)
        return clipped

    def to_target(self, xyxy: Floats) -> Floats:
        """Map boxes (n, 4) from source pixels to input pixels."""
        (sw, sh), (cw, ch), (left, top) = self.source, self.content, self.offset
        scaled: Floats = (
            xyxy * np.array([cw / sw, ch / sh, cw / sw, ch / sh], np.float32)
            + np.array([left, top, left, top], np.float32)
        ).astype(np.float32)
        return scaled


def iou_matrix(a: Floats, b: Floats) -> Floats:
    """Return the intersection over union of every box of ``a`` (n, 4) with every box of ``b`` (m, 4): (n, m)."""
    top_left = np.maximum(a[:, None, :2], b[None, :, :2])
    bottom_right = np.minimum(a[:, None, 2:], b[None, :, 2:])
    overlap = np.prod(np.clip(bottom_right - top_left, 0, None), axis=2)
    area_a = np.prod(np.clip(a[:, 2:] - a[:, :2], 0, None), axis=1)
    area_b = np.prod(np.clip(b[:, 2:] - b[:, :2], 0, None), axis=1)
    union = area_a[:, None] + area_b[None, :] - overlap
    result: Floats = np.where(union > 0, overlap / np.maximum(union, 1e-9), 0).astype(np.float32)
    return result


def in_polygon(point: Point, polygon: tuple[Point, ...]) -> bool:
    """Return whether ``point`` lies inside ``polygon`` (even-odd rule); both in the same units."""
    x, y = point
    inside = False
    x1, y1 = polygon[-1]
    for x2, y2 in polygon:
        if (y1 > y) != (y2 > y) and x < (x2 - x1) * (y - y1) / (y2 - y1) + x1:
            inside = not inside
        x1, y1 = x2, y2
    return inside


def side_of_line(point: Point, start: Point, end: Point) -> float:
    """Return > 0 when ``point`` lies right of the line from ``start`` to ``end`` (y grows downwards), < 0 left."""
    return (end[0] - start[0]) * (point[1] - start[1]) - (end[1] - start[1]) * (point[0] - start[0])


def segments_cross(a: Point, b: Point, c: Point, d: Point) -> bool:
    """Return whether segment ``a``-``b`` crosses segment ``c``-``d`` (touching ends count on one side only)."""
    return (side_of_line(a, c, d) > 0) != (side_of_line(b, c, d) > 0) and (side_of_line(c, a, b) > 0) != (
        side_of_line(d, a, b) > 0
    )
