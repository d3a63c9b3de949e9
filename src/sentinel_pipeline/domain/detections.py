"""What a model saw in one picture."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sentinel_pipeline.domain.geometry import Floats


@dataclass(frozen=True, slots=True)
class Detections:
    """Boxes of one picture.

    xyxy: (n, 4) float32, source pixels, x1 <= x2, y1 <= y2.
    score: (n,) float32 in [0, 1].
    class_id: (n,) int64, index into the model's labels.

    Raises ``ValueError`` when the shapes do not belong together.
    """

    xyxy: Floats
    score: Floats
    class_id: NDArray[np.int64]

    def __post_init__(self) -> None:
        n = len(self.xyxy)
        if self.xyxy.shape != (n, 4) or not n == len(self.score) == len(self.class_id):
            raise ValueError(f"bad shapes {self.xyxy.shape} {self.score.shape} {self.class_id.shape}")

    def __len__(self) -> int:
        return len(self.xyxy)

    def of(self, classes: NDArray[np.bool_]) -> Detections:
        """Return those whose class is wanted. ``classes``: (number of labels,)."""
        keep = classes[self.class_id]
        return Detections(self.xyxy[keep], self.score[keep], self.class_id[keep])

    @classmethod
    def empty(cls) -> Detections:
        return cls(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64))
