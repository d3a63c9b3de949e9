"""What has to be made unrecognisable in a picture, from where it was seen before and after it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from sentinel_pipeline.domain.tracking import Xyxy

MARGIN = 0.25  # of a box's width and height, added on each side: hair, chins, and how far a head turns meanwhile
REACH = 20.0  # shorter sides of a box that somebody gets on in a second: of a face 0.16 m wide 3.2 m, a running person


@dataclass(frozen=True, slots=True)
class _Look:
    pts: float
    size: tuple[int, int]
    boxes: Mapping[int, Xyxy]


class Looks:
    """What the model saw, for a while back. One thread adds; ``regions`` is safe from any thread.

    longest: seconds between two looks that count as neighbours; what lies between others is not known.
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

        It is known between two looks. Who was seen in both is hidden on the way from one to the other; who was seen in
        one of them only, or could not be told to be the same, is hidden as far as anybody gets from there.
        """
        looks = self._looks
        before = next((look for look in reversed(looks) if look.pts <= pts), None)
        after = next((look for look in looks if look.pts >= pts), None)
        if before is None or after is None or after.pts - before.pts > self._longest:
            return None
        if before.size != size or after.size != size:
            return None
        both = before.boxes.keys() & after.boxes.keys()
        ways = [around(_wider(before.boxes[i]), _wider(after.boxes[i])) for i in sorted(both)]
        lone = [
            _wider(box, REACH * abs(pts - look.pts))
            for look in (before, after)
            for i, box in look.boxes.items()
            if i not in both
        ]
        return (*ways, *lone)


def around(*boxes: Xyxy) -> Xyxy:
    """Return the smallest box around all of ``boxes``."""
    x1, y1, x2, y2 = zip(*boxes, strict=True)
    return (min(x1), min(y1), max(x2), max(y2))


def _wider(box: Xyxy, reach: float = 0.0) -> Xyxy:
    """Return ``box`` with its margin, and ``reach`` shorter sides more on each side."""
    x1, y1, x2, y2 = box
    width, height = x2 - x1, y2 - y1
    x, y = (MARGIN * side + reach * min(width, height) for side in (width, height))
    return (x1 - x, y1 - y, x2 + x, y2 + y)
