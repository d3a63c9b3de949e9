"""States of a stream, boxes and polygons."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sentinel_pipeline.domain.detections import Detections
from sentinel_pipeline.domain.geometry import Fit, in_polygon, iou_matrix, segments_cross
from sentinel_pipeline.domain.streams import MOVES, StreamSpec, StreamState, move

SIZES = st.tuples(st.integers(1, 4096), st.integers(1, 4096))


def test_streams_moves_only_as_the_table_allows() -> None:
    """Every pair of states is either in the table or refused."""
    for old in StreamState:
        for new in StreamState:
            if new is old or new in MOVES[old]:
                assert move(old, new) is new
            else:
                with pytest.raises(RuntimeError, match=f"{old} to {new}"):
                    move(old, new)


def test_streams_spec_does_not_show_the_password() -> None:
    """A spec's repr has no source: it may carry a password."""
    assert "hunter2" not in repr(StreamSpec("gate", "rtsp://u:hunter2@h/1"))


@given(SIZES, st.tuples(st.integers(32, 1280), st.integers(32, 1280)), st.booleans())
def test_geometry_fit_maps_back_exactly(source: tuple[int, int], target: tuple[int, int], letterbox: bool) -> None:
    """Boxes mapped into the input and back are the same boxes, and the content lies inside the input."""
    fit = Fit.letterbox(source, target) if letterbox else Fit.stretch(source, target)
    w, h = source
    boxes = np.array([[0, 0, w, h], [w * 0.25, h * 0.25, w * 0.5, h * 0.75]], np.float32)
    assert np.allclose(fit.to_source(fit.to_target(boxes)), boxes, atol=max(source) * 1e-4)
    assert fit.content[0] + fit.offset[0] <= target[0]
    assert fit.content[1] + fit.offset[1] <= target[1]


def test_geometry_letterbox_of_the_footage() -> None:
    """768x576 in 416x416 is 416x312 with 52 rows of padding above."""
    fit = Fit.letterbox((768, 576), (416, 416))
    assert (fit.content, fit.offset) == ((416, 312), (0, 52))
    assert fit.to_source(np.array([[0, 52, 416, 364]], np.float32)).tolist() == [[0, 0, 768, 576]]


def test_geometry_iou() -> None:
    """Identical, half-overlapping, touching and degenerate boxes."""
    a = np.array([[0, 0, 10, 10]], np.float32)
    b = np.array([[0, 0, 10, 10], [5, 0, 15, 10], [10, 0, 20, 10], [3, 3, 3, 3]], np.float32)
    assert iou_matrix(a, b)[0].tolist() == pytest.approx([1, 1 / 3, 0, 0])


@pytest.mark.parametrize(
    ("point", "inside"), [((0.5, 0.5), True), ((0.9, 0.1), False), ((0.5, 0.2), True), ((2.0, 0.5), False)]
)
def test_geometry_in_polygon(point: tuple[float, float], inside: bool) -> None:
    """Inside and outside of a triangle."""
    assert in_polygon(point, ((0.0, 1.0), (1.0, 1.0), (0.5, 0.0))) is inside


def test_geometry_segments_cross() -> None:
    """Crossing, parallel and short segments."""
    assert segments_cross((0, 0), (2, 2), (0, 2), (2, 0))
    assert not segments_cross((0, 0), (2, 0), (0, 1), (2, 1))
    assert not segments_cross((0, 0), (0.5, 0.5), (0, 2), (2, 0))


def test_geometry_detections_check_their_shapes() -> None:
    """Boxes, scores and classes that do not belong together are refused."""
    with pytest.raises(ValueError, match="bad shapes"):
        Detections(np.zeros((2, 4), np.float32), np.zeros(1, np.float32), np.zeros(2, np.int64))
    assert len(Detections.empty()) == 0
