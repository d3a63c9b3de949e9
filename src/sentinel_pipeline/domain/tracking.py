"""Which boxes of successive pictures are the same object.

Greedy IoU association with constant-velocity prediction in two rounds, confident boxes first, the doubtful ones second
(the idea of ByteTrack, Zhang et al., ECCV 2022, arXiv:2110.06864, with greedy matching instead of the Hungarian one).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sentinel_pipeline.domain.detections import Detections
from sentinel_pipeline.domain.geometry import Floats, iou_matrix
from sentinel_pipeline.domain.streams import TrackSpec

Xyxy = tuple[float, float, float, float]


@dataclass(frozen=True, slots=True)
class Track:
    """One object in one picture.

    track_id: counts up from 1 per stream; None when tracking is off.
    xyxy: source pixels.
    seen: stream time of this picture in seconds.
    velocity: of the four edges, in pixels per second.
    """

    track_id: int | None
    label: str
    confidence: float
    xyxy: Xyxy
    seen: float
    velocity: Xyxy = (0.0, 0.0, 0.0, 0.0)

    def at(self, now: float) -> Xyxy:
        """Return where the box is expected at stream time ``now``, so that it does not trail behind a walker."""
        # Half a second at most: a straight line says nothing about where a walker is after that.
        elapsed = min(max(now - self.seen, 0.0), 0.5)
        x1, y1, x2, y2 = (edge + v * elapsed for edge, v in zip(self.xyxy, self.velocity, strict=True))
        return (x1, y1, x2, y2)


class _Followed:
    """What the tracker remembers of an object."""

    __slots__ = ("box", "confidence", "hits", "label", "seen", "track_id", "velocity")

    def __init__(self, track_id: int, label: str, box: Floats, confidence: float, seen: float) -> None:
        self.track_id, self.label, self.box = track_id, label, box
        self.confidence, self.seen, self.hits = confidence, seen, 1
        self.velocity = np.zeros(4, np.float32)  # pixels per second

    def track(self) -> Track:
        return Track(self.track_id, self.label, self.confidence, _floats(self.box), self.seen, _floats(self.velocity))

    def update(self, box: Floats, confidence: float, now: float) -> None:
        elapsed = max(now - self.seen, 1e-3)
        measured = (box - self.box) / elapsed
        self.velocity = (measured if self.hits == 1 else 0.6 * self.velocity + 0.4 * measured).astype(np.float32)
        self.box, self.confidence, self.seen = box, confidence, now
        self.hits += 1


class Tracker:
    """Gives objects their ids. One thread only.

    An object that is not seen for ``lost_after`` seconds of stream time ends; its id is never used again.
    """

    _SURE = 0.5  # boxes above this confidence are matched first
    _MATCH_IOU = 0.2

    def __init__(self, spec: TrackSpec) -> None:
        self._spec = spec
        self._followed: list[_Followed] = []
        self._untracked: tuple[Track, ...] = ()
        self._next_id = 1
        self._now = 0.0

    def update(self, found: Detections, labels: Sequence[str], now: float) -> tuple[Track, ...]:
        """Return the objects of this picture, in the order of ``found``. ``now``: stream time in seconds."""
        names = [labels[int(c)] for c in found.class_id]
        self._now = now
        if not self._spec.enabled:
            tracks = [
                Track(None, name, float(found.score[i]), _floats(found.xyxy[i]), now) for i, name in enumerate(names)
            ]
            self._untracked = tuple(tracks) or self._untracked
            return tuple(tracks)
        self._followed = [f for f in self._followed if now - f.seen <= self._spec.lost_after]
        owner: dict[int, _Followed] = {}
        free = list(self._followed)
        for group in (found.score >= self._SURE, found.score < self._SURE):
            free = self._match(found, names, np.flatnonzero(group), free, owner, now)
        tracks = []
        for i, name in enumerate(names):
            if i not in owner:
                owner[i] = self._begin(found, i, name, now)
            tracks.append(owner[i].track())
        return tuple(tracks)

    def present(self, within: float) -> tuple[Track, ...]:
        """Return the objects of the last picture, and those last seen at most ``within`` seconds before it."""
        known = [f.track() for f in self._followed] if self._spec.enabled else self._untracked
        return tuple(track for track in known if self._now - track.seen <= within)

    def forget(self) -> None:
        """Let go of all objects: their boxes mean nothing any more. Whoever is found next gets a new id."""
        self._followed, self._untracked = [], ()

    def _match(
        self,
        found: Detections,
        names: list[str],
        rows: np.ndarray,
        free: list[_Followed],
        owner: dict[int, _Followed],
        now: float,
    ) -> list[_Followed]:
        """Give each box of ``rows`` its best free object of the same label; return the objects still free."""
        if not len(rows) or not free:
            return free
        overlap = iou_matrix(found.xyxy[rows], np.array([f.track().at(now) for f in free], np.float32))
        same = np.array([[names[r] == f.label for f in free] for r in rows])
        overlap = np.where(same, overlap, 0)
        taken: set[int] = set()
        for flat in np.argsort(overlap, axis=None)[::-1]:
            row, column = divmod(int(flat), len(free))
            if overlap[row, column] < self._MATCH_IOU:
                break
            box = int(rows[row])
            if box not in owner and column not in taken:
                free[column].update(found.xyxy[box], float(found.score[box]), now)
                owner[box] = free[column]
                taken.add(column)
        return [f for column, f in enumerate(free) if column not in taken]

    def _begin(self, found: Detections, i: int, name: str, now: float) -> _Followed:
        followed = _Followed(self._next_id, name, found.xyxy[i], float(found.score[i]), now)
        self._next_id += 1
        self._followed.append(followed)
        return followed


def _floats(box: Floats) -> Xyxy:
    x1, y1, x2, y2 = (float(v) for v in box)
    return (x1, y1, x2, y2)
