"""Which frames are worth analysing: so many per second of stream time, and only while something moves."""

from __future__ import annotations

import numpy as np

from sentinel_pipeline.domain.frame import Pixels
from sentinel_pipeline.domain.streams import MotionSpec


class Sampler:
    """Lets through at most ``fps`` frames per second of stream time, evenly spread. One thread only."""

    def __init__(self, fps: float) -> None:
        self._fps = fps
        self._slot: int | None = None

    def wants(self, pts: float) -> bool:
        """Return whether the frame at stream time ``pts`` (seconds) opens a new slot."""
        slot = int(pts * self._fps)
        fresh = slot != self._slot
        self._slot = slot
        return fresh


class MotionGate:
    """Opens when enough of a small luma picture has changed, and stays open for ``hold`` seconds after that.

    Compares with a slowly following background, so that one waving branch does not become the new normal at once and
    a parked car does after some seconds. Without ``enabled`` it is always open. One thread only.
    """

    _LEVEL = 18  # grey levels that count as change: above sensor noise and compression shimmer
    _FOLLOW = 0.1  # share of each new picture that enters the background

    def __init__(self, spec: MotionSpec) -> None:
        self._spec = spec
        self._background: np.ndarray | None = None
        self._moved_at = float("-inf")

    @property
    def enabled(self) -> bool:
        """Whether pictures have to be shown to the gate at all."""
        return self._spec.enabled

    def moved(self, luma: Pixels, pts: float) -> bool:
        """Return whether the gate is open. ``luma``: (h, w) uint8, a small picture; ``pts``: stream time in seconds."""
        current = luma.astype(np.float32)
        if self._background is None or self._background.shape != current.shape:
            self._background = current
            self._moved_at = pts  # a new picture is news
            return True
        changed = float(np.mean(np.abs(current - self._background) > self._LEVEL))
        self._background += (current - self._background) * self._FOLLOW
        if changed >= self._spec.threshold:
            self._moved_at = pts
        return pts - self._moved_at <= self._spec.hold


def shrink(plane: Pixels, width: int = 160) -> Pixels:
    """Return ``plane`` (H, W) reduced to about ``width`` columns by averaging whole blocks; free of aliasing."""
    block = max(1, plane.shape[1] // width)
    rows, columns = plane.shape[0] // block * block, plane.shape[1] // block * block
    blocks = plane[:rows, :columns].reshape(rows // block, block, columns // block, block)
    small: Pixels = blocks.mean(axis=(1, 3)).astype(np.uint8)
    return small
