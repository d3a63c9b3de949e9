"""Publishes raw pictures through a child ffmpeg that encodes them: the surface of the user's document.

The pipeline itself encodes in process (``encoded_sink``); this remains for encoders that only the ffmpeg binary has
(NVENC, VAAPI, QSV), and for programs that have BGR arrays and want a stream.
"""

from __future__ import annotations

import shutil
import threading
import time
from contextlib import suppress
from dataclasses import replace
from functools import partial

import cv2
import numpy as np
import structlog

from sentinel_pipeline.application.pipeline.mailbox import Mailbox
from sentinel_pipeline.application.ports import SinkReport
from sentinel_pipeline.domain.backoff import Retry
from sentinel_pipeline.domain.errors import PublishError
from sentinel_pipeline.domain.frame import Pixels
from sentinel_pipeline.domain.pacing import Pacer
from sentinel_pipeline.infrastructure.video.canvas import even_size, letterbox_bgr
from sentinel_pipeline.infrastructure.video.ffmpeg_binary import find_ffmpeg
from sentinel_pipeline.infrastructure.video.ffmpeg_child import FFmpegChild
from sentinel_pipeline.infrastructure.video.ffmpeg_command import is_file, raw_command
from sentinel_pipeline.infrastructure.video.output_loop import STARTING, STOPPED, OutputLoop
from sentinel_pipeline.infrastructure.video.recording import next_target

log = structlog.get_logger(__name__)
_POLL = 0.5  # seconds without pictures between two looks at the child


class FFmpegPublisher:
    """Publishes BGR pictures at a constant rate; a failed or stuck ffmpeg is replaced, with back-off.

    output_url: of a file, each ffmpeg takes the next free name (``recording.next_target``).
    width, height: of the output, rounded down to even; pictures of other sizes are letterboxed.
    fps: pictures per second of the output; faster ones are dropped, missing ones are the last one again.
    bitrate: as ``2M`` or ``800k``. codec, preset, pix_fmt: as FFmpeg names them.
    log_stderr: log what ffmpeg says (cleaned of credentials), and know why it ended; else it goes to /dev/null.
    binary: the ffmpeg to use instead of the first one found.
    write_timeout: seconds that ffmpeg may take no input before it is replaced.
    buffer_size: pictures kept while ffmpeg is slow; the oldest is dropped.

    Safe from any thread. Raises ``ConfigError`` for a URL that cannot be published to.
    Source: FFmpegPublisher in the infrastructure document.
    """

    def __init__(
        self,
        stream_id: str,
        output_url: str,
        width: int,
        height: int,
        fps: float = 25,
        codec: str = "libx264",
        preset: str = "ultrafast",
        bitrate: str | int = "2M",
        pix_fmt: str = "yuv420p",
        log_stderr: bool = False,
        *,
        binary: str | None = None,
        write_timeout: float = 5.0,
        buffer_size: int = 2,
    ) -> None:
        self._stream_id = stream_id
        self._output_url = output_url
        self._width, self._height = even_size(width, height)
        self._fps = fps
        self._codec, self._preset, self._bitrate, self._pix_fmt = codec, preset, bitrate, pix_fmt
        self._log_stderr = log_stderr
        self._binary = binary
        self._write_timeout = write_timeout
        self._buffer_size = buffer_size
        self._lifecycle = threading.Lock()  # one ``start`` or ``stop`` at a time
        self._lock = threading.Lock()  # of the fields below, never held while waiting
        self._child: FFmpegChild | None = None  # started, not yet taken over by the loop
        self._feeder: _RawFeeder | None = None
        self._loop: OutputLoop | None = None
        self._last_report = SinkReport(STOPPED)
        self._refused = 0
        self._build_ffmpeg_command()  # a bad URL or bit rate is found here, not in the thread

    def start(self) -> None:
        """Start ffmpeg; nothing happens when it is started already. Raises ``PublishError`` when it cannot be run.

        The thread that feeds and guards it begins with the first picture.
        """
        with self._lifecycle:
            if self._feeder is not None:
                return
            child = self._spawn_new()
            with self._lock:
                self._child, self._feeder = child, _RawFeeder(self._fps, self._buffer_size)

    def write_frame(self, frame: Pixels) -> bool:
        """Hand over a picture, (H, W, 3) BGR uint8 of any size; never waits for ffmpeg or the network.

        Return False when the publisher is not started or ``frame`` is not a picture. The array is copied.
        """
        size = (self._width, self._height)
        if not _is_picture(frame):
            self._refuse(frame)
            return False
        picture = frame.copy() if frame.shape == (*size[::-1], 3) else letterbox_bgr(_three_channels(frame), size)
        with self._lock:
            if self._feeder is None:
                return False
            if self._loop is None:
                self._loop = self._new_loop(self._feeder)
                self._loop.start()
            self._feeder.put(picture)
        return True

    def stop(self, timeout: float = 5.0) -> None:
        """End everything within ``timeout`` seconds; ffmpeg may finish its output. May be called more than once."""
        deadline = time.monotonic() + timeout
        with self._lifecycle:
            with self._lock:
                self._last_report = self.report()
                loop, self._feeder = self._loop, None
            if loop is not None:
                loop.close(timeout)
            with self._lock:
                child, self._child = self._child, None
                self._loop = None
            if child is not None:
                child.stop(max(0.0, deadline - time.monotonic()))

    @property
    def is_running(self) -> bool:
        """Whether an ffmpeg process runs now; False also during the pause before another try."""
        child = self._child or (self._loop.child if self._loop else None)
        return child is not None and child.alive

    def report(self) -> SinkReport:
        """Return the state, why, and the counters in pictures."""
        loop, feeder = self._loop, self._feeder
        if feeder is None:
            return replace(self._last_report, state=STOPPED)
        if loop is None:
            return SinkReport(STARTING, dropped=self._refused)
        dropped = self._refused + loop.lost + feeder.dropped
        return SinkReport(loop.state, loop.reason, loop.published, loop.restarts, dropped)

    def _build_ffmpeg_command(self, target: str = "") -> list[str]:
        return raw_command(
            self._binary or _default_binary(),
            target or self._output_url,
            size=(self._width, self._height),
            fps=self._fps,
            codec=self._codec,
            preset=self._preset,
            bitrate=self._bitrate,
            pix_fmt=self._pix_fmt,
        )

    def _new_loop(self, feeder: _RawFeeder) -> OutputLoop:
        # Without stderr "healthy" only means that ffmpeg reads: it must last longer than a mute server goes unnoticed.
        retry = Retry(healthy_after=2 * self._write_timeout + 5.0)
        return OutputLoop(self._stream_id, self._output_url, self._take_child, feeder, retry)

    def _take_child(self) -> FFmpegChild:
        with self._lock:
            child, self._child = self._child, None
        return child or self._spawn_new()

    def _spawn_new(self) -> FFmpegChild:
        target = next_target(self._output_url)
        child = FFmpegChild(
            self._build_ffmpeg_command(target),
            listen=self._log_stderr,
            report=partial(_report, self._stream_id) if self._log_stderr else None,
            write_timeout=self._write_timeout,
        )
        child.start()
        if is_file(self._output_url):
            log.info("recording", stream_id=self._stream_id, file=target)
        return child

    def _refuse(self, frame: object) -> None:
        if not self._refused:
            what = f"{frame.dtype} {frame.shape}" if isinstance(frame, np.ndarray) else type(frame).__name__
            log.warning("not a picture, not published", stream_id=self._stream_id, got=what)
        self._refused += 1


