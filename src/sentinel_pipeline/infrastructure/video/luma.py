"""The small picture in which motion is looked for."""

from __future__ import annotations

import cv2
import numpy as np

from sentinel_pipeline.domain.frame import Pixels


def shrink(plane: Pixels, width: int) -> Pixels:
    """Return ``plane`` (H, W) reduced to about ``width`` columns by averaging whole blocks; free of aliasing.

    Halved as often as that fits: OpenCV has vector code for the mean of 2 x 2 pixels only, which makes it three times
    as fast as the mean of each block at once. Each halving rounds, so that a value is off by 2 at most.
    """
    block = max(1, plane.shape[1] // width)
    rows, columns = plane.shape[0] // block * block, plane.shape[1] // block * block
    small = plane[:rows, :columns]
    while block % 2 == 0:
        small, block = _reduce(small, 2), block // 2
    return _reduce(small, block)


def _reduce(plane: Pixels, by: int) -> Pixels:
    size = (plane.shape[1] // by, plane.shape[0] // by)
    return np.asarray(cv2.resize(plane, size, interpolation=cv2.INTER_AREA), np.uint8)
