"""From a picture to a model's input, and from raw outputs to boxes in the picture."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from sentinel_pipeline.domain.detections import Detections
from sentinel_pipeline.domain.errors import ConfigError, ModelError
from sentinel_pipeline.domain.geometry import Fit
from sentinel_pipeline.infrastructure.inference.families import FAMILIES, find_family, read_outputs, to_tensor

SAME = Fit.stretch((640, 640), (640, 640))
YOLO, CENTERFACE = FAMILIES["yolov8"], FAMILIES["centerface"]


def yolo(
    boxes: list[tuple[float, float, float, float, int, float]], classes: int = 3, n: int = 50
) -> NDArray[np.float32]:
    """Return a YOLOv8 output (4 + classes, n) holding ``boxes``: centre x, centre y, width, height, class, score."""
    rows = np.zeros((4 + classes, n), np.float32)
    for i, (cx, cy, w, h, class_id, score) in enumerate(boxes):
        rows[:4, i] = cx, cy, w, h
        rows[4 + class_id, i] = score
    return rows


def read_yolo(rows: NDArray[np.float32], fit: Fit = SAME, confidence: float = 0.4, classes: int = 3) -> Detections:
    return read_outputs(YOLO, [rows], fit, classes=classes, confidence=confidence, iou=0.6)


def face_maps(height: int, width: int) -> list[NDArray[np.float32]]:
    """Return CenterFace's outputs for an input of that size in pixels, without a face."""
    return [np.zeros((channels, height // 4, width // 4), np.float32) for channels in (1, 2, 2, 10)]


def test_find_family_lists_the_known_ones() -> None:
    """An unknown family is a configuration error that names what there is."""
    assert find_family("yolov8") is YOLO
    with pytest.raises(ConfigError, match=r"unknown model family 'yolo9'.*yolov8, centerface"):
        find_family("yolo9")


@pytest.mark.parametrize(("family", "white"), [(YOLO, 1.0), (CENTERFACE, 255.0)])
def test_to_tensor_is_channels_first_in_the_familys_range(family: object, white: float) -> None:
    """The tensor is float32, (3, H, W), contiguous, red first, and white is 1 or 255 as the family wants it."""
    rgb = np.zeros((2, 4, 3), np.uint8)
    rgb[0, 1] = (255, 0, 51)
    tensor = to_tensor(rgb, family.pixel_scale)  # type: ignore[attr-defined]
    assert (tensor.shape, tensor.dtype, tensor.flags.c_contiguous) == ((3, 2, 4), np.float32, True)
    assert tensor[:, 0, 1].tolist() == pytest.approx([white, 0.0, white * 0.2])
    assert tensor.sum() == pytest.approx(white * 1.2)


@pytest.mark.parametrize("turn", [False, True], ids=["channels x boxes", "boxes x channels"])
def test_yolov8_reads_both_layouts(turn: bool) -> None:
    """Ultralytics' layout and its transpose give the same boxes, best first, in corners."""
    rows = yolo([(100, 50, 20, 10, 2, 0.5), (300, 200, 40, 60, 0, 0.9), (500, 500, 9, 9, 1, 0.39)])
    found = read_yolo(rows.T.copy() if turn else rows)
    assert found.xyxy.tolist() == [[280, 170, 320, 230], [90, 45, 110, 55]]
    assert found.class_id.tolist() == [0, 2]
    assert found.score.tolist() == pytest.approx([0.9, 0.5])


def test_yolov8_maps_back_through_the_letterbox_and_drops_the_padding() -> None:
    """A box is where it was in the source picture; a box wholly in the grey padding is none."""
    fit = Fit.letterbox((1280, 720), (640, 640))  # content 640x360 at y 140
    found = read_yolo(yolo([(320, 320, 64, 36, 1, 0.8), (320, 60, 50, 50, 1, 0.9)]), fit)
    assert found.xyxy.tolist() == [[576, 324, 704, 396]]


@given(
    st.tuples(st.integers(16, 4000), st.integers(16, 4000)),
    st.sampled_from([(416, 416), (640, 384), (320, 640)]),
    st.booleans(),
    st.lists(st.tuples(*[st.floats(0, 1)] * 4), min_size=1, max_size=5),
)
def test_fit_round_trip_is_exact(
    source: tuple[int, int], target: tuple[int, int], letterbox: bool, shares: list[tuple[float, float, float, float]]
) -> None:
    """Whatever the sizes, a box mapped into the model's input and back is the same box within float precision."""
    fit = Fit.letterbox(source, target) if letterbox else Fit.stretch(source, target)
    boxes = np.array(shares, np.float32) * np.array([*source, *source], np.float32)
    boxes = np.hstack((np.minimum(boxes[:, :2], boxes[:, 2:]), np.maximum(boxes[:, :2], boxes[:, 2:])))
    inside = fit.to_target(boxes)
    assert (inside >= -1e-3).all()
    assert (inside[:, [0, 2]] <= target[0] + 1e-3).all()
    assert (inside[:, [1, 3]] <= target[1] + 1e-3).all()
    # a long side squeezed into few pixels magnifies float32's rounding on the way back
    tolerance = 1e-3 + 4e-5 * max(source[0] / fit.content[0], source[1] / fit.content[1]) * max(target) / 16
    np.testing.assert_allclose(fit.to_source(inside), boxes, atol=tolerance, rtol=1e-5)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_outputs_that_are_no_numbers_are_an_error(bad: float) -> None:
    """NaN or infinity anywhere in the outputs is an error, not a picture without objects."""
    rows = yolo([(100, 50, 20, 10, 2, 0.5)])
    rows[0, 7] = bad
    with pytest.raises(ModelError, match="returned NaN or infinity"):
        read_yolo(rows)


def test_scores_above_one_are_an_error() -> None:
    """Raw logits, or another family's output, are refused instead of producing nonsense boxes."""
    with pytest.raises(ModelError, match=r"score of 7\.5, which is above 1.*family"):
        read_yolo(yolo([(100, 50, 20, 10, 2, 7.5)]))


@pytest.mark.parametrize(
    ("shape", "labels", "classes"),
    [
        ((84, 3549), 80, 80),
        ((3549, 84), 80, 80),
        ((84, 3549), 3, 80),
        ((3549, 84), 3, 80),
        ((7, 5), 1, 1),
        ((5, 7), 1, 1),
    ],
)
def test_yolov8_counts_the_models_classes(shape: tuple[int, int], labels: int, classes: int) -> None:
    """The number of classes comes from the outputs, so that wrong labels are noticed."""
    assert YOLO.classes([np.zeros(shape, np.float32)], labels) == classes


@pytest.mark.parametrize("shape", [(100,), (3, 20, 20), (4, 300)])
def test_yolov8_refuses_other_shapes(shape: tuple[int, ...]) -> None:
    """Outputs that are not (4 + classes, boxes) are named, with the remedy."""
    with pytest.raises(ModelError, match=r"is not YOLOv8's.*choose another family"):
        YOLO.classes([np.zeros(shape, np.float32)], 80)


def test_centerface_decodes_a_hand_made_face() -> None:
    """One warm cell becomes the box that its size and offset maps describe, and its neighbour below 0.5 does not."""
    outputs = face_maps(384, 640)
    heatmap, size, offset = outputs[:3]
    y, x = 30, 50
    heatmap[0, y, x], heatmap[0, y, x + 1] = 0.8, 0.49
    size[:, y, x] = np.log(60 / 4), np.log(40 / 4)  # height 60, width 40
    offset[:, y, x] = 0.25, -0.5  # y, x
    fit = Fit.stretch((1280, 768), (640, 384))
    found = read_outputs(CENTERFACE, outputs, fit, classes=1, confidence=0.5, iou=0.3)
    cx, cy = 4 * (50 - 0.5 + 0.5), 4 * (30 + 0.25 + 0.5)
    expected = [2 * (cx - 20), 2 * (cy - 30), 2 * (cx + 20), 2 * (cy + 30)]
    np.testing.assert_allclose(found.xyxy, [expected], rtol=1e-5)
    assert found.score.tolist() == pytest.approx([0.8])
    assert found.class_id.tolist() == [0]


def test_centerface_finds_nothing_in_a_cold_map() -> None:
    """No face is an ordinary result."""
    found = read_outputs(CENTERFACE, face_maps(64, 64), SAME, classes=1, confidence=0.5, iou=0.3)
    assert len(found) == 0
    assert CENTERFACE.classes(face_maps(64, 64), 1) == 1


def test_centerface_refuses_other_outputs() -> None:
    """A YOLO model configured as CenterFace is named before it serves."""
    with pytest.raises(ModelError, match=r"outputs of \[0\] channels are not CenterFace's"):
        CENTERFACE.classes([np.zeros((84, 3549), np.float32)], 1)
