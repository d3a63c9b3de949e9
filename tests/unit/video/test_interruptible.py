"""PyAV's blocking calls end at our deadline and when they are cancelled. The peers are plain sockets that stay mute."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator

import av
import av.container.core
import av.error
import pytest

from sentinel_pipeline.infrastructure.video.interruptible import deadline, interruptible, pyav_timeout


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
    with deadline(0.2, never) as limit, pytest.raises(av.error.FFmpegError):
        av.open(mute_server, timeout=pyav_timeout(60, 60))
    assert 0.2 <= time.monotonic() - started < 0.7
    assert limit.passed
    assert not limit.cancelled


def test_a_blocked_open_ends_when_it_is_cancelled(mute_server: str) -> None:
    """Cancelling from another thread ends an open at once, long before its deadline."""
    cancelled = threading.Event()
    timer = threading.Timer(0.1, cancelled.set)
    timer.start()
    started = time.monotonic()
    with deadline(60, cancelled.is_set) as limit, pytest.raises(av.error.FFmpegError):
        av.open(mute_server, timeout=pyav_timeout(60, 60))
    timer.join()
    assert time.monotonic() - started < 0.6
    assert limit.cancelled
    assert not limit.passed


def test_a_deadline_that_is_over_before_the_call_still_ends_it(mute_server: str) -> None:
    """A flag that was set before the call starts does not make the call run for ever."""
    started = time.monotonic()
    with deadline(60, lambda: True), pytest.raises(av.error.FFmpegError):
        av.open(mute_server, timeout=pyav_timeout(60, 60))
    assert time.monotonic() - started < 0.5


def test_deadlines_of_threads_do_not_touch_each_other(mute_server: str) -> None:
    """A cancelled thread ends, while its neighbour's open goes on to its own deadline."""
    took: dict[str, float] = {}

    def attempt(name: str, seconds: float, *, cancelled: bool) -> None:
        started = time.monotonic()
        with deadline(seconds, lambda: cancelled), pytest.raises(av.error.FFmpegError):
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


def test_deadlines_nest_and_extend() -> None:
    """The outer deadline is back in force after an inner one, and can be put off."""
    with deadline(0.0, never) as outer:
        leaped = av.container.core.time.monotonic() - time.monotonic()
        with deadline(60, never) as inner:
            assert not inner.over
            assert av.container.core.time.monotonic() - time.monotonic() < 1
        outer.extend(60)
        assert not outer.over
        assert av.container.core.time.monotonic() - time.monotonic() < 1
    assert leaped > 1e8
