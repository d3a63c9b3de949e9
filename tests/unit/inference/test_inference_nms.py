"""Non-maximum suppression against a plain reference."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sentinel_pipeline.domain.geometry import iou_matrix
from sentinel_pipeline.infrastructure.inference.nms import MAX_DETECTIONS, Candidates, suppress


def candidates(boxes: list[tuple[float, float, float, float]], scores: list[float], classes: list[int]) -> Candidates:
    return Candidates(
        np.array(boxes, np.float32).reshape(-1, 4), np.array(scores, np.float32), np.array(classes, np.int64)
    )


def reference(found: Candidates, iou: float) -> list[int]:
    """Greedy suppression as the books have it: best first, one class at a time."""
    overlap = iou_matrix(found.xyxy, found.xyxy)
    kept: list[int] = []
    for i in np.argsort(-found.score, kind="stable"):
        if all(found.class_id[i] != found.class_id[k] or overlap[i, k] <= iou for k in kept):
            kept.append(int(i))
    return kept


@st.composite
def many_boxes(draw: st.DrawFn) -> Candidates:
    n = draw(st.integers(0, 25))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    corner = rng.uniform(-20, 600, (n, 2))
    xyxy = np.hstack((corner, corner + rng.uniform(1, 150, (n, 2)))).astype(np.float32)
    return Candidates(xyxy, (rng.permutation(n).astype(np.float32) + 1) / (n + 1), rng.integers(0, 4, n))


@settings(max_examples=60, deadline=None)
@given(many_boxes(), st.sampled_from([0.3, 0.45, 0.6]))
def test_suppress_agrees_with_the_reference(found: Candidates, iou: float) -> None:
    """The fast way keeps exactly the boxes that greedy suppression per class keeps, best first."""
    overlap = iou_matrix(found.xyxy, found.xyxy)
    if ((overlap > iou - 1e-4) & (overlap < iou + 1e-4)).any():
        return  # float32 and float64 may differ on the threshold itself
    kept = suppress(found, iou)
    assert kept.xyxy.tolist() == found.xyxy[reference(found, iou)].tolist()
    assert kept.class_id.tolist() == found.class_id[reference(found, iou)].tolist()


def test_suppress_keeps_another_class_in_the_same_place() -> None:
    """A person on a bicycle stays a person and a bicycle."""
    kept = suppress(candidates([(0, 0, 10, 10)] * 3, [0.9, 0.8, 0.7], [0, 1, 0]), 0.5)
    assert kept.class_id.tolist() == [0, 1]
    assert kept.score.tolist() == pytest.approx([0.9, 0.8])


def test_suppress_of_nothing_is_nothing() -> None:
    """A picture without objects is no special case for the caller."""
    assert len(suppress(candidates([], [], []), 0.5)) == 0


def test_suppress_is_bounded() -> None:
    """A model that sees objects everywhere yields a bounded number of boxes: the best ones."""
    n = 5000
    x = np.arange(n, dtype=np.float32) * 20
    boxes = np.stack((x, x * 0, x + 10, x * 0 + 10), axis=1)
    found = Candidates(boxes, np.linspace(0.1, 0.9, n, dtype=np.float32), np.zeros(n, np.int64))
    kept = suppress(found, 0.5)
    assert len(kept) == MAX_DETECTIONS
    assert kept.score.min() == np.sort(found.score)[-MAX_DETECTIONS]
