"""``RTSPDecoder``: the decoder of the infrastructure document, on top of the sources."""

from __future__ import annotations

import threading
from itertools import islice
from types import TracebackType
from typing import Literal

import structlog

from sentinel_pipeline.application.pipeline.mailbox import Mailbox
from sentinel_pipeline.application.ports import FrameSource
from sentinel_pipeline.domain.backoff import backoff
from sentinel_pipeline.domain.errors import StreamEnded, StreamError, StreamStalled
from sentinel_pipeline.domain.frame import Frame, Pixels
from sentinel_pipeline.domain.redact import redact
from sentinel_pipeline.domain.streams import DecodeSpec
from sentinel_pipeline.domain.timeline import Timeline
from sentinel_pipeline.infrastructure.video.sources import open_source

log = structlog.get_logger(__name__)


class RTSPDecoder:
    """Reads a camera as BGR arrays: ``connect``, ``read_frame`` until it says False, ``reconnect``, ``release``.

    ``buffer_size``: frames kept for a slow reader; older ones are dropped and counted, so latency stays bounded
    whatever the network stack buffers. ``read_frame`` starts the thread that drains the camera. After ``release`` only
    ``connect`` starts again. ``connect``, ``read_frame`` and ``reconnect`` belong to one thread; ``release`` may come
    from any and ends their waits. With ``backend="opencv"`` a call inside OpenCV ends at its time-out, not before.
    """

    def __init__(
        self,
        stream_id: str,
        buffer_size: int = 2,
        connection_timeout_ms: int = 10000,
        read_timeout_ms: int = 5000,
        backend: Literal["pyav", "opencv"] = "opencv",
        transport: Literal["tcp", "udp"] = "tcp",
        hwaccel: str = "none",
    ) -> None:
        self._stream_id = stream_id
        self._spec = DecodeSpec(
            backend=backend,
            transport=transport,
            open_timeout=connection_timeout_ms / 1000,
            read_timeout=read_timeout_ms / 1000,
            buffer_size=buffer_size,
            hwaccel=hwaccel,
        )
        self._rtsp_url = ""
        self._timeline = Timeline()
        self._released = threading.Event()
        self._lock = threading.Lock()  # guards the next two
        self._opening: FrameSource | None = None
        self._connection: _Connection | None = None
        self._frames_read = 0
        self._dropped_before = 0  # by connections that are gone
        self._reconnects = 0
        self._last_error: StreamError | None = None

    def __enter__(self) -> RTSPDecoder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def __repr__(self) -> str:
        state = "connected" if self.is_connected else "not connected"
        return f"<RTSPDecoder {self._stream_id} {self._mask_password(self._rtsp_url)} {state}>"

    @property
    def is_connected(self) -> bool:
        """Whether the camera was connected and has not failed since."""
        connection = self._connection
        return connection is not None and connection.error is None

    @property
    def frames_read(self) -> int:
        """Frames handed out."""
        return self._frames_read

    @property
    def frames_dropped(self) -> int:
        """Frames that came too fast for the reader."""
        connection = self._connection
        return self._dropped_before + (connection.dropped if connection else 0)

    @property
    def reconnects(self) -> int:
        """How often ``reconnect`` brought the camera back."""
        return self._reconnects

    @property
    def last_error(self) -> StreamError | None:
        """Why the last connection could not be made or ended."""
        connection = self._connection
        return (connection.error if connection else None) or self._last_error

    def connect(self, rtsp_url: str) -> bool:
        """Connect, letting go of an earlier connection. Returns True; raises ``StreamError`` within the time-out."""
        self._released.clear()
        self._rtsp_url = rtsp_url
        self._open()
        return True

    def read_frame(self) -> tuple[bool, Pixels | None]:
        """Wait for the next frame: True and a new (H, W, 3) uint8 BGR array, or False and None.

        False comes within the read time-out + 0.5 s, when there is no connection or it failed: see ``last_error``.
        """
        connection = self._connection
        if connection is None:
            return False, None
        was_alive = connection.error is None
        frame = connection.next(self._spec.read_timeout + 0.5)
        if frame is None:
            if was_alive and not self._released.is_set():
                log.warning("camera lost", stream_id=self._stream_id, error=str(connection.error))
            return False, None
        self._frames_read += 1
        return True, frame.bgr()

    def reconnect(self, max_retries: int = 5, base_delay: float = 1.0, max_delay: float = 30.0) -> bool:
        """Try up to ``max_retries`` times to connect to the last URL, waiting 1, 2, 4, … seconds before each try.

        No wait is longer than ``max_delay``; each is shortened at random by up to 20 %, so that many cameras do not
        come back in step. Returns whether it worked; False at once when ``release`` comes in between.
        """
        self._disconnect()
        for attempt, delay in enumerate(islice(backoff(base_delay, max_delay), max_retries), start=1):
            if self._released.wait(delay):
                return False
            try:
                self._open()
            except StreamError as exc:
                log.warning("reconnecting failed", stream_id=self._stream_id, attempt=attempt, error=str(exc))
                continue
            self._reconnects += 1
            return True
        return False

    def release(self) -> None:
        """Hang up and end the draining thread; may be called more than once and from any thread."""
        self._released.set()
        with self._lock:
            if self._opening is not None:
                self._opening.cancel()  # its thread closes it
        self._disconnect()

    def _mask_password(self, url: str) -> str:
        return redact(url)

    def _open(self) -> None:
        self._disconnect()
        source = open_source(self._spec, self._rtsp_url, timeline=self._timeline)
        with self._lock:
            self._opening = source
        try:
            self._open_unless_released(source)
        except StreamError as exc:
            self._last_error = exc
            raise
        finally:
            with self._lock:
                self._opening = None
        log.info("camera connected", stream_id=self._stream_id, url=self._mask_password(self._rtsp_url))

    def _open_unless_released(self, source: FrameSource) -> None:
        if self._released.is_set():
            source.cancel()
        source.open()
        with self._lock:
            if not self._released.is_set():
                self._connection = _Connection(source, self._spec, f"capture-{self._stream_id}")
                return
        source.close()
        raise StreamEnded(f"{self._stream_id} was released while it connected")

    def _disconnect(self) -> None:
        with self._lock:
            connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()
            self._dropped_before += connection.dropped
            self._last_error = connection.error or self._last_error


