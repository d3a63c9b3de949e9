"""Makes PyAV's blocking calls cancellable and gives them exact deadlines.

FFmpeg asks an interrupt callback several times a second, during every blocking network call, whether to go on. PyAV's
callback compares ``time.monotonic()`` with the start of the call plus its own time-out, and it looks ``time`` up in its
module each time. That name is the seam: it is replaced, once per process, by an object whose ``monotonic()`` leaps far
ahead for a thread whose deadline has passed or whose work is cancelled. PyAV then ends the call within one poll
(100 ms at most). PyAV's own time-outs cannot do this: they start afresh in each phase of opening, so that a stalled
probe takes twice its time-out, and nothing can end them early.

Where PyAV no longer has the seam its own time-outs apply, and a test says so.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import av.container.core

_FOREVER = 1e6  # seconds: PyAV's own time-out, beyond every deadline, far below the leap
_LEAP = 1e9  # seconds per look at the clock

_SEAM = "time"  # the name that the compiled callback looks up

_local = threading.local()
_install_lock = threading.Lock()


class Deadline:
    """A point in monotonic time and a cancel flag; the thread that made it asks and is asked."""

    def __init__(self, seconds: float, cancelled: Callable[[], bool]) -> None:
        self._ends = time.monotonic() + seconds
        self._cancelled = cancelled
        self._leaps = 0

    @property
    def cancelled(self) -> bool:
        """Whether the work was called off."""
        return self._cancelled()

    @property
    def passed(self) -> bool:
        """Whether time is up."""
        return time.monotonic() >= self._ends

    @property
    def over(self) -> bool:
        """Whether the call should not go on: time is up, or the work was called off."""
        return self.passed or self.cancelled

    def extend(self, seconds: float) -> None:
        """Put the end at ``seconds`` from now."""
        self._ends = time.monotonic() + seconds

    def clock(self) -> float:
        """Return monotonic time, leaping ahead at every look once the deadline is over.

        At every look, because PyAV also reads the clock when a call starts: a start in the far future and a present in
        the same future would let the call run for ever.
        """
        now = time.monotonic()
        if now >= self._ends or self._cancelled():
            self._leaps += 1
            return now + self._leaps * _LEAP
        return now


class _Clock:
    """Stands in for the module ``time`` inside PyAV."""

    def monotonic(self) -> float:
        current: Deadline | None = getattr(_local, "deadline", None)
        return current.clock() if current else time.monotonic()

    def __getattr__(self, name: str) -> object:
        return getattr(time, name)


def interruptible() -> bool:
    """Install the clock where PyAV allows it and return whether it is in place. Safe from any thread."""
    with _install_lock:
        found = getattr(av.container.core, _SEAM, None)
        if found is time:
            setattr(av.container.core, _SEAM, _Clock())
            return True
        return isinstance(found, _Clock)


def pyav_timeout(open_timeout: float, read_timeout: float) -> tuple[float, float]:
    """Return the ``timeout`` argument for ``av.open``: out of the way, or PyAV's own where there is no seam."""
    return (_FOREVER, _FOREVER) if interruptible() else (open_timeout, read_timeout)


def call_is_over() -> bool:
    """Return whether the deadline of this thread is over; for code of our own that PyAV calls back."""
    current: Deadline | None = getattr(_local, "deadline", None)
    return current is not None and current.over


@contextmanager
def deadline(seconds: float, cancelled: Callable[[], bool]) -> Iterator[Deadline]:
    """Bound the PyAV calls that this thread makes inside the block, on containers opened with ``pyav_timeout``.

    A call that is cut short raises some ``FFmpegError``, or even returns normally (a probe that stalls): ask the
    ``Deadline`` afterwards. ``cancelled`` is called from inside FFmpeg's callback: it must be quick and must not block.
    """
    outer = getattr(_local, "deadline", None)
    _local.deadline = current = Deadline(seconds, cancelled)
    try:
        yield current
    finally:
        _local.deadline = outer
