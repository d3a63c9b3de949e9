"""Draws boxes, zones, trails, the time and notices on 4:2:0 planes, without converting the picture.

Everything lies on even coordinates, so that brightness and colour end at the same pixel.
"""

from __future__ import annotations

import re
import zlib
from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

from sentinel_pipeline.domain.frame import Pixels
from sentinel_pipeline.domain.geometry import Fit
from sentinel_pipeline.domain.overlay import Box, Overlay, Trail, Zone
from sentinel_pipeline.infrastructure.video.canvas import NEUTRAL_UV, Planes
from sentinel_pipeline.infrastructure.video.concealing import conceal
from sentinel_pipeline.infrastructure.video.text import text_mask

Points = NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class Colour:
    """A colour in limited range Y, U, V."""

    y: int
    u: int
    v: int

    @classmethod
    def rgb(cls, red: int, green: int, blue: int) -> Colour:
        """Convert from RGB in 0..255 (ITU-R BT.601)."""
        y = 16 + (65.481 * red + 128.553 * green + 24.966 * blue) / 255
        u = 128 + (-37.797 * red - 74.203 * green + 112.0 * blue) / 255
        v = 128 + (112.0 * red - 93.786 * green - 18.214 * blue) / 255
        return cls(round(y), round(u), round(v))


ALARM = Colour.rgb(226, 38, 38)
INK = Colour.rgb(18, 22, 28)
PAPER = Colour.rgb(255, 255, 255)
QUIET = Colour.rgb(205, 214, 224)  # zones in which nothing happens
# No red among them: red means alarm.
_PALETTE = tuple(
    Colour.rgb(*rgb)
    for rgb in (
        (64, 196, 255),
        (105, 219, 124),
        (255, 200, 61),
        (177, 151, 252),
        (56, 217, 188),
        (255, 154, 206),
        (190, 227, 90),
        (132, 164, 255),
    )
)
_CLASS_PART = re.compile(r"[^\d#%]*")  # of "person #12 83 %"


@lru_cache(maxsize=512)
def class_colour(label: str) -> Colour:
    """Return the colour of a label's class: the same in every process, whatever number follows the name."""
    name = _CLASS_PART.match(label)
    text = name[0].strip() if name else label
    return _PALETTE[zlib.crc32(text.encode()) % len(_PALETTE)]


