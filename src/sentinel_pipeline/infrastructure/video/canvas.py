"""The picture that is drawn on and encoded: never the decoder's own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import av
import cv2
import numpy as np

from sentinel_pipeline.domain.frame import Image, Pixels
from sentinel_pipeline.domain.geometry import Fit

BLACK_Y, NEUTRAL_UV = 16, 128  # black in limited range (ITU-R BT.601)
_BLACK = (BLACK_Y, NEUTRAL_UV, NEUTRAL_UV)


@dataclass(frozen=True, slots=True)
class Planes:
    """Writable views of a 4:2:0 picture: y (H, W), u and v (H/2, W/2), uint8, H and W even."""

    y: Pixels
    u: Pixels
    v: Pixels

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels."""
        return (self.y.shape[1], self.y.shape[0])


class Canvas:
    """A reused picture of a fixed size into which camera pictures of any size are copied. One thread only.

    width, height: odd sizes are rounded down, 4:2:0 has one colour sample for two by two pixels.
    """

    def __init__(self, width: int, height: int) -> None:
        self._size = even_size(width, height)
        self._frame = av.VideoFrame(*self._size, "yuv420p")
        self.fit = Fit(self._size, self._size, self._size, (0, 0))  # where the picture lies; of the last ``take``

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels."""
        return self._size

    @property
    def frame(self) -> av.VideoFrame:
        """The picture as it is now."""
        return self._frame

    def take(self, image: Image) -> tuple[av.VideoFrame, Planes]:
        """Copy ``image`` in, scaled and letterboxed when it has another size; valid until the next call.

        The decoder's planes are its reference pictures: what is drawn there would smear into every later picture.
        """
        # An encoder that looks ahead may hold the last picture: then this gives us another buffer.
        self._frame.make_writable()
        planes = planes_of(self._frame)
        source = image.yuv420p()
        size = (image.width, image.height)
        if self.fit.source != size:
            self.fit = even_fit(size, self._size)
        if even_size(*size) == self._size:
            _crop(source, planes)
        else:
            _letterbox(source, planes, self.fit)
        return self._frame, planes


def even_size(width: int, height: int) -> tuple[int, int]:
    """Return the size rounded down to even sides."""
    return (max(2, width & ~1), max(2, height & ~1))


def even_fit(source: tuple[int, int], target: tuple[int, int]) -> Fit:
    """Return how ``source`` lies in ``target``: aspect ratio kept, centred, on whole colour samples.

    A source that is larger by an odd row or column only is cropped, not scaled.
    """
    if even_size(*source) == target:
        return Fit(source, target, source, (0, 0))
    fit = Fit.letterbox(source, target)
    width, height = even_size(*fit.content)
    return Fit(source, target, (width, height), ((target[0] - width) // 2 & ~1, (target[1] - height) // 2 & ~1))


def planes_of(frame: av.VideoFrame) -> Planes:
    """Return writable views of a yuv420p frame, without the padding at the line ends."""
    return Planes(*(_view(plane) for plane in frame.planes))


def _view(plane: Any) -> Pixels:
    # Any: PyAV's stubs do not say that a plane is a writable buffer.
    return np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)[: plane.height, : plane.width]


def letterbox_bgr(frame: Pixels, size: tuple[int, int]) -> Pixels:
    """Return ``frame`` (H, W, 3) in a new (height, width, 3) array of ``size``, scaled with black bars."""
    fit = even_fit((frame.shape[1], frame.shape[0]), size)
    (left, top), (width, height) = fit.offset, fit.content
    canvas = np.zeros((size[1], size[0], 3), np.uint8)
    if fit.content == fit.source:
        height, width = min(height, size[1]), min(width, size[0])
        canvas[top : top + height, left : left + width] = frame[:height, :width]
    else:
        canvas[top : top + height, left : left + width] = cv2.resize(frame, (width, height), interpolation=_how(fit))
    return canvas


def _crop(source: tuple[Pixels, Pixels, Pixels], target: Planes) -> None:
    for plane, into in zip(source, (target.y, target.u, target.v), strict=True):
        np.copyto(into, plane[: into.shape[0], : into.shape[1]])


def _letterbox(source: tuple[Pixels, Pixels, Pixels], target: Planes, fit: Fit) -> None:
    (left, top), (width, height) = fit.offset, fit.content
    for plane, into, black, half in zip(source, (target.y, target.u, target.v), _BLACK, (1, 2, 2), strict=True):
        x1, y1, x2, y2 = left // half, top // half, (left + width) // half, (top + height) // half
        # The bars anew each time: labels may have been drawn on them.
        into[:y1], into[y2:], into[y1:y2, :x1], into[y1:y2, x2:] = black, black, black, black
        into[y1:y2, x1:x2] = cv2.resize(plane, (x2 - x1, y2 - y1), interpolation=_how(fit))


def _how(fit: Fit) -> Any:
    return cv2.INTER_AREA if fit.content[0] < fit.source[0] else cv2.INTER_LINEAR
