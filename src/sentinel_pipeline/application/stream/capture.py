"""One connection to a camera: a thread that reads, and a watchdog that does not depend on the library read with."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import closing
from threading import Event, Thread

import structlog

from sentinel_pipeline.application.ports import FrameSource
from sentinel_pipeline.domain.errors import SentinelError, StreamError, StreamStalled
from sentinel_pipeline.domain.frame import Frame
from sentinel_pipeline.domain.redact import redact
from sentinel_pipeline.domain.streams import DecodeSpec

log = structlog.get_logger(__name__)


class Capture:
    """Reads one source in a thread of its own until it fails or is interrupted.

    The thread owns the source: it opens and closes it. A library call that outlasts its time-out is given up: the
    thread is left to end on its own, closes the source when the call returns, and its frames go nowhere.

    packet_at: when the source last had a packet, monotonic seconds. Once there has been a frame, packets count as life
    too: where only key frames are decoded, the next frame is a group of pictures away. That what comes makes no picture
    is for the source to notice; the watchdog looks for calls that hang.
    """

    _GRACE = 0.3  # seconds that the source's own time-out has to report first: it knows the better reason
    _JOIN = 1.0

    def __init__(
        self,
        name: str,
        source: FrameSource,
        accept: Callable[[Frame], None],
        spec: DecodeSpec,
        packet_at: Callable[[], float | None] = lambda: None,
    ) -> None:
        self._source, self._accept, self._spec = source, accept, spec
        self._packet_at = packet_at
        self._thread = Thread(target=self._read, name=f"capture:{name}")
        self._wake = Event()
        self._interrupted = False
        self._error: SentinelError | None = None
        self._frame_at: float | None = None
        self._alive: Callable[[], None] = lambda: None

    def run(self, alive: Callable[[], None]) -> None:
        """Read until it fails (raises ``StreamError``) or ``interrupt`` is called (returns).

        ``alive`` is called from the reading thread at every frame, before the frame is handed on.
        """
        self._alive = alive
        started = time.monotonic()
        self._thread.start()
        try:
            while not self._wake.wait(self._left(started)):
                if self._left(started) <= 0:
                    raise self._stalled()
        finally:
            self._interrupted = True
            self._source.cancel()
            self._thread.join(self._JOIN)
            if self._thread.is_alive():
                log.warning("left a hanging read behind", thread=self._thread.name)
        if self._error is not None:
            raise self._error

    def interrupt(self) -> None:
        """Make ``run`` return soon; safe from any thread, also before ``run``."""
        self._interrupted = True
        self._source.cancel()
        self._wake.set()

    def _left(self, started: float) -> float:
        """Return the seconds until the watchdog barks."""
        alive = started if self._frame_at is None else max(self._frame_at, self._packet_at() or 0.0)
        return alive + self._limit() + self._GRACE - time.monotonic()

    def _limit(self) -> float:
        """Return the seconds that the source itself takes at most before it reports a failure."""
        spec = self._spec
        if self._frame_at is not None:
            return spec.read_timeout
        # To open, and then for the first key frame: a camera answers at once, and that one takes as long as a GOP.
        return spec.open_timeout + max(spec.open_timeout, spec.read_timeout)

    def _stalled(self) -> StreamError:
        return StreamStalled(
            f"no frame for {self._limit():g} s and the read does not return",
            remedy="check the camera and the network; raise decode.read_timeout for a very slow camera",
        )

    def _read(self) -> None:
        try:
            with closing(self._source) as source:
                source.open()
                self._pass_on(source)
        except SentinelError as exc:
            # Without its traceback: that holds the frames of the calls, they hold the source and the error, and so
            # decoder and pictures would stay in memory until the garbage collector looks for cycles.
            self._error = None if self._interrupted else exc.with_traceback(None)
        except Exception as exc:  # outermost loop of a thread: told to the supervisor as a failure
            log.exception("internal error while reading", thread=self._thread.name)
            self._error = StreamError(f"reading failed: {redact(repr(exc))}", remedy="please report it with the log")
        finally:
            self._wake.set()

    def _pass_on(self, source: FrameSource) -> None:
        while not self._interrupted:
            self._hand_on(source.read())  # kept in no variable: it would stay in memory until the next one comes

    def _hand_on(self, frame: Frame) -> None:
        if self._interrupted:
            return
        self._alive()
        self._frame_at = time.monotonic()
        self._accept(frame)
