"""The small picture of the motion gate is the mean of blocks."""

from __future__ import annotations

import numpy as np
import pytest

from sentinel_pipeline.infrastructure.video.luma import shrink


@pytest.mark.parametrize(
    ("size", "width", "shape"),
    [
        ((325, 641), 160, (81, 160)),
        ((1080, 1920), 160, (90, 160)),
        ((180, 960), 160, (30, 160)),
        ((95, 805), 160, (19, 161)),
        ((90, 160), 160, (90, 160)),
        ((45, 80), 160, (45, 80)),
    ],
)
def test_luma_shrinks_to_the_means_of_blocks(size: tuple[int, int], width: int, shape: tuple[int, int]) -> None:
    """Each pixel is the mean of its block but for rounding, what fills no block is dropped, padding does not matter."""
    plane = np.random.default_rng(5).integers(0, 256, (size[0], size[1] + 7), dtype=np.uint8)[:, : size[1]]
    small = shrink(plane, width)
    block = size[1] // width or 1
    whole = plane[: shape[0] * block, : shape[1] * block].reshape(shape[0], block, shape[1], block)
    assert (small.shape, small.dtype) == (shape, np.uint8)
    assert np.abs(small - whole.mean(axis=(1, 3))).max() <= 2


@pytest.mark.parametrize("side", [256, 257, 300])
def test_luma_keeps_white_and_black(side: int) -> None:
    """The largest blocks of one shade keep it: nothing overflows, and no rounding adds up."""
    for shade in (0, 17, 255):
        assert shrink(np.full((side, side), shade, np.uint8), 1).tolist() == [[shade]]


def test_luma_is_a_picture_of_its_own() -> None:
    """What is returned does not hold the plane in memory, and can be written to, even when nothing was to shrink."""
    plane = np.zeros((90, 160), np.uint8)
    plane.flags.writeable = False
    small = shrink(plane, 160)
    small[0, 0] = 1
    assert plane[0, 0] == 0
