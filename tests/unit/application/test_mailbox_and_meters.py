"""Hand-overs and measures."""

from __future__ import annotations

from threading import Thread

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sentinel_pipeline.application.pipeline.mailbox import Mailbox
from sentinel_pipeline.application.stream.meters import Quantiles, RateMeter


@given(st.lists(st.integers(), max_size=50), st.integers(1, 5))
def test_mailbox_keeps_the_newest_and_counts_the_rest(items: list[int], size: int) -> None:
    """After any number of puts the newest ``size`` items are left, in order; everything else is counted."""
    box: Mailbox[int] = Mailbox(size)
    for item in items:
        box.put(item)
    kept = [box.get(0) for _ in range(min(size, len(items)))]
    assert kept == items[-size:][: len(kept)]
    assert box.dropped == max(0, len(items) - size)
    assert box.get(0) is None


def test_mailbox_latest_skips_to_the_newest() -> None:
    """``latest`` returns the newest item and counts those it passed over."""
    box: Mailbox[int] = Mailbox(3)
    for i in range(3):
        box.put(i)
    assert (box.latest(0), box.dropped, box.latest(0)) == (2, 2, None)


def test_mailbox_close_wakes_the_reader_and_refuses_more() -> None:
    """A reader that waits for ever is woken by ``close``; what comes later is dropped and counted."""
    box: Mailbox[int] = Mailbox(1)
    got: list[int | None] = []
    reader = Thread(target=lambda: got.append(box.get()))
    reader.start()
    box.close()
    reader.join(5)
    box.put(1)
    assert (got, box.closed, box.dropped) == ([None], True, 1)


def test_mailbox_hands_over_between_threads() -> None:
    """A reader gets everything in order when it keeps up."""
    box: Mailbox[int] = Mailbox(1000)
    got: list[int | None] = []
    reader = Thread(target=lambda: got.extend(box.get(5) for _ in range(1000)))
    reader.start()
    for i in range(1000):
        box.put(i)
    reader.join(5)
    assert got == list(range(1000))


def test_mailbox_must_hold_something() -> None:
    """A mailbox of no size is a mistake."""
    with pytest.raises(ValueError, match="at least one"):
        Mailbox(0)


@pytest.mark.parametrize("fps", [1, 5, 10, 25, 60])
def test_meters_rate_of_a_steady_source(fps: int) -> None:
    """A steady source reads its rate, also between two of its events."""
    meter = RateMeter(window=5)
    for i in range(fps * 20):
        meter.tick(i / fps)
    assert meter.rate((fps * 20 - 0.5) / fps) == pytest.approx(fps, rel=0.01)
    assert meter.total == fps * 20


def test_meters_rate_sinks_to_zero() -> None:
    """A source that stops reads less and less, then 0."""
    meter = RateMeter(window=5)
    for i in range(50):
        meter.tick(i / 10)
    rates = [meter.rate(5 + t) for t in range(7)]
    assert rates == sorted(rates, reverse=True)
    assert rates[-1] == 0


def test_meters_quantiles() -> None:
    """Quantiles of 1..100, and zeros of nothing."""
    quantiles = Quantiles()
    assert quantiles.snapshot() == {"p50": 0, "p95": 0, "p99": 0}
    for value in range(1, 101):
        quantiles.add(value)
    assert quantiles.snapshot() == {"p50": 50.5, "p95": 95.05, "p99": 99.01}
