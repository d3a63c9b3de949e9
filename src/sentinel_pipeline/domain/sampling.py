"""Which frames are worth analysing: so many per second of stream time, and only while something moves."""

from __future__ import annotations

import numpy as np

from sentinel_pipeline.domain.frame import Pixels
from sentinel_pipeline.domain.streams import MotionSpec


class Sampler:
    """Lets through at most ``fps`` frames per second of stream time, evenly spread. One thread only.

    phase: in [0, 1), of the interval between two slots. Streams that start together and share a model take different
    ones, so that their pictures do not all come to it at the same moment, to wait for one another.
    """

    def __init__(self, fps: float, phase: float = 0.0) -> None:
        self._fps, self._phase = fps, phase
        self._slot: int | None = None

    def wants(self, pts: float) -> bool:
        """Return whether the frame at stream time ``pts`` (seconds) opens a new slot."""
        slot = int(pts * self._fps + self._phase)
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

    def reset(self) -> None:
        """Take the next picture as news: it has nothing to do with the last one."""
        self._background = None


class Idleness:
    """Says when key frames are enough: once the motion gate has been closed for ``hold`` seconds of stream time.

    Without ``enabled`` they never are. The wait spares a camera whose scene moves now and then the switching back and
    forth, each of which decodes the group of pictures around it. One thread only.
    """

    def __init__(self, hold: float, *, enabled: bool) -> None:
        self._hold, self._enabled = hold, enabled
        self._closed_at: float | None = None

    def after(self, pts: float, *, open_gate: bool) -> bool:
        """Return whether key frames are enough from now on; ``pts``: stream time of the picture that the gate saw."""
        if open_gate or not self._enabled:
            self._closed_at = None
            return False
        if self._closed_at is None:
            self._closed_at = pts
        return pts - self._closed_at >= self._hold


class SceneClock:
    """Stream time less the stretches in which nothing moved: then nobody gets older. One thread stops and starts it.

    ``at`` is safe from any thread.
    """

    def __init__(self) -> None:
        self._still: tuple[float, float | None] = (0.0, None)  # seconds stood still so far; since when it stands

    def at(self, pts: float) -> float:
        """Return what the clock shows at stream time ``pts`` (seconds)."""
        stood, since = self._still
        return (pts if since is None else min(pts, since)) - stood

    def stop(self, pts: float) -> bool:
        """Stand still from ``pts`` on; return whether it went until now."""
        stood, since = self._still
        if since is None:
            self._still = (stood, pts)
        return since is None

    def start(self, pts: float) -> None:
        """Go on at ``pts``."""
        stood, since = self._still
        if since is not None:
            self._still = (stood + pts - since, None)
