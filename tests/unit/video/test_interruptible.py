"""PyAV's blocking calls end at our deadline and when they are cancelled. The peers are plain sockets that stay mute."""

from __future__ import annotations

import socket
import sys
import threading
import time
from collections.abc import Iterator

import av
import av.container.core
import av.error
import pytest

from sentinel_pipeline.infrastructure.video.interruptible import Deadline, interruptible, pyav_timeout


@pytest.fixture
def mute_server() -> Iterator[str]:
    """Accept connections (in the kernel's backlog) and never answer."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"rtsp://127.0.0.1:{server.getsockname()[1]}/x"


def never() -> bool:
    return False


def test_the_seam_in_pyav_is_still_there() -> None:
    """Fails loudly when a new PyAV no longer looks up the clock where we replace it: exact deadlines are then gone."""
    assert interruptible()
    assert pyav_timeout(10.0, 5.0) == (1e6, 1e6)
    assert av.container.core.time.monotonic() == pytest.approx(time.monotonic(), abs=0.5)
    assert av.container.core.time.perf_counter is time.perf_counter


def test_pyav_timeout_falls_back_on_pyavs_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the seam PyAV gets the time-outs themselves."""
    monkeypatch.setattr(av.container.core, "time", object())
    assert pyav_timeout(10.0, 5.0) == (10.0, 5.0)


def test_a_blocked_open_ends_at_the_deadline(mute_server: str) -> None:
    """An open on a mute server ends within a tenth of a second of its deadline, not at PyAV's time-out."""
    started = time.monotonic()
    with Deadline(never).within(0.2) as limit, pytest.raises(av.error.FFmpegError):
        av.open(mute_server, timeout=pyav_timeout(60, 60))
    assert 0.2 <= time.monotonic() - started < 0.7
    assert limit.passed
    assert not limit.cancelled


def test_a_blocked_open_ends_when_it_is_cancelled(mute_server: str) -> None:
    """Cancelling from another thread ends an open at once, long before its deadline."""
    cancelled = threading.Event()
    limit = Deadline(cancelled.is_set)

    def cancel() -> None:
        cancelled.set()
        limit.notice()

    timer = threading.Timer(0.1, cancel)
    timer.start()
    started = time.monotonic()
    with limit.within(60), pytest.raises(av.error.FFmpegError):
        av.open(mute_server, timeout=pyav_timeout(60, 60))
    timer.join()
    assert time.monotonic() - started < 0.6
    assert limit.cancelled
    assert not limit.passed


def test_a_deadline_that_is_over_before_the_call_still_ends_it(mute_server: str) -> None:
    """A flag that was set before the call starts does not make the call run for ever."""
    started = time.monotonic()
    with Deadline(lambda: True).within(60), pytest.raises(av.error.FFmpegError):
        av.open(mute_server, timeout=pyav_timeout(60, 60))
    assert time.monotonic() - started < 0.5


def test_deadlines_of_threads_do_not_touch_each_other(mute_server: str) -> None:
    """A cancelled thread ends, while its neighbour's open goes on to its own deadline."""
    took: dict[str, float] = {}

    def attempt(name: str, seconds: float, *, cancelled: bool) -> None:
        started = time.monotonic()
        with Deadline(lambda: cancelled).within(seconds), pytest.raises(av.error.FFmpegError):
            av.open(mute_server, timeout=pyav_timeout(60, 60))
        took[name] = time.monotonic() - started

    threads = [
        threading.Thread(target=attempt, args=("cancelled", 60), kwargs={"cancelled": True}),
        threading.Thread(target=attempt, args=("patient", 0.4), kwargs={"cancelled": False}),
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(5)
    assert took["cancelled"] < 0.3
    assert 0.4 <= took["patient"] < 0.9


def ahead() -> float:
    """Return by how much the clock that PyAV sees is ahead."""
    assert interruptible()
    return float(av.container.core.time.monotonic() - time.monotonic())


def test_a_deadline_can_be_put_off_brought_forward_and_used_again() -> None:
    """What counts is where the end is now, whatever it was when the call began; outside the clock tells the time."""
    limit = Deadline(never)
    first_end = time.monotonic() + 0.02
    with limit.within(0.01):
        assert ahead() < 1
        limit.extend(60)
        while time.monotonic() < first_end:
            assert ahead() < 1
        assert ahead() < 1
        limit.extend(0)
        first, second = ahead(), ahead()
        assert first > 1e8
        assert second - first > 1e8  # at every look
        limit.extend(60)
        assert ahead() < 1
        limit.extend(0)
    assert ahead() < 1
    with limit.within(60):
        assert not limit.over
        assert ahead() < 1


def test_notice_reaches_nobody_outside() -> None:
    """A thread that has left its deadline has the true time, even when the work is called off a moment later."""
    cancelled = threading.Event()
    limit = Deadline(cancelled.is_set)
    with limit.within(60):
        pass
    cancelled.set()
    limit.notice()
    assert ahead() < 1


def test_looking_at_the_clock_runs_no_python() -> None:
    """FFmpeg asks some 90 times for each network packet: between two deadlines that costs no call of a function."""
    called: list[str] = []
    with Deadline(never).within(60):
        clock = av.container.core.time
        clock.monotonic()
        sys.setprofile(lambda frame, kind, _: called.append(frame.f_code.co_name) if kind == "call" else None)
        try:
            for _ in range(90):
                clock.monotonic()
        finally:
            sys.setprofile(None)
    assert called == []