class _Connection:
    """An open source and, from the first ``next`` on, the thread that drains it at the camera's pace."""

    def __init__(self, source: FrameSource, spec: DecodeSpec, name: str) -> None:
        self._source = source
        self._mailbox: Mailbox[Frame] = Mailbox(spec.buffer_size)
        self._thread = threading.Thread(target=self._drain, name=name)
        self._lock = threading.Lock()  # guards starting against closing
        self._state: Literal["open", "draining", "closed"] = "open"
        # OpenCV may need one time-out for the frame that was under way and one more to notice.
        self._close_deadline = 2 * spec.read_timeout + 1.0
        self.error: StreamError | None = None

    @property
    def dropped(self) -> int:
        return self._mailbox.dropped

    def next(self, timeout: float) -> Frame | None:
        with self._lock:
            if self._state == "open":
                self._state = "draining"
                self._thread.start()
        frame = self._mailbox.get(timeout)
        if frame is None and self.error is None:
            self.error = StreamStalled(f"no picture within {timeout:g} s, and the backend did not notice")
        return frame

    def close(self) -> None:
        with self._lock:
            was, self._state = self._state, "closed"
        self._source.cancel()
        self._mailbox.close()
        if was == "open":
            self._source.close()
        elif self._thread is not threading.current_thread():
            self._thread.join(self._close_deadline)
            if self._thread.is_alive():
                log.error("the backend does not return from a read; its thread ends when it does")

    def _drain(self) -> None:
        try:
            while True:
                self._mailbox.put(self._source.read())
        except StreamError as exc:
            self.error = exc
        finally:
            self._source.close()  # by the thread that reads: closing under a reader crashes OpenCV
            self._mailbox.close()
