"""How the program ends: asked by a signal, and in time whatever still hangs."""

from __future__ import annotations

import os
import select
import signal
import threading
import time
from collections.abc import Callable
from types import FrameType, TracebackType

from sentinel_pipeline.interface.outlet import Outlet

EXIT_WITHIN = 4.5  # seconds from the signal to the end, always; the promise is 5

_MAIN_IS_DONE, _COUNT_DOWN = 0, 255  # no signal has these numbers
_POLL = 0.05  # seconds between two looks at the threads that are left

Handler = Callable[[int, FrameType | None], object] | int | None


class Ending:
    """Sets ``asked`` at SIGTERM, SIGINT or SIGHUP, and ends the process ``within`` seconds later if it still runs then.

    A library call that never returns (a model, a driver) cannot be interrupted from Python; its thread would keep the
    process alive for ever. By the time it is given up, the outbox has every accepted event on disk, and FFmpeg children
    end at the end of their input. A second Ctrl-C ends the process at once, with code 130.

    A thread listens, woken by the C handler through a pipe (``signal.set_wakeup_fd``). Handlers in Python run in the
    main thread between two of its steps: not at all while it is inside a library, such as one that loads a model, and
    with a deadlock where a handler sets the very ``Event`` whose lock the main thread holds.

    reloads: SIGHUP is no wish to end: ``heard`` tells of it.

    A context manager for the main thread. ``asked`` and ``begin`` may be used from any thread.
    """

    def __init__(self, within: float = EXIT_WITHIN, *, reloads: bool = False) -> None:
        self.asked = threading.Event()
        self._news = threading.Event()
        self._reloads, self._reload = reloads, False
        self._within = within
        self._exit_at: float | None = None
        self._code = 0
        self._done = False
        self._previous: dict[int, Handler] = {}
        self._previous_fd = -1
        self._read_fd = self._write_fd = -1
        self._thread = threading.Thread(target=self._listen, name="signals")

    def __enter__(self) -> Ending:
        self._read_fd, self._write_fd = os.pipe()
        os.set_blocking(self._write_fd, False)
        self._previous_fd = signal.set_wakeup_fd(self._write_fd, warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            self._previous[number] = signal.signal(number, _heard)
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if error is not None:
            self._code = 1
        if self._others():
            # The interpreter waits for them; until they have ended the listener keeps the time.
            self.begin()
        os.write(self._write_fd, bytes([_MAIN_IS_DONE]))
        if self._others():
            return
        self._thread.join()
        signal.set_wakeup_fd(self._previous_fd)
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        os.close(self._read_fd)
        os.close(self._write_fd)

    def begin(self) -> None:
        """Start the countdown, once: whatever has not ended when it is over is left behind."""
        if self._exit_at is None:
            self._exit_at = time.monotonic() + self._within
            os.write(self._write_fd, bytes([_COUNT_DOWN]))

    def heard(self, seconds: float) -> bool:
        """Wait ``seconds``, or until a signal comes; return whether it was a SIGHUP that asks for a reload."""
        self._news.wait(seconds)
        self._news.clear()
        if not self._reload:
            return False
        self._reload = False  # before the file is read: another SIGHUP from now on means another reading
        return not self.asked.is_set()

    def _listen(self) -> None:
        while not self._done or self._others():
            if select.select([self._read_fd], [], [], self._patience())[0]:
                for number in os.read(self._read_fd, 64):
                    self._hear(number)
            if self._exit_at is not None and time.monotonic() >= self._exit_at:
                Outlet(2, 0.05).write("sentinel: something still hangs and is left behind")
                os._exit(self._code)

    def _patience(self) -> float | None:
        if self._done:
            return _POLL
        return None if self._exit_at is None else max(0.0, self._exit_at - time.monotonic())

    def _hear(self, number: int) -> None:
        if number == _MAIN_IS_DONE:
            self._done = True
        elif number == signal.SIGHUP and self._reloads:
            self._reload = True
            self._news.set()
        elif number in self._previous and not self.asked.is_set():
            self.begin()
            self.asked.set()
            self._news.set()
        elif number == signal.SIGINT:
            os._exit(130)  # the second Ctrl-C: somebody is in a hurry

    def _others(self) -> bool:
        """Whether threads are left for which the interpreter would wait."""
        mine = (threading.main_thread(), self._thread)
        return any(thread not in mine and not thread.daemon for thread in threading.enumerate())


def _heard(_: int, __: FrameType | None) -> None:
    """Stand in the place of the default: the C handler has told the listener already."""
