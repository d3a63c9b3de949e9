"""Makes parts of a 4:2:0 picture unrecognisable, on its planes."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np

from sentinel_pipeline.domain.frame import Pixels
from sentinel_pipeline.domain.geometry import Fit
from sentinel_pipeline.domain.overlay import Hidden
from sentinel_pipeline.infrastructure.video.canvas import BLACK_Y, NEUTRAL_UV, Planes

CELLS = 6  # squares along the shorter side of a hidden box: fewer than tell one face from another
_LEAST = 8  # pixels of a square


def conceal(planes: Planes, hidden: Hidden, fit: Fit) -> None:
    """Hide what ``hidden`` says, whose boxes are in pixels of the source that lies in ``planes`` as ``fit`` says.

    What is averaged is gone from the picture: nothing sharper can be computed from it.
    """
    (left, top), (width, height) = fit.offset, fit.content
    inside = (left, top, left + width, top + height)
    boxes = np.array(hidden.regions, np.float32).reshape(-1, 4)
    if hidden.everything or not np.isfinite(boxes).all():  # what is not a number could be anywhere
        _hide(planes, inside, _cell(width, height), hidden.method)  # a face may fill the picture
        return
    corners = np.clip(fit.to_target(boxes), inside[:2] * 2, inside[2:] * 2)
    for x1, y1, x2, y2 in corners.tolist():
        _hide(planes, (x1, y1, x2, y2), _cell(x2 - x1, y2 - y1), hidden.method)


def _cell(width: float, height: float) -> int:
    """Return the side of a square, a power of two, so that the same squares hide a face while it moves and grows."""
    cell = _LEAST
    while CELLS * cell < min(width, height):
        cell *= 2
    return cell


def _hide(planes: Planes, box: tuple[float, float, float, float], cell: int, method: str) -> None:
    width, height = planes.size
    # On a grid that does not move with the box: squares that do would, picture by picture, show what is below them.
    x1, y1 = int(box[0]) // cell * cell, int(box[1]) // cell * cell
    x2, y2 = min(width, -(-int(box[2] + 1) // cell) * cell), min(height, -(-int(box[3] + 1) // cell) * cell)
    if x2 <= x1 or y2 <= y1:
        return
    for plane, half, grey in ((planes.y, 1, BLACK_Y), (planes.u, 2, NEUTRAL_UV), (planes.v, 2, NEUTRAL_UV)):
        part = plane[y1 // half : y2 // half, x1 // half : x2 // half]
        if method == "fill":
            part[:] = grey
        else:
            part[:] = _averaged(part, cell // half, cv2.INTER_NEAREST if method == "pixelate" else cv2.INTER_LINEAR)


def _averaged(part: Pixels, cell: int, back: Any) -> Pixels:
    height, width = part.shape
    # To whole squares: at the picture's edge stretched ones would move with the box.
    below, right = -height % cell, -width % cell
    whole = cv2.copyMakeBorder(part, 0, below, 0, right, cv2.BORDER_REPLICATE)
    small = cv2.resize(whole, ((width + right) // cell, (height + below) // cell), interpolation=cv2.INTER_AREA)
    again = cv2.resize(small, (width + right, height + below), interpolation=back)
    return np.asarray(again[:height, :width], np.uint8)
