"""Non-maximum suppression: of boxes that overlap, keep the best of each class."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from sentinel_pipeline.domain.geometry import Floats

MAX_CANDIDATES = 2000  # suppression is quadratic: a model gone wild must not stop the stream
MAX_DETECTIONS = 300


@dataclass(frozen=True, slots=True)
class Candidates:
    """Boxes before suppression. xyxy: (n, 4) float32 input pixels; score: (n,) in [0, 1]; class_id: (n,) int64."""

    xyxy: Floats
    score: Floats
    class_id: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.xyxy)

    def take(self, index: NDArray[np.int64]) -> Candidates:
        """Return those at ``index``, in its order."""
        return Candidates(self.xyxy[index], self.score[index], self.class_id[index])


def suppress(candidates: Candidates, iou: float) -> Candidates:
    """Return the survivors, best first, at most ``MAX_DETECTIONS``.

    A box goes when it overlaps a better one of its class by more than ``iou`` in [0, 1].
    """
    if not len(candidates):
        return candidates
    best_first = candidates.take(np.argsort(-candidates.score, kind="stable")[:MAX_CANDIDATES])
    # Moving every class to a place of its own makes one call per class unnecessary. Float64: a shift by many thousand
    # pixels must not round the boxes.
    boxes = best_first.xyxy.astype(np.float64)
    span = float(boxes.max() - boxes.min()) + 1.0
    shifted = boxes + best_first.class_id[:, None] * span
    xywh = np.column_stack((shifted[:, :2], shifted[:, 2:] - shifted[:, :2]))
    kept = cv2.dnn.NMSBoxes(xywh.tolist(), best_first.score.tolist(), 0.0, iou)
    index = np.sort(np.asarray(kept, np.int64).ravel())[:MAX_DETECTIONS]
    return best_first.take(index)
