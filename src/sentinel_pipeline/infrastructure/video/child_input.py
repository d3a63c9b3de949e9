"""Reads what PyAV's own FFmpeg cannot (SRT) through a child ffmpeg that only copies, as a file-like object for PyAV.

The child ends with this process: it writes into a pipe that nobody reads any more, or gives up after its own time-out.
"""

from __future__ import annotations

import os
import re
import selectors
import subprocess
import time
from contextlib import suppress

from sentinel_pipeline.domain.errors import PublishError, StreamEnded, StreamError, StreamRefused
from sentinel_pipeline.infrastructure.video.ffmpeg_binary import find_ffmpeg
from sentinel_pipeline.infrastructure.video.ffmpeg_log import FFmpegLog
from sentinel_pipeline.infrastructure.video.interruptible import call_is_over

_SLICE = 0.05  # seconds between two looks at the deadline
_STOP = 0.5  # seconds that ffmpeg gets to hang up politely
_REFUSED = re.compile(r"bad secret|reject|unauthori[sz]ed|forbidden|password|encryption", re.IGNORECASE)
_LOGIN = re.compile(r"incorrect passphrase|password required|bad ?secret|unauthori[sz]ed|forbidden", re.IGNORECASE)
_STAMP = re.compile(r"^[\d:.]+/SRT:\S+ ")  # libsrt's time and thread: the same reason must read the same each time
_MISSING = re.compile(r"protocol not found", re.IGNORECASE)


def input_command(binary: str, url: str, *, open_timeout: float, read_timeout: float) -> list[str]:
    """Return the command that copies the first video stream of ``url`` to stdout, as NUT, which keeps timestamps."""
    return [
        *[binary, "-nostdin", "-hide_banner", "-nostats", "-loglevel", "error"],
        *["-probesize", "1000000", "-analyzeduration", "1000000"],  # MPEG-TS has to be recognised from its data
        *["-timeout", str(int(read_timeout * 1e6)), "-connect_timeout", str(int(open_timeout * 1e3))],
        *["-i", url, "-map", "0:v:0", "-c", "copy", "-flush_packets", "1", "-f", "nut", "pipe:1"],
    ]


class ChildInput:
    """One child process and its output. One thread only.

    binary: empty takes the one that ``find_ffmpeg`` finds. Time-outs in seconds; that of a ``read`` is the deadline of
    the thread (``interruptible.Deadline``). The URL is visible in the arguments of the process.
    """

    def __init__(self, url: str, *, binary: str = "", open_timeout: float = 10.0, read_timeout: float = 5.0) -> None:
        self._url, self._binary = url, binary
        self._open_timeout, self._read_timeout = open_timeout, read_timeout
        self._process: subprocess.Popen[bytes] | None = None
        self._selector = selectors.PollSelector()  # the one without a descriptor of its own
        self._log = FFmpegLog()

    def start(self) -> None:
        """Spawn the process. Raises ``StreamRefused`` when there is no ffmpeg, ``StreamError`` when it cannot run."""
        try:
            binary = self._binary or find_ffmpeg()
        except PublishError as exc:
            raise StreamRefused("this source needs FFmpeg, which was not found", remedy=exc.remedy) from exc
        command = input_command(binary, self._url, open_timeout=self._open_timeout, read_timeout=self._read_timeout)
        failure: StreamError | None = None
        try:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                bufsize=0,
                # Own session: Ctrl-C in the terminal reaches us only, and we end the child in our order.
                start_new_session=True,
            )
        except OSError as exc:
            failure = StreamError(f"FFmpeg cannot be started: {exc.strerror}", remedy="check runtime.ffmpeg")
        if failure is not None:
            raise failure
        for pipe in self._pipes():
            os.set_blocking(pipe, False)
            self._selector.register(pipe, selectors.EVENT_READ)

    @property
    def pid(self) -> int | None:
        """The process id; None before ``start``."""
        return self._process.pid if self._process else None

    def read(self, size: int) -> bytes:
        """Return what has come, at most ``size`` bytes; nothing at the end, or when the thread's deadline is over."""
        out = self._pipes()[0]
        while not call_is_over():
            ready = {key.fd for key, _ in self._selector.select(_SLICE)}
            for fd in ready - {out}:
                self._listen(fd)
            if out in ready:
                return os.read(out, size)
        return b""

    def explain(self, doing: str) -> StreamError:
        """Return why the child ended; ``doing`` completes "cannot …", free of credentials."""
        for key in list(self._selector.get_map().values()):
            if key.fd != self._pipes()[0]:
                self._drain(key.fd)
        cause = _STAMP.sub("", self._log.lines[0]) if self._log.lines else ""
        if not cause:
            return StreamEnded(f"cannot {doing}: the stream ended")
        if _MISSING.search(cause):
            return StreamRefused(f"cannot {doing}: {cause}", remedy="name an ffmpeg that has SRT in runtime.ffmpeg")
        if _REFUSED.search(cause):
            remedy = "check streamid, passphrase and pbkeylen in the source URL"
            status = 401 if _LOGIN.search(cause) else None  # in words only: libsrt's numbers do not get out of FFmpeg
            return StreamRefused(f"cannot {doing}: {cause}", remedy=remedy, status=status)
        return StreamError(f"cannot {doing}: {cause}", remedy="check the address, the port, and that the camera is up")

    def close(self) -> None:
        """End the child and reap it, within a second; may be called more than once."""
        process, self._process = self._process, None
        if process is None:
            return
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(_STOP)
        if process.returncode is None:
            process.kill()
            with suppress(subprocess.TimeoutExpired):  # in uninterruptible I/O: reaped by subprocess later
                process.wait(_STOP)
        self._selector.close()
        for pipe in (process.stdout, process.stderr):
            if pipe is not None:
                pipe.close()

    def _pipes(self) -> tuple[int, int]:
        process = self._process
        if process is None or process.stdout is None or process.stderr is None:
            raise StreamError("FFmpeg is not running")
        return process.stdout.fileno(), process.stderr.fileno()

    def _drain(self, fd: int) -> None:
        """Read stderr to its end; the child that has closed its output is about to close this too."""
        deadline = time.monotonic() + _STOP
        while fd in self._selector.get_map() and time.monotonic() < deadline:
            if any(key.fd == fd for key, _ in self._selector.select(_SLICE)):
                self._listen(fd)

    def _listen(self, fd: int) -> None:
        with suppress(BlockingIOError):
            data = os.read(fd, 65536)
            self._log.feed(data, time.monotonic())
            if not data:
                self._log.end(time.monotonic())
                self._selector.unregister(fd)
