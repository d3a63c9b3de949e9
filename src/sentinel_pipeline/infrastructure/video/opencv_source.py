"""The document's way to read a camera: OpenCV's ``VideoCapture`` on FFmpeg."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import cv2
import numpy as np

from sentinel_pipeline.domain.credentials import normalise_url
from sentinel_pipeline.domain.errors import StreamEnded, StreamError, StreamStalled
from sentinel_pipeline.domain.frame import Frame
from sentinel_pipeline.domain.redact import redact
from sentinel_pipeline.domain.timeline import Timeline
from sentinel_pipeline.infrastructure.video.images import BgrImage

_OPTIONS = "OPENCV_FFMPEG_CAPTURE_OPTIONS"


class _CaptureOptions:
    """FFmpeg options for OpenCV, which takes them from the process environment at each open.

    Opens with the same options go on side by side; one with others waits until those are through. The variable is put
    back as it was.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._users = 0
        self._value: str | None = None
        self._saved: str | None = None

    @contextmanager
    def applied(self, value: str | None, timeout: float) -> Iterator[bool]:
        """Yield whether ``value`` is in force; False when other opens did not finish within ``timeout`` seconds."""
        with self._changed:
            granted = self._changed.wait_for(lambda: self._users == 0 or self._value == value, timeout)
            if granted:
                self._users += 1
                if self._users == 1:
                    self._value, self._saved = value, os.environ.get(_OPTIONS)
                    _put_environment(value)
        try:
            yield granted
        finally:
            with self._changed:
                if granted:
                    self._users -= 1
                    if self._users == 0:
                        _put_environment(self._saved)
                        self._changed.notify_all()


def _put_environment(value: str | None) -> None:
    if value is None:
        os.environ.pop(_OPTIONS, None)
    else:
        os.environ[_OPTIONS] = value


_capture_options = _CaptureOptions()


class OpenCVSource:
    """One connection to one source through ``cv2.VideoCapture``, behind ``ports.FrameSource``.

    What OpenCV cannot do: a call inside it cannot be cancelled, it ends at its time-out (``cancel`` takes effect when
    it returns); it does not say why an open failed, so that a refused login is tried again like any other failure; a
    size that changes in mid-stream is scaled to the first; there is no capture time from the camera. ``isOpened`` stays
    True after a failure, so only ``read`` is believed. Files are read as fast as they can be, not at their pace.
    """

    def __init__(
        self,
        url: str,
        *,
        transport: str = "tcp",
        open_timeout: float = 10.0,
        read_timeout: float = 5.0,
        timeline: Timeline | None = None,
    ) -> None:
        self._url, self._name = normalise_url(url), redact(url) or "a source without a URL"
        self._transport = transport
        self._open_timeout, self._read_timeout = open_timeout, read_timeout
        self._timeline = timeline or Timeline()
        self._cancelled = threading.Event()
        self._capture: cv2.VideoCapture | None = None
        self._sequence = 0

    def __repr__(self) -> str:
        state = "cancelled" if self._cancelled.is_set() else "open" if self._capture is not None else "closed"
        return f"<OpenCVSource {self._name} {state}, {self._sequence} frames>"

    @property
    def decode_errors(self) -> int:
        """Always 0: OpenCV does not tell."""
        return 0

    def open(self) -> None:
        """Connect. Raises ``StreamError`` (``StreamStalled`` when time is up), within the open time-out."""
        if self._capture is not None:
            raise RuntimeError("this source is open already")
        self._raise_if_cancelled()
        # Both are read by OpenCV when FFmpeg is first used. Without the first, one lock serialises all opens of the
        # process; the second keeps FFmpeg's messages, which may hold URLs, off stderr.
        os.environ.setdefault("OPENCV_FFMPEG_IS_THREAD_SAFE", "1")
        os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
        started = time.monotonic()
        with _capture_options.applied(self._ffmpeg_options(), self._open_timeout) as granted:
            if not granted:
                raise StreamStalled(f"{self._name} waited {self._open_timeout:g} s for other cameras to open")
            capture = cv2.VideoCapture(self._url, cv2.CAP_FFMPEG, self._parameters())
        if not capture.isOpened():
            capture.release()
            raise self._not_opened(time.monotonic() - started)
        self._capture = capture
        self._timeline.restart()
        if self._cancelled.is_set():
            self.close()
            self._raise_if_cancelled()

    def read(self) -> Frame:
        """Return the next frame. Raises ``StreamStalled`` after the read time-out, else ``StreamEnded``."""
        if self._capture is None:
            raise StreamError(f"{self._name} is not open")
        self._raise_if_cancelled()
        started, cpu = time.monotonic(), time.thread_time()
        found, pixels = self._capture.read()
        received_at, received_wall = time.monotonic(), time.time()
        decode_ms = (time.thread_time() - cpu) * 1e3
        self._raise_if_cancelled()
        # A stalled read first hands over the frame that was still in the decoder, one time-out later, and only fails
        # after another: so a frame that took the whole time-out counts as the stall that it is.
        if received_at - started >= self._read_timeout * 0.95:
            raise StreamStalled(f"{self._name} sent no picture for {self._read_timeout:g} s")
        if not found:
            raise StreamEnded(f"{self._name} ended, or what it sends cannot be decoded")
        frame = Frame(
            image=BgrImage(np.asarray(pixels, np.uint8)),
            sequence=self._sequence,
            pts=self._timeline.stamp(float(self._capture.get(cv2.CAP_PROP_POS_MSEC)) / 1e3, received_at),
            captured_at=received_wall,
            received_at=received_at,
            decode_ms=decode_ms,
        )
        self._sequence += 1
        return frame

    def cancel(self) -> None:
        """Make ``open`` and ``read`` raise ``StreamError`` as soon as OpenCV returns. Safe from any thread."""
        self._cancelled.set()

    def close(self) -> None:
        """Let go of the capture; may be called more than once, by the thread that reads."""
        capture, self._capture = self._capture, None
        if capture is not None:
            capture.release()

    def _parameters(self) -> list[int]:
        """Return open parameters: set later they do nothing, and an unknown one makes the open fail."""
        return [
            cv2.CAP_PROP_OPEN_TIMEOUT_MSEC,
            max(1, round(self._open_timeout * 1000)),
            cv2.CAP_PROP_READ_TIMEOUT_MSEC,
            max(1, round(self._read_timeout * 1000)),
            cv2.CAP_PROP_N_THREADS,
            1,  # each further thread delays the picture by one frame
        ]

    def _ffmpeg_options(self) -> str | None:
        if not self._url.startswith(("rtsp://", "rtsps://")):
            return None
        # OpenCV needs the picture's size when it opens, so it must be allowed to probe a little.
        return f"rtsp_transport;{self._transport}|probesize;500000|analyzeduration;500000"

    def _not_opened(self, took: float) -> StreamError:
        if took >= self._open_timeout * 0.95:
            return StreamStalled(f"{self._name} did not answer with video within {self._open_timeout:g} s")
        return StreamError(
            f"OpenCV cannot open {self._name}; it does not say why",
            remedy="use decode.backend: pyav, which names the reason",
        )

    def _raise_if_cancelled(self) -> None:
        if self._cancelled.is_set():
            raise StreamEnded(f"reading {self._name} was cancelled")
