"""Standard output and standard error as a long-running program needs them: they may break or clog, it goes on."""

from __future__ import annotations

import os
import select
import sys
import threading
import time

_PIECE = 4096  # PIPE_BUF: poll(2) promises room for so much in a pipe, so that writing no more cannot block


class Outlet:
    """Writes lines to a descriptor; never raises and never waits longer than ``patience`` seconds for a reader.

    A reader that is gone, one that reads no more and a full disk cost lines: they are counted, and ``note`` (with the
    count) is written when there is room again. Thread-safe.
    """

    def __init__(self, fd: int, patience: float, note: str = "") -> None:
        self._fd, self._patience, self._note = fd, patience, note
        self._lock = threading.Lock()
        self._lost = 0
        self._torn = False  # the last line ended in the middle

    def write(self, line: str) -> None:
        """Write a line, without its line break."""
        with self._lock:
            data = line.encode(errors="backslashreplace") + b"\n"
            if self._lost and self._note:
                data = self._note.format(lost=self._lost).encode() + b"\n" + data
            # While nothing is taken nobody waits: the first line in vain was patience enough.
            deadline = time.monotonic() + (0.0 if self._lost else self._patience)
            whole = self._write(b"\n" + data if self._torn else data, deadline)
            self._lost = 0 if whole else self._lost + 1

    def _write(self, data: bytes, deadline: float) -> bool:
        view = memoryview(data)
        while view:
            try:
                if not self._room(deadline):
                    break
                view = view[os.write(self._fd, view[:_PIECE]) :]
            except OSError:
                break  # nobody is left to be told
        if len(view) < len(data):
            self._torn = bool(view)
        return not view

    def _room(self, deadline: float) -> bool:
        poll = select.poll()
        poll.register(self._fd, select.POLLOUT)
        return bool(poll.poll(max(0.0, deadline - time.monotonic()) * 1000))


class StandardError:
    """A logger for structlog that writes to standard error, or to whatever has borrowed its name (a live table)."""

    _outlet = Outlet(2, 0.05, '{{"event":"{lost} log lines were lost: nobody took them","level":"warning"}}')

    def msg(self, message: str) -> None:
        """Write one line; never raises."""
        stream = sys.stderr
        if stream is sys.__stderr__ and stream is not None:
            self._outlet.write(message)
            return
        try:
            stream.write(message + "\n")
            stream.flush()
        except (OSError, ValueError, AttributeError):
            return  # closed, or there is none: a log must not end what it tells of

    log = debug = info = warn = warning = error = critical = fatal = failure = exception = msg
