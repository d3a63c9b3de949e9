"""One child ffmpeg: fed through its stdin, listened to on its stderr, and always brought to an end.

Without this process no ffmpeg goes on either: the write end of stdin exists here only (it is not inherited by other
children, PEP 446), so after ``kill -9`` of this process the kernel closes it, ffmpeg reads the end of its input,
finishes the output and exits. One that waits for a server which holds the connection and answers nothing reads no
input, and stays until the server hangs up. PR_SET_PDEATHSIG would end it, and is a trap: it fires when the *thread*
that forked ends.
"""

from __future__ import annotations

import fcntl
import os
import selectors
import subprocess
import termios
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress

from sentinel_pipeline.domain.errors import PublishError
from sentinel_pipeline.infrastructure.video.child_sockets import send_at_once
from sentinel_pipeline.infrastructure.video.ffmpeg_log import FFmpegLog

_PIPE_SIZE = 1 << 20  # the most that an unprivileged process may ask for; 64 KiB cost twice the CPU time per picture
_SLICE = 0.05  # seconds between two looks at ``cancel``
_CONNECTS_WITHIN, _CONNECT_POLL = 0.2, 0.002  # seconds


class FFmpegChild:
    """Owns one child process. One thread writes and stops; ``cancel`` may come from any thread.

    write_timeout: seconds that the child may leave bytes unread before it counts as stalled.
    open_timeout: seconds from the first byte until the server has accepted the stream (only with ``listen``).
    listen: read stderr, to know when the output is open and why the child ended; else stderr goes to /dev/null.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        listen: bool = True,
        report: Callable[[str, int], None] | None = None,
        write_timeout: float = 5.0,
        open_timeout: float = 10.0,
    ) -> None:
        self._command = list(command)
        self._listen = listen
        self._log = FFmpegLog(report)
        self._write_timeout = write_timeout
        self._open_timeout = open_timeout
        self._process: subprocess.Popen[bytes] | None = None
        self._selector = selectors.PollSelector()  # the one without a descriptor of its own
        self._stdin = -1
        self._stderr_open = False
        self._cancelled = False
        self._written = 0
        self._first_write: float | None = None
        self._opened_at: float | None = None
        self._unread: deque[tuple[int, float]] = deque()  # (bytes written so far, when), oldest first

    def start(self) -> None:
        """Spawn the process. Raises ``PublishError`` when the binary cannot be run."""
        try:
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE if self._listen else subprocess.DEVNULL,
                bufsize=0,
                # Own session: Ctrl-C in the terminal reaches us only, and we end the child in our order.
                start_new_session=True,
            )
        except FileNotFoundError as exc:
            raise PublishError("FFmpeg was not found", remedy=f"{self._command[0]} does not exist") from exc
        except OSError as exc:
            raise PublishError(f"FFmpeg cannot be started: {exc.strerror}") from exc

    @property
    def pid(self) -> int | None:
        """The process id; None before ``start``."""
        return self._process.pid if self._process else None

    @property
    def alive(self) -> bool:
        """Whether the process runs; safe from any thread."""
        return self._process is not None and self._process.poll() is None

    @property
    def opened(self) -> bool:
        """Whether the server has accepted the stream; without ``listen``, whether the child has taken any input."""
        return self._opened_at is not None

    def cancel(self) -> None:
        """Make a ``write`` under way, and all later ones, raise ``PublishError`` within 50 ms; from any thread."""
        self._cancelled = True

    def write(self, data: bytes | memoryview) -> None:
        """Write all of ``data``.

        Raises ``PublishError`` when the child has ended, does not read for ``write_timeout`` seconds, or was cancelled.
        """
        self.check()
        view = memoryview(data).cast("B")
        started = time.monotonic()
        if self._first_write is None:
            self._first_write = started
        while view:
            if self._cancelled:
                raise PublishError("stopped")
            if time.monotonic() - started > self._write_timeout:
                raise PublishError(self._stalled())
            view = view[self._write_some(view) :]
        self._unread.append((self._written, started))

    def watch_connecting(self) -> None:
        """Wait until the child connects, 0.2 s after its first input at most, so that none of its requests is held up.

        Without this call its connection is found when the output is open.
        """
        process, deadline = self._process, time.monotonic() + _CONNECTS_WITHIN
        while process is not None and self.alive and not self.opened and not self._cancelled:
            if send_at_once(process.pid) or time.monotonic() > deadline:
                return
            self._wait(_CONNECT_POLL)

    def check(self) -> None:
        """Read stderr without waiting. Raises ``PublishError`` when the child has ended, stalls, or is not let in."""
        self._prepare()
        self._wait(0)
        if not self.alive:
            raise PublishError(self._why_ended())
        now = time.monotonic()
        self._forget_read()
        if self._unread and now - self._unread[0][1] > self._write_timeout:
            raise PublishError(self._stalled())
        if self._first_write is None or self.opened:
            return
        # Bytes in FFmpeg's own buffers say nothing about a server that accepts connections and never answers.
        if now - self._first_write > self._open_timeout:
            raise PublishError(f"the server did not accept the stream within {self._open_timeout:g} s")

    def stop(self, timeout: float = 5.0) -> None:
        """End the child and reap it: end of input, then SIGTERM, then SIGKILL, all within ``timeout`` seconds.

        May be called more than once. Nothing here can block: stdin is a bare descriptor, and its writer has left.
        """
        process = self._process
        if process is None:
            return
        deadline = time.monotonic() + timeout
        if process.stdin is not None:
            process.stdin.close()
        # FFmpeg needs some time for its trailer or TEARDOWN; a stopped or stuck one needs SIGKILL in any case.
        ended = self._ended_by(process, deadline - 0.4 * timeout)
        if not ended:
            process.terminate()
            ended = self._ended_by(process, deadline - 0.2 * timeout)
        if not ended:
            process.kill()
            with suppress(subprocess.TimeoutExpired):  # in uninterruptible I/O: reaped by subprocess later
                process.wait(max(0.5, deadline - time.monotonic()))
        if process.stderr is not None:
            if self._stderr_open:
                self._unregister(process.stderr.fileno())
                self._stderr_open = False
            process.stderr.close()

    def _prepare(self) -> None:
        """Set the pipes up, once, before the first use."""
        process = self._process
        if process is None or process.stdin is None or process.stdin.closed:
            raise PublishError("FFmpeg is not running")
        if self._stdin >= 0:
            return
        self._stdin = process.stdin.fileno()
        with suppress(OSError):  # over the user's pipe quota (pipe-user-pages-soft): the small pipe works too
            fcntl.fcntl(self._stdin, fcntl.F_SETPIPE_SZ, _PIPE_SIZE)
        os.set_blocking(self._stdin, False)
        if process.stderr is not None:
            os.set_blocking(process.stderr.fileno(), False)
            self._selector.register(process.stderr.fileno(), selectors.EVENT_READ)
            self._stderr_open = True

    def _write_some(self, view: memoryview) -> int:
        """Write what fits now, or wait a moment for room; return the bytes written."""
        try:
            count = os.write(self._stdin, view)
        except BlockingIOError:
            self._selector.register(self._stdin, selectors.EVENT_WRITE)
            self._wait(_SLICE)
            self._unregister(self._stdin)
            return 0
        except BrokenPipeError as exc:
            if self._process is not None:
                self._ended_by(self._process, time.monotonic() + 1.0)
            raise PublishError(self._why_ended()) from exc
        self._written += count
        return count

    def _wait(self, timeout: float) -> bool:
        """Wait until stdin takes bytes or stderr has some; take those. Return whether something happened."""
        ready = self._selector.select(timeout)
        for key, _ in ready:
            if key.fd != self._stdin:
                self._read_stderr(key.fd)
        if self._log.opened and self._opened_at is None:
            self._opened_at = time.monotonic()
            if self._process is not None and self.alive:
                send_at_once(self._process.pid)  # it may have connected late, or once more
        return bool(ready)

    def _read_stderr(self, fd: int) -> None:
        try:
            data = os.read(fd, 65536)
        except BlockingIOError:
            return
        self._log.feed(data, time.monotonic())
        if not data:
            self._stderr_open = False
            self._unregister(fd)
            self._log.end(time.monotonic())

    def _forget_read(self) -> None:
        """Drop the marks of bytes that the child has taken out of the pipe (FIONREAD counts those still in it)."""
        inside = int.from_bytes(fcntl.ioctl(self._stdin, termios.FIONREAD, b"\0\0\0\0"), "little")
        taken = self._written - inside
        if taken > 0 and not self._listen and self._opened_at is None:
            self._opened_at = time.monotonic()
        while self._unread and self._unread[0][0] <= taken:
            self._unread.popleft()

    def _ended_by(self, process: subprocess.Popen[bytes], deadline: float) -> bool:
        """Wait for the end while reading stderr: a child blocked on a full stderr would not end."""
        while True:
            left = deadline - time.monotonic()
            with suppress(subprocess.TimeoutExpired):
                process.wait(max(0.0, min(_SLICE, left)))
                self._drain()
                return True
            self._drain()
            if left <= 0:
                return False

    def _drain(self) -> None:
        """Read stderr until it is empty or at its end, but no more than a well-behaved child ever says."""
        for _ in range(64):
            if not self._stderr_open or not self._wait(0):
                return

    def _unregister(self, fd: int) -> None:
        with suppress(KeyError):
            self._selector.unregister(fd)

    def _why_ended(self) -> str:
        self._drain()
        code = self._process.poll() if self._process else None
        cause = self._log.cause()
        if code is None:
            how = "closed its input"
        else:
            how = f"ended by signal {-code}" if code < 0 else f"ended with code {code}"
        return f"FFmpeg {how}: {cause}" if cause else f"FFmpeg {how}"

    def _stalled(self) -> str:
        if self.opened:
            return f"FFmpeg, or the server behind it, took nothing for {self._write_timeout:g} s"
        return f"the server did not accept the stream: FFmpeg took nothing for {self._write_timeout:g} s"