class _RawFeeder:
    """Writes one picture per interval of 1/fps seconds into the child: raw video has no other timestamps."""

    def __init__(self, fps: float, buffer_size: int) -> None:
        self._fps = fps
        self._mailbox: Mailbox[Pixels] = Mailbox(buffer_size)
        self._pacer = Pacer(fps)
        self._last: Pixels | None = None
        self._too_fast = 0

    @property
    def dropped(self) -> int:
        return self._mailbox.dropped + self._too_fast

    def put(self, picture: Pixels) -> None:
        self._mailbox.put(picture)

    def begin(self) -> None:
        self._pacer = Pacer(self._fps)
        if self._last is not None:  # a new child shows something at once, also when the camera is gone
            self._pacer.arrive(time.monotonic())

    def step(self, child: FFmpegChild) -> int:
        wait = self._pacer.wait(time.monotonic())
        picture = self._mailbox.get(_POLL if wait is None else min(wait, _POLL))
        now = time.monotonic()
        slots = len(self._pacer.due(now) if picture is None else self._pacer.arrive(now))
        if picture is None:
            self._repeat(child, slots)
        elif slots == 0:
            self._last, self._too_fast = picture, self._too_fast + 1
        else:
            self._repeat(child, slots - 1)
            self._last = picture
            child.write(picture.data)
        child.check()
        return slots

    def finish(self, child: FFmpegChild) -> None:
        picture = self._mailbox.latest(0)
        if picture is not None:
            child.write(picture.data)

    def end(self) -> None:
        """Nothing belongs to the child."""

    def wake(self) -> None:
        self._mailbox.close()

    def _repeat(self, child: FFmpegChild, times: int) -> None:
        if self._last is not None:
            for _ in range(times):
                child.write(self._last.data)


def _is_picture(frame: object) -> bool:
    if not isinstance(frame, np.ndarray) or frame.dtype != np.uint8 or frame.size == 0:
        return False
    return frame.ndim == 2 or (frame.ndim == 3 and frame.shape[2] in (1, 3, 4))


def _three_channels(frame: Pixels) -> Pixels:
    if frame.ndim == 3 and frame.shape[2] == 3:
        return frame
    grey = frame.ndim == 2 or frame.shape[2] == 1
    converted = cv2.cvtColor(np.ascontiguousarray(frame), cv2.COLOR_GRAY2BGR if grey else cv2.COLOR_BGRA2BGR)
    return converted.astype(np.uint8, copy=False)


def _default_binary() -> str:
    """Return ``ffmpeg`` as the document has it when it is on PATH, else the bundled one."""
    if shutil.which("ffmpeg") is None:
        with suppress(PublishError):  # ``start`` says that there is none
            return find_ffmpeg()
    return "ffmpeg"


def _report(stream_id: str, line: str, left_out: int) -> None:
    log.info("ffmpeg", stream_id=stream_id, line=line, left_out=left_out)
