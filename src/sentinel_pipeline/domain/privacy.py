"""What has to be made unrecognisable in a picture, from where it was seen before and after it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from sentinel_pipeline.domain.tracking import Xyxy

MARGIN = 0.25  # of a box's width and height, added on each side: hair, chins, and how far a head turns meanwhile


@dataclass(frozen=True, slots=True)
class _Look:
    pts: float
    size: tuple[int, int]
    boxes: Mapping[int, Xyxy]


class Looks:
    """What the model saw, for a while back. One thread adds; ``regions`` is safe from any thread.

    longest: seconds between two looks within which nobody can have come and gone; more is as if nobody had looked.
    kept: seconds of stream time for which a look is remembered.
    """

    def __init__(self, longest: float, kept: float) -> None:
        self._longest, self._kept = longest, kept
        self._looks: tuple[_Look, ...] = ()  # by time; replaced as a whole

    def add(self, pts: float, size: tuple[int, int], boxes: Mapping[int, Xyxy]) -> None:
        """Remember where each object was at stream time ``pts``, in pixels of a picture of ``size``."""
        recent = [look for look in self._looks if pts - self._kept <= look.pts < pts]
        self._looks = (*recent, _Look(pts, size, dict(boxes)))

    def regions(self, pts: float, size: tuple[int, int]) -> tuple[Xyxy, ...] | None:
        """Return the boxes to hide in the picture of stream time ``pts``; None when that is not known.

        It is known between two looks: what was seen in either is hidden, and the way from one to the other.
        """
        looks = self._looks
        before = next((look for look in reversed(looks) if look.pts <= pts), None)
        after = next((look for look in looks if look.pts >= pts), None)
        if before is None or after is None or after.pts - before.pts > self._longest:
            return None
        if before.size != size or after.size != size:
            return None
        ids = {*before.boxes, *after.boxes}
        return tuple(_widened(*(look.boxes[i] for look in (before, after) if i in look.boxes)) for i in sorted(ids))


def _widened(*boxes: Xyxy) -> Xyxy:
    """Return the box around all of ``boxes``, each with its margin."""
    wide = [_with_margin(box) for box in boxes]
    return (min(b[0] for b in wide), min(b[1] for b in wide), max(b[2] for b in wide), max(b[3] for b in wide))


def _with_margin(box: Xyxy) -> Xyxy:
    x1, y1, x2, y2 = box
    x, y = MARGIN * (x2 - x1), MARGIN * (y2 - y1)
    return (x1 - x, y1 - y, x2 + x, y2 + y)