class Painter:
    """Draws overlays on pictures of one size. Keeps nothing of a picture; one thread only."""

    def __init__(self, size: tuple[int, int]) -> None:
        self._width, self._height = size
        self._line = 2 if self._height < 1200 else 4  # pixels
        self._text = max(12, round(self._height / 42))  # pixels

    def paint(self, planes: Planes, overlay: Overlay, fit: Fit) -> None:
        """Hide and draw ``overlay``, with boxes in pixels of the source that lies in ``planes`` as ``fit`` says."""
        if overlay.hidden is not None:
            conceal(planes, overlay.hidden, fit)
        for zone in overlay.zones:
            self._zone(planes, zone, fit)
        for trail in overlay.trails:
            self._trail(planes, trail, fit)
        if overlay.boxes:
            corners = fit.to_target(np.nan_to_num(np.array([box.xyxy for box in overlay.boxes], np.float32)))
            (left, top), (width, height) = fit.offset, fit.content
            corners = np.clip(corners, (left, top, left, top), (left + width, top + height, left + width, top + height))
            # Plain numbers from here on: NumPy costs microseconds a call, and there are many calls a picture.
            for box, corner in zip(overlay.boxes, corners.tolist(), strict=True):
                self._box(planes, box, corner)
        if overlay.time:
            tag = _tag(overlay.time, self._text, PAPER, INK)
            _place(planes, tag, 0, self._height)  # the lower left corner: cameras write theirs at the top
        if overlay.notice:
            self._notice(planes, overlay.notice)

    def _box(self, planes: Planes, box: Box, corner: list[float]) -> None:
        x1, y1, x2, y2 = self._even(*corner)
        colour = ALARM if box.alarm else class_colour(box.label)
        _outline(planes, (x1, y1, x2, y2), colour, 2 * self._line if box.alarm else self._line)
        if not box.label:
            return
        tag = _tag(box.label, self._text, PAPER if box.alarm else INK, colour)
        height = tag.y.shape[0]
        # Above the box; inside of it where the picture ends.
        _place(planes, tag, x1, y1 - height if y1 >= height else y1)

    def _even(self, left: float, top: float, right: float, bottom: float) -> tuple[int, int, int, int]:
        """Snap a box outwards to whole colour samples, inside the picture, never smaller than its own lines."""
        least = 4 * self._line
        x1 = int(_between(left, 0, max(0, self._width - least))) & ~1
        y1 = int(_between(top, 0, max(0, self._height - least))) & ~1
        x2 = (int(_between(right, x1 + least, max(self._width, x1 + least))) + 1) & ~1
        y2 = (int(_between(bottom, y1 + least, max(self._height, y1 + least))) + 1) & ~1
        return x1, y1, x2, y2

    def _zone(self, planes: Planes, zone: Zone, fit: Fit) -> None:
        shares = np.clip(np.nan_to_num(np.array(zone.points, np.float32).reshape(-1, 2)), 0, 1)
        if len(shares) < 2:
            return
        points = np.rint(shares * fit.content + fit.offset).astype(np.int32)
        colour = ALARM if zone.active else QUIET
        closed = len(points) > 2
        line = 2 * self._line if zone.active else self._line
        if zone.active and closed:
            _tint(planes, points // 2, colour)
        for plane, value, half in _parts(planes, colour):
            cv2.polylines(plane, [points // half], closed, value, line // half, cv2.LINE_AA)
        if zone.name:
            tag = _tag(zone.name, self._text, PAPER, ALARM if zone.active else INK)
            x, y = points[np.argmin(points[:, 1])]
            _place(planes, tag, int(x) & ~1, (int(y) + 2 * self._line) & ~1)

    def _trail(self, planes: Planes, trail: Trail, fit: Fit) -> None:
        scale = np.array(fit.content, np.float32) / np.array(fit.source, np.float32)
        inside = np.clip(np.nan_to_num(np.array(trail.points, np.float32)), 0, fit.source)
        points = np.rint(inside * scale + fit.offset).astype(np.int32)
        colour = ALARM if trail.alarm else class_colour(trail.label)
        for plane, value, half in _parts(planes, colour):
            thick = max(1, self._line // half)
            cv2.polylines(plane, [points // half], isClosed=False, color=value, thickness=thick, lineType=cv2.LINE_AA)

    def _notice(self, planes: Planes, text: str) -> None:
        size = max(16, round(self._height / 12))
        mask = text_mask(text, size)
        room = 0.9 * self._width
        if mask.shape[1] > room:
            mask = text_mask(text, max(8, int(size * room / mask.shape[1])))
        height = min(self._height, (mask.shape[0] * 3 // 2 + 1) & ~1)
        top = max(0, (self._height - height) // 2) & ~1
        band = planes.y[top : top + height]
        # A darker picture shows that it is an old one; the text stays readable on any.
        cv2.convertScaleAbs(band, dst=band, alpha=0.25, beta=12)
        for plane in (planes.u, planes.v):
            half = plane[top // 2 : (top + height) // 2]
            cv2.convertScaleAbs(half, dst=half, alpha=0.25, beta=0.75 * NEUTRAL_UV)
        h, w = min(mask.shape[0], height), min(mask.shape[1], self._width)
        y, x = top + (height - h) // 2, (self._width - w) // 2
        letters = planes.y[y : y + h, x : x + w]
        letters[:] = _mix(letters, PAPER.y, mask[:h, :w])


def _between(value: float, least: float, most: float) -> float:
    return min(max(value, least), most)


@lru_cache(maxsize=512)
def _tag(text: str, size: int, ink: Colour, paper: Colour) -> Planes:
    """Return ``text`` on a filled background, as planes with even sides that are only copied from."""
    mask = text_mask(text, size)
    pad = max(2, size // 4)
    height, width = (mask.shape[0] + 3) & ~1, (mask.shape[1] + 2 * pad + 1) & ~1
    alpha = np.zeros((height, width), np.uint8)
    alpha[1 : 1 + mask.shape[0], pad : pad + mask.shape[1]] = mask
    half = cv2.resize(alpha, (width // 2, height // 2), interpolation=cv2.INTER_AREA).astype(np.uint8, copy=False)
    return Planes(
        _mix(np.full_like(alpha, paper.y), ink.y, alpha),
        _mix(np.full_like(half, paper.u), ink.u, half),
        _mix(np.full_like(half, paper.v), ink.v, half),
    )


def _mix(under: Pixels, over: int, alpha: Pixels) -> Pixels:
    weight = alpha.astype(np.uint16)
    return ((under * (255 - weight) + over * weight + 127) // 255).astype(np.uint8)


def _place(planes: Planes, tag: Planes, x: int, y: int) -> None:
    """Copy ``tag`` to (x, y), both even, moved so that it lies inside the picture as far as it fits."""
    (width, height), (tag_width, tag_height) = planes.size, tag.size
    x, y = max(0, min(x, width - tag_width)), max(0, min(y, height - tag_height))
    for plane, part, half in ((planes.y, tag.y, 1), (planes.u, tag.u, 2), (planes.v, tag.v, 2)):
        into = plane[y // half :, x // half :][: part.shape[0], : part.shape[1]]
        into[:] = part[: into.shape[0], : into.shape[1]]


def _outline(planes: Planes, box: tuple[int, int, int, int], colour: Colour, line: int) -> None:
    """Draw a rectangle with lines inside of it. All coordinates even."""
    for plane, value, half in _parts(planes, colour):
        x1, y1, x2, y2 = (c // half for c in box)
        for inset in range(line // half):
            cv2.rectangle(plane, (x1 + inset, y1 + inset), (x2 - 1 - inset, y2 - 1 - inset), value)


def _parts(planes: Planes, colour: Colour) -> tuple[tuple[Pixels, int, int], ...]:
    return ((planes.y, colour.y, 1), (planes.u, colour.u, 2), (planes.v, colour.v, 2))


def _tint(planes: Planes, half_points: Points, colour: Colour) -> None:
    """Colour the inside of a polygon on the small planes only: the picture stays sharp, and it is cheap."""
    x, y, width, height = cv2.boundingRect(half_points)
    for plane, value in ((planes.u, colour.u), (planes.v, colour.v)):
        part = plane[y : y + height, x : x + width]
        mask = np.zeros(part.shape, np.uint8)
        cv2.fillPoly(mask, [half_points - (x, y)], 255)
        tinted = cv2.convertScaleAbs(part, alpha=0.75, beta=0.25 * value)
        np.copyto(part, tinted, where=mask > 0, casting="unsafe")
