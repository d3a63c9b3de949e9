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
from collections.abc import Callable, Iterable, Iterator
from itertools import chain, count, takewhile
from typing import Any, Self

import av.container.core

_FOREVER = 1e6  # seconds: PyAV's own time-out, beyond every deadline, far below the leap
_LEAP = 1e9  # seconds per look at the clock

_SEAM = "time"  # the name that the compiled callback looks up

_install_lock = threading.Lock()


class _Clock(threading.local):
    """Stands in for the module ``time`` inside PyAV; each thread has a ``monotonic`` of its own.

    A packet of a network stream takes some 90 looks: what they call is C, and Python runs only when a deadline comes.
    """

    def __init__(self) -> None:
        self.monotonic: Callable[[], float] = time.monotonic
        self.deadline: Deadline | None = None

    def __getattr__(self, name: str) -> object:
        return getattr(time, name)


class Deadline:
    """A point in time before which PyAV calls have to end, and a flag that ends them at once.

    A context manager that bounds what the entering thread calls inside, on containers opened with ``pyav_timeout``; it
    can be entered again, later also by another thread, but is not nested. A call that is cut short raises some
    ``FFmpegError``, or even returns normally (a probe that stalls): ask ``over`` afterwards.

    cancelled: says whether the work was called off. Whoever calls it off calls ``notice`` after that.
    """

    def __init__(self, cancelled: Callable[[], bool]) -> None:
        self._cancelled = cancelled
        self._ends = time.monotonic()
        self._looks = self._new_looks()
        self._thread: dict[str, Any] | None = None  # the attributes of the clock in the thread that is inside

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

    def within(self, seconds: float) -> Self:
        """Put the end at ``seconds`` from now and return the deadline, to be entered."""
        self.extend(seconds)
        return self

    def extend(self, seconds: float) -> None:
        """Put the end at ``seconds`` from now."""
        before, now = self._ends, time.monotonic()
        self._ends = now + seconds
        if self._ends < before or now >= before:
            self._looks = self._new_looks()
            self.notice()

    def notice(self) -> None:
        """Take notice that the work was called off; safe from any thread."""
        thread = self._thread
        if thread is None:
            return
        thread["monotonic"] = self._looks
        if self._cancelled():  # asked last: two threads may be here at once, and the flag must win
            thread["monotonic"] = chain.from_iterable(self._leaps()).__next__

    def __enter__(self) -> Self:
        _clock.deadline, self._thread = self, _clock.__dict__
        self.notice()
        return self

    def __exit__(self, *exc: object) -> None:
        self._thread = None
        _clock.deadline, _clock.monotonic = None, time.monotonic

    def _new_looks(self) -> Callable[[], float]:
        return chain.from_iterable(self._stretches()).__next__

    def _stretches(self) -> Iterator[Iterable[float]]:
        """Yield what the clock shows up to the end as it is now, and again where it has been put off meanwhile.

        Once the deadline is over it leaps at every look, because PyAV also reads the clock when a call starts: a start
        in the far future and a present in the same future would let the call run for ever.
        """
        while not self.passed:
            yield takewhile(self._ends.__gt__, iter(time.monotonic, None))
        yield count(_LEAP, _LEAP)

    def _leaps(self) -> Iterator[Iterable[float]]:
        """Leap at every look, but not for a thread that left a moment before ``notice`` came."""
        leaps = count(_LEAP, _LEAP)
        while self._thread is not None:
            yield (next(leaps),)
        yield iter(time.monotonic, None)


_clock = _Clock()


def interruptible() -> bool:
    """Install the clock where PyAV allows it and return whether it is in place. Safe from any thread."""
    with _install_lock:
        found = getattr(av.container.core, _SEAM, None)
        if found is time:
            setattr(av.container.core, _SEAM, _clock)
            return True
        return found is _clock


def pyav_timeout(open_timeout: float, read_timeout: float) -> tuple[float, float]:
    """Return the ``timeout`` argument for ``av.open``: out of the way, or PyAV's own where there is no seam."""
    return (_FOREVER, _FOREVER) if interruptible() else (open_timeout, read_timeout)


def call_is_over() -> bool:
    """Return whether the deadline of this thread is over; for code of our own that PyAV calls back."""
    current = _clock.deadline
    return current is not None and current.over
