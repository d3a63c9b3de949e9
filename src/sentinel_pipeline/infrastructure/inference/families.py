"""How families of models want their picture, and how their outputs become boxes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from sentinel_pipeline.domain.detections import Detections
from sentinel_pipeline.domain.errors import ConfigError, ModelError
from sentinel_pipeline.domain.frame import Pixels
from sentinel_pipeline.domain.geometry import Fit, Floats
from sentinel_pipeline.domain.models import Resize
from sentinel_pipeline.infrastructure.inference.nms import Candidates, suppress

Outputs = Sequence[Floats]


@dataclass(frozen=True, slots=True)
class Family:
    """Models that are fed and read alike.

    pixel_scale: what the input's RGB values 0..255 are multiplied by.
    input_size: (width, height) where neither the file nor the configuration says; multiple: what both are multiples of.
    resize: how such models are trained. labels: class names where the family implies them.
    classes: outputs of one picture and the number of labels -> number of classes that the model has.
    decode: outputs of one picture, number of classes, least score -> boxes in input pixels. Raises ``ModelError``.
    """

    name: str
    pixel_scale: float
    input_size: tuple[int, int]
    multiple: int
    resize: Resize
    labels: tuple[str, ...] | None
    classes: Callable[[Outputs, int], int]
    decode: Callable[[Outputs, int, float], Candidates]


def find_family(name: str) -> Family:
    """Return the family called ``name``. Raises ``ConfigError``."""
    if name not in FAMILIES:
        raise ConfigError(f"unknown model family {name!r}", remedy=f"use one of {', '.join(FAMILIES)}")
    return FAMILIES[name]


def to_tensor(rgb: Pixels, scale: float) -> Floats:
    """Return an (H, W, 3) uint8 picture as a new contiguous (3, H, W) float32 array, multiplied by ``scale``."""
    tensor = np.empty((3, *rgb.shape[:2]), np.float32)
    np.multiply(rgb.transpose(2, 0, 1), np.float32(scale), out=tensor)
    return tensor


def read_outputs(
    family: Family, outputs: Outputs, fit: Fit, *, classes: int, confidence: float, iou: float
) -> Detections:
    """Return what the outputs of one picture say, in source pixels, best first, at most 300 boxes.

    Raises ``ModelError`` when they hold NaN or infinity, or do not look like the family's.
    """
    floats = [np.asarray(output, np.float32) for output in outputs]
    if not all(np.isfinite(output).all() for output in floats):
        raise ModelError("the model returned NaN or infinity", remedy="check the model, fp16 exports may overflow")
    kept = suppress(family.decode(floats, classes, confidence), iou)
    xyxy = fit.to_source(kept.xyxy)
    real = ((xyxy[:, 2] > xyxy[:, 0]) & (xyxy[:, 3] > xyxy[:, 1])).nonzero()[0]  # others lie in the padding
    return Detections(xyxy[real], kept.score[real], kept.class_id[real])


def _yolov8_rows(outputs: Outputs, labels: int) -> Floats:
    """Return the output as (4 + classes, n), whichever way round the model has it."""
    raw = outputs[0]
    if raw.ndim != 2 or min(raw.shape) < 5:
        raise ModelError(
            f"an output of shape {raw.shape} per picture is not YOLOv8's (4 + classes, boxes)",
            remedy="choose another family, or export without non-maximum suppression",
        )
    if raw.shape[0] == 4 + labels:
        return raw
    return raw.T if raw.shape[1] == 4 + labels or raw.shape[1] < raw.shape[0] else raw


def _yolov8_classes(outputs: Outputs, labels: int) -> int:
    return len(_yolov8_rows(outputs, labels)) - 4


def _yolov8_decode(outputs: Outputs, classes: int, confidence: float) -> Candidates:
    """Read ``[4 + classes, n]``: centre x, centre y, width, height in input pixels, then a score per class."""
    rows = _yolov8_rows(outputs, classes)
    scores = rows[4:]
    best = scores.max(axis=0)
    keep = (best > confidence).nonzero()[0]
    _check_scores(best[keep])
    cx, cy, w, h = rows[:4, keep]
    xyxy = np.stack((cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2), axis=1).astype(np.float32)
    return Candidates(xyxy, best[keep], scores[:, keep].argmax(axis=0).astype(np.int64))


def _check_scores(scores: Floats) -> None:
    if len(scores) and scores.max() > 1.001:
        raise ModelError(
            f"the model returned a score of {scores.max():.3g}, which is above 1",
            remedy="choose the family that fits the model, or export it with its final sigmoid",
        )


CENTERFACE_STRIDE = 4


def _centerface_classes(outputs: Outputs, _labels: int) -> int:
    channels = [len(output) if output.ndim == 3 else 0 for output in outputs]
    if channels[:3] != [1, 2, 2]:
        raise ModelError(
            f"outputs of {channels} channels are not CenterFace's 1, 2, 2 (heatmap, scale, offset)",
            remedy="choose another family",
        )
    return 1


def _centerface_decode(outputs: Outputs, _classes: int, confidence: float) -> Candidates:
    """Read heatmap, log size and offset, (channels, H/4, W/4) each: the box around every cell above ``confidence``."""
    heatmap, size, offset = outputs[:3]
    y, x = (heatmap[0] > confidence).nonzero()
    score = heatmap[0, y, x]
    _check_scores(score)
    # exp of what a broken model returns may overflow; such boxes are clipped to the picture like any other
    h, w = CENTERFACE_STRIDE * np.exp(np.minimum(size[:, y, x], 12.0))
    cy = CENTERFACE_STRIDE * (y + offset[0, y, x] + 0.5)
    cx = CENTERFACE_STRIDE * (x + offset[1, y, x] + 0.5)
    xyxy = np.stack((cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2), axis=1).astype(np.float32)
    return Candidates(xyxy, score, np.zeros(len(score), np.int64))


FAMILIES: dict[str, Family] = {
    family.name: family
    for family in (
        Family("yolov8", 1 / 255, (640, 640), 32, "letterbox", None, _yolov8_classes, _yolov8_decode),
        Family("centerface", 1.0, (640, 384), 32, "stretch", ("face",), _centerface_classes, _centerface_decode),
    )
}
