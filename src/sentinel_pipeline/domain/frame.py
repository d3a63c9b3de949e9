"""One picture of a camera, in the decoder's own pixel format, converted only when somebody asks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from sentinel_pipeline.domain.geometry import Fit

Pixels = NDArray[np.uint8]
LETTERBOX_GREY = 114


class Image(Protocol):
    """A picture that converts lazily. Implementations are safe to read from several threads at once."""

    @property
    def width(self) -> int: ...
    @property
    def height(self) -> int: ...

    def yuv420p(self) -> tuple[Pixels, Pixels, Pixels]:
        """Return the Y (H, W), U and V (ceil(H/2), ceil(W/2)) planes, limited range.

        They may be the decoder's own reference buffers: read them, never write to them.
        """
        ...

    def luma(self, width: int) -> Pixels:
        """Return a new, small Y plane of about ``width`` columns, limited range, averaged over whole blocks."""
        ...

    def bgr(self) -> Pixels:
        """Return a new (H, W, 3) BGR array."""
        ...

    def rgb(self, width: int, height: int) -> Pixels:
        """Return a new (height, width, 3) RGB array, scaled in one pass; the aspect ratio is not kept."""
        ...


@dataclass(frozen=True, slots=True)
class Frame:
    """One decoded picture.

    sequence: counts up from 0 within one connection.
    pts: stream time in seconds, never decreasing, also across reconnects.
    captured_at: when the camera took it, Unix seconds UTC (RTCP sender report where there is one, else receive time).
    received_at: monotonic seconds when its last packet was read.
    decode_ms: CPU-side time that decoding took.
    """

    image: Image
    sequence: int
    pts: float
    captured_at: float
    received_at: float
    decode_ms: float = 0.0

    @property
    def width(self) -> int:
        return self.image.width

    @property
    def height(self) -> int:
        return self.image.height

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels."""
        return (self.image.width, self.image.height)

    def bgr(self) -> Pixels:
        """Return a new (H, W, 3) uint8 BGR array."""
        return self.image.bgr()

    def rgb_at(self, width: int, height: int, letterbox: bool = True) -> Pixels:
        """Return a new (height, width, 3) uint8 RGB array in one scaling pass, padded with grey when letterboxed."""
        fit = Fit.letterbox(self.size, (width, height)) if letterbox else Fit.stretch(self.size, (width, height))
        if fit.content == (width, height):
            return self.image.rgb(width, height)
        canvas = np.full((height, width, 3), LETTERBOX_GREY, np.uint8)
        (left, top), (w, h) = fit.offset, fit.content
        canvas[top : top + h, left : left + w] = self.image.rgb(w, h)
        return canvas
