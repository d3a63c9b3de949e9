"""Pictures as the two decoders deliver them, behind ``domain.frame.Image``."""

from __future__ import annotations

import threading

import av
import cv2
import numpy as np
from av.video.reformatter import ColorRange, Interpolation, VideoReformatter
from cv2.typing import MatLike

from sentinel_pipeline.domain.frame import Pixels
from sentinel_pipeline.infrastructure.video.luma import shrink

Planes = tuple[Pixels, Pixels, Pixels]

# For the whole process: the streams are what runs side by side here. OpenCV would spread each picture over a pool of
# threads that have to be woken for half a millisecond of work.
cv2.setNumThreads(1)

# A reformatter holds a swscale context, which is not thread-safe; changing its sizes from call to call costs nothing
# measurable, so one for each thread is enough.
_local = threading.local()


def _reformatter() -> VideoReformatter:
    if not hasattr(_local, "reformatter"):
        _local.reformatter = VideoReformatter()
    reformatter: VideoReformatter = _local.reformatter
    return reformatter


class AvImage:
    """A frame of PyAV in the pixel format, range and colour space that the decoder chose. Safe from any thread.

    Matrix and range come from the stream; where it names none, swscale's default applies: BT.601, limited range.
    """

    def __init__(self, frame: av.VideoFrame) -> None:
        self._frame = frame
        self._planar: av.VideoFrame | None = None
        # PyAV writes to the source frame's colour tags during a conversion and restores them after it.
        self._converting = threading.Lock()

    @property
    def width(self) -> int:
        """Pixels."""
        return self._frame.width

    @property
    def height(self) -> int:
        """Pixels."""
        return self._frame.height

    def yuv420p(self) -> Planes:
        """Return read-only views of the Y (H, W), U and V (ceil(H/2), ceil(W/2)) planes, limited range.

        They are the decoder's own buffers when it decodes to that format, else a conversion made once.
        """
        with self._converting:
            if self._planar is None:
                self._planar = self._limited_yuv420p()
            frame = self._planar
        chroma = (-(-frame.width // 2), -(-frame.height // 2))
        y, u, v = frame.planes
        return (_view(y, (frame.width, frame.height)), _view(u, chroma), _view(v, chroma))

    def luma(self, width: int) -> Pixels:
        """Return a new, small Y plane of about ``width`` columns, limited range, averaged over whole blocks."""
        return shrink(self.yuv420p()[0], width)

    def bgr(self) -> Pixels:
        """Return a new (H, W, 3) BGR array, contiguous."""
        return self._packed("bgr24", self.width, self.height)

    def rgb(self, width: int, height: int) -> Pixels:
        """Return a new (height, width, 3) RGB array, contiguous; averages areas when it shrinks."""
        return self._packed("rgb24", width, height)

    def _limited_yuv420p(self) -> av.VideoFrame:
        frame = self._frame
        if frame.format.name == "yuv420p" and frame.color_range != ColorRange.JPEG:
            return frame
        source_range = ColorRange.JPEG if frame.format.name.startswith("yuvj") else None
        return _reformatter().reformat(
            frame,
            format="yuv420p",
            src_color_range=source_range,
            dst_color_range=ColorRange.MPEG,
            interpolation=Interpolation.BILINEAR,
            threads=1,  # PyAV's default starts a pool of threads for each context
        )

    def _packed(self, pixel_format: str, width: int, height: int) -> Pixels:
        same_size = (width, height) == (self.width, self.height)
        with self._converting:
            frame = _reformatter().reformat(
                self._frame,
                width,
                height,
                pixel_format,
                interpolation=Interpolation.BILINEAR if same_size else Interpolation.AREA,
                threads=1,
            )
        plane = frame.planes[0]
        rows: Pixels = np.frombuffer(memoryview(plane), np.uint8).reshape(-1, plane.line_size)[:height, : width * 3]
        if frame is self._frame:  # the source already has this format: never hand out its buffer
            rows = rows.copy()
        return np.ascontiguousarray(rows).reshape(height, width, 3)


def _view(plane: av.video.plane.VideoPlane, size: tuple[int, int]) -> Pixels:
    width, height = size
    view: Pixels = np.frombuffer(memoryview(plane), np.uint8).reshape(-1, plane.line_size)[:height, :width]
    view.flags.writeable = False
    return view


class BgrImage:
    """A BGR array of OpenCV, (H, W, 3) uint8. Safe from any thread; the array must not change any more."""

    def __init__(self, pixels: Pixels) -> None:
        if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.dtype != np.uint8:
            raise ValueError(f"expected (H, W, 3) uint8, got {pixels.shape} {pixels.dtype}")
        self._pixels = pixels
        self._planar: Planes | None = None

    @property
    def width(self) -> int:
        """Pixels."""
        return int(self._pixels.shape[1])

    @property
    def height(self) -> int:
        """Pixels."""
        return int(self._pixels.shape[0])

    def yuv420p(self) -> Planes:
        """Return read-only Y (H, W), U and V (ceil(H/2), ceil(W/2)) planes, BT.601, limited range; converted once."""
        if self._planar is None:
            self._planar = self._converted()
        return self._planar

    def luma(self, width: int) -> Pixels:
        """Return a new, small Y plane of about ``width`` columns, limited range, averaged over whole blocks."""
        return shrink(self.yuv420p()[0], width)

    def bgr(self) -> Pixels:
        """Return a new (H, W, 3) BGR array."""
        return self._pixels.copy()

    def rgb(self, width: int, height: int) -> Pixels:
        """Return a new (height, width, 3) RGB array; averages areas when it shrinks."""
        scaled: MatLike = self._pixels
        if (width, height) != (self.width, self.height):
            shrinks = width < self.width and height < self.height
            scaled = cv2.resize(scaled, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
        return _as_pixels(cv2.cvtColor(scaled, cv2.COLOR_BGR2RGB))

    def _converted(self) -> Planes:
        height, width = self._pixels.shape[:2]
        rows, columns = height + height % 2, width + width % 2
        even: MatLike = self._pixels
        if (rows, columns) != (height, width):  # cvtColor takes even sizes only
            even = cv2.copyMakeBorder(even, 0, rows - height, 0, columns - width, cv2.BORDER_REPLICATE)
        packed = _as_pixels(cv2.cvtColor(even, cv2.COLOR_BGR2YUV_I420)).reshape(-1)
        luma, chroma = rows * columns, rows * columns // 4
        planes = (
            packed[:luma].reshape(rows, columns)[:height, :width],
            packed[luma : luma + chroma].reshape(rows // 2, columns // 2),
            packed[luma + chroma :].reshape(rows // 2, columns // 2),
        )
        for plane in planes:
            plane.flags.writeable = False
        return planes


def _as_pixels(array: MatLike) -> Pixels:
    return np.asarray(array, np.uint8)
