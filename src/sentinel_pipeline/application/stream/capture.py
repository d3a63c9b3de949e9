"""One connection to a camera: a thread that reads, and a watchdog that does not depend on the library read with."""

from __future__ import annotations

import time
from collections.abc import Callable
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
    """

    _GRACE = 0.3  # seconds that the source's own time-out has to report first: it knows the better reason
    _JOIN = 1.0

    def __init__(self, name: str, source: FrameSource, accept: Callable[[Frame], None], spec: DecodeSpec) -> None:
        self._source, self._accept, self._spec = source, accept, spec
        self._thread = Thread(target=self._read, name=f"capture:{name}")
        self._wake = Event()
        self._interrupted = False
        self._error: SentinelError | None = None
        self._frame_at: float | None = None
        self._healthy: Callable[[], None] = lambda: None

    def run(self, healthy: Callable[[], None]) -> None:
        """Read until it fails (raises ``StreamError``) or ``interrupt`` is called (returns).

        ``healthy`` is called from the reading thread at the first frame.
        """
        self._healthy = healthy
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
        limit = self._spec.open_timeout if self._frame_at is None else self._spec.read_timeout
        # Opening and the wait for the first frame have a limit each: a camera answers at once, and its next
        # keyframe takes as long as a GOP.
        extra = self._spec.read_timeout if self._frame_at is None else 0.0
        return (self._frame_at or started) + limit + extra + self._GRACE - time.monotonic()

    def _stalled(self) -> StreamError:
        waited = self._spec.read_timeout if self._frame_at else self._spec.open_timeout
        return StreamStalled(
            f"no frame for {waited:g} s and the read does not return",
            remedy="check the camera and the network; raise decode.read_timeout for a very slow camera",
        )

    def _read(self) -> None:
        try:
            self._source.open()
            while not self._interrupted:
                frame = self._source.read()
                if self._interrupted:
                    break
                if self._frame_at is None:
                    self._healthy()
                self._frame_at = time.monotonic()
                self._accept(frame)
        except SentinelError as exc:
            self._error = None if self._interrupted else exc
        except Exception as exc:  # outermost loop of a thread: told to the supervisor as a failure
            log.exception("internal error while reading", thread=self._thread.name)
            self._error = StreamError(f"reading failed: {redact(repr(exc))}", remedy="please report it with the log")
        finally:
            self._source.close()
            self._wake.set()
