"""The INT8 twin of the built-in detector against its original, on pictures that did not set its scales."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

import av
import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from sentinel_pipeline.domain.frame import Frame
from sentinel_pipeline.domain.geometry import iou_matrix
from sentinel_pipeline.domain.models import ModelSpec
from sentinel_pipeline.infrastructure.inference.builtin import find_builtin
from sentinel_pipeline.infrastructure.inference.detector import ModelDetector, open_detector
from sentinel_pipeline.infrastructure.video.images import AvImage

CLIP = Path(str(resources.files("sentinel_pipeline.assets") / "vtest-768x576-10fps.mp4"))
PORTRAIT = Path(__file__).parents[1] / "data" / "astronaut.jpg"
CALIBRATED_UP_TO = 396  # tools/build_int8.py took the scales from pictures before this one
Boxes = NDArray[np.float32]


@pytest.fixture(scope="module")
def unseen() -> list[Frame]:
    """Forty moments of the clip's second half, a second apart."""
    with av.open(str(CLIP)) as container:
        numbered = enumerate(container.decode(video=0))
        return [
            Frame(AvImage(picture), i, i / 10, 0.0, 0.0)
            for i, picture in numbered
            if i >= CALIBRATED_UP_TO and not i % 10
        ]


def persons(detector: ModelDetector, frame: Frame) -> Boxes:
    found, _ = detector.detect(frame, confidence=0.4, iou=0.6)
    boxes: Boxes = found.xyxy[found.class_id == detector.labels.index("person")]
    return boxes


def matched(ones: Boxes, others: Boxes) -> list[float]:
    """Pair boxes one to one, best overlap first, down to an IoU of 0.5; return the overlaps."""
    overlap = iou_matrix(ones, others)
    pairs = []
    while overlap.size and overlap.max() >= 0.5:
        row, column = np.unravel_index(overlap.argmax(), overlap.shape)
        pairs.append(float(overlap[row, column]))
        overlap[row, :] = overlap[:, column] = 0.0
    return pairs


def test_int8_finds_the_people_that_the_original_finds(unseen: list[Frame]) -> None:
    """Of some 230 persons at most 4 % are missed and 4 % are extra, and the boxes lie where the original's lie."""
    overlaps: list[float] = []
    missed = extra = 0
    with (
        open_detector(ModelSpec("fp", builtin="nanodet-g-416", threads=1)) as original,
        open_detector(ModelSpec("int8", builtin="nanodet-g-416-int8", threads=1)) as small,
    ):
        for frame in unseen:
            wanted, got = persons(original, frame), persons(small, frame)
            pairs = matched(wanted, got)
            overlaps += pairs
            missed += len(wanted) - len(pairs)
            extra += len(got) - len(pairs)
    assert len(overlaps) > 200
    assert missed <= 0.04 * len(overlaps)
    assert extra <= 0.04 * len(overlaps)
    assert np.mean(overlaps) > 0.95


def test_int8_sees_other_pictures_too() -> None:
    """On a portrait, nothing like the footage that set its scales, it finds the same person as the original."""
    with av.open(str(PORTRAIT)) as container:
        frame = Frame(AvImage(next(container.decode(video=0))), 0, 0.0, 0.0, 0.0)
    boxes = []
    for name in ("nanodet-g-416", "nanodet-g-416-int8"):
        with open_detector(ModelSpec("m", builtin=name, threads=1)) as detector:
            boxes.append(persons(detector, frame))
    assert [len(found) for found in boxes] == [1, 1]
    assert iou_matrix(*boxes)[0, 0] > 0.9


def test_int8_file_keeps_box_decoding_in_floats() -> None:
    """Every convolution reads 8-bit weights of at most 7 bits, and nothing behind the raw scores and distances does."""
    model = onnx.load(find_builtin("nanodet-g-416-int8").path)
    weights = {item.name: onnx.numpy_helper.to_array(item) for item in model.graph.initializer}
    source = {node.output[0]: node for node in model.graph.node}
    convolutions = [node for node in model.graph.node if node.op_type == "Conv"]
    assert len(convolutions) == 34
    for node in convolutions:
        stored = weights[source[node.input[1]].input[0]]
        assert stored.dtype == np.int8
        assert np.abs(stored.astype(int)).max() <= 64, "more would overflow on processors without VNNI"
    behind, start = set[str](), {"scores", "dist"}
    for node in model.graph.node:
        if node.name in start or behind.intersection(node.input):
            behind.update(node.output)
            assert node.op_type not in ("QuantizeLinear", "DequantizeLinear"), node.name
    assert "output0" in behind
