"""Hiding parts of a picture on its planes."""

from __future__ import annotations

import math

import numpy as np
import pytest

from sentinel_pipeline.domain.geometry import Fit
from sentinel_pipeline.domain.overlay import Hidden
from sentinel_pipeline.domain.streams import HidingMethod
from sentinel_pipeline.infrastructure.video.canvas import Planes, even_fit
from sentinel_pipeline.infrastructure.video.concealing import conceal

METHODS: tuple[HidingMethod, ...] = ("pixelate", "blur", "fill")
SIZE = (320, 240)


def _noise(size: tuple[int, int] = SIZE) -> Planes:
    width, height = size
    random = np.random.default_rng(7)
    y, u, v = (
        random.integers(16, 236, shape, np.uint8) for shape in ((height, width), *[(height // 2, width // 2)] * 2)
    )
    return Planes(y, u, v)


def _same(size: tuple[int, int] = SIZE) -> Fit:
    return even_fit(size, size)


def _detail(plane: np.ndarray) -> float:
    """Return the mean difference between neighbours: what there is to recognise."""
    return float(np.abs(np.diff(plane.astype(int), axis=1)).mean())


@pytest.mark.parametrize("method", METHODS)
def test_concealing_hides_a_box_on_all_planes_and_nothing_else(method: HidingMethod) -> None:
    """Inside the box no detail is left in brightness or colour; at some distance every sample is as it was."""
    planes, before = _noise(), _noise()
    conceal(planes, Hidden(method, ((100.0, 80.0, 196.0, 176.0),)), _same())
    for plane, old, half in ((planes.y, before.y, 1), (planes.u, before.u, 2), (planes.v, before.v, 2)):
        inside = np.s_[80 // half : 176 // half, 100 // half : 196 // half]
        assert _detail(plane[inside]) < 0.2 * _detail(old[inside])
        outside = np.ones(plane.shape, bool)
        outside[64 // half : 192 // half, 80 // half : 224 // half] = False
        assert np.array_equal(plane[outside], old[outside])
        assert not np.array_equal(plane[inside], old[inside])


@pytest.mark.parametrize("method", METHODS)
def test_concealing_hides_everything(method: HidingMethod) -> None:
    """The whole picture loses its detail, to the last row and column."""
    planes = _noise()
    conceal(planes, Hidden(method, everything=True), _same())
    for plane in (planes.y, planes.u, planes.v):
        assert _detail(plane) < 15
        assert _detail(plane[-8:]) < 15
        assert _detail(plane[:, -8:]) < 15


def test_concealing_uses_squares_that_stay_where_they_are() -> None:
    """A box that moves a little has the same squares: moving ones would show, picture by picture, what is below."""
    one, other = _noise(), _noise()
    conceal(one, Hidden("pixelate", ((100.0, 80.0, 160.0, 140.0),)), _same())
    conceal(other, Hidden("pixelate", ((103.0, 82.0, 163.0, 142.0),)), _same())
    both = np.s_[88:136, 104:160]
    assert np.array_equal(one.y[both], other.y[both])


@pytest.mark.parametrize(
    "box",
    [(-50.0, -50.0, 60.0, 60.0), (300.0, 200.0, 900.0, 900.0), (10.0, 10.0, 10.5, 10.5)],
    ids=["beyond the corner", "beyond the other corner", "smaller than a pixel"],
)
def test_concealing_takes_any_box(box: tuple[float, float, float, float]) -> None:
    """Boxes that lie partly outside, or are tiny, hide what is inside of the picture, and never fail."""
    planes, before = _noise(), _noise()
    conceal(planes, Hidden("fill", (box,)), _same())
    x1, y1 = (int(min(max(c, 0), side - 1)) for c, side in zip(box[:2], SIZE, strict=True))
    assert planes.y[y1, x1] == 16 != before.y[y1, x1]


@pytest.mark.parametrize("edge", [math.nan, math.inf, -math.inf])
def test_concealing_hides_everything_for_a_box_that_is_no_number(edge: float) -> None:
    """A box without a place could be anywhere, so that the whole picture is hidden."""
    planes = _noise()
    conceal(planes, Hidden("fill", ((edge, 0.0, 1.0, 1.0),)), _same())
    assert (planes.y == 16).all()


def test_concealing_follows_the_letterbox() -> None:
    """A box in source pixels is hidden where the scaled picture shows it, and the bars stay as they are."""
    planes = _noise((320, 320))
    fit = even_fit((640, 360), (320, 320))  # content 320x180 at (0, 70)
    conceal(planes, Hidden("fill", everything=True), fit)
    assert (planes.y[80:240] == 16).all()
    assert (planes.y[:56] != 16).mean() > 0.9
    planes = _noise((320, 320))
    conceal(planes, Hidden("fill", ((0.0, 0.0, 64.0, 64.0),)), fit)  # is at (0, 70)..(32, 102)
    assert (planes.y[72:102, 0:32] == 16).all()
    assert (planes.y[120:, :] != 16).mean() > 0.9
