"""The decisions of the dispatcher: when a batch is due, how long company is waited for, whose turn it is."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sentinel_pipeline.application.pipeline.turns import Callers, Gaps, Runs, batch_due, latest_start


@pytest.mark.parametrize(
    ("queue", "age", "callers", "expected"),
    [
        pytest.param(0, 0.0, 3, None, id="nothing queued"),
        pytest.param(1, 0.0, 1, 0.0, id="a single caller never waits"),
        pytest.param(1, 0.0, 3, 0.005, id="others may come"),
        pytest.param(2, 0.002, 3, 0.003, id="the rest of the wait"),
        pytest.param(3, 0.0, 3, 0.0, id="everybody has asked"),
        pytest.param(1, 0.006, 3, 0.0, id="waited long enough"),
        pytest.param(4, 0.0, 50, 0.0, id="full"),
        pytest.param(1, 0.0, 0, 0.0, id="nobody else known"),
    ],
)
def test_batch_due_table(queue: int, age: float, callers: int, expected: float | None) -> None:
    """A batch is due when it is full, when every caller has asked, or when the oldest has waited long enough."""
    due = batch_due(queue, age, callers, max_size=4, window=0.005)
    assert due == (None if expected is None else pytest.approx(expected))


@given(st.integers(1, 20), st.floats(0, 1), st.integers(0, 20), st.integers(1, 16), st.floats(0, 0.1))
def test_batch_due_never_waits_longer_than_asked(queue: int, age: float, callers: int, size: int, wait: float) -> None:
    """No request is ever held back beyond the window, and none at all when batches have one row."""
    due = batch_due(queue, age, callers, size, wait)
    assert due is not None
    assert 0 <= due <= max(0.0, wait - age)
    assert batch_due(queue, age, callers, 1, wait) == 0.0


@pytest.mark.parametrize(
    ("takes", "expected"),
    [
        pytest.param(0.0, 10.5, id="nothing known yet"),
        pytest.param(0.1, 10.4, id="early enough to be done"),
        pytest.param(0.3, 10.25, id="a slow model is asked all the same"),
        pytest.param(9.0, 10.25, id="also a very slow one"),
    ],
)
def test_a_request_must_begin_so_early_that_it_can_be_done(takes: float, expected: float) -> None:
    """What expires half a second after it was asked must begin before, but may wait for half of that in any case."""
    assert latest_start(10.5, 10.0, takes) == pytest.approx(expected)
    assert latest_start(float("inf"), 10.0, takes) == float("inf")
    assert latest_start(9.0, 10.0, takes) < 10.0, "too old already"


def test_how_long_requests_take_is_not_told_by_one_hiccup() -> None:
    """The longest of the last ones counts, without the single worst; old ones are forgotten."""
    runs = Runs(size=4)
    assert runs.usual() == 0.0
    taken = [(0.04, 0.0), (3.0, 0.04), (0.05, 0.05), (0.03, 0.05), (0.03, 0.05), (0.02, 0.03), (0.9, 0.03), (0.8, 0.8)]
    for seconds, usual in taken:
        runs.note(seconds)
        assert runs.usual() == usual


def gaps_of(*times: float) -> Gaps:
    gaps = Gaps()
    for time in times:
        gaps.note(time)
    return gaps


def in_step(cameras: int, spread: float, interval: float, rounds: int) -> Gaps:
    """``cameras`` that ask together, ``spread`` seconds apart, every ``interval`` seconds."""
    return gaps_of(*(turn * interval + camera * spread for turn in range(rounds) for camera in range(cameras)))


@pytest.mark.parametrize(
    ("gaps", "missing", "expected"),
    [
        pytest.param(Gaps(), 3, 0.005, id="nothing known yet: as configured"),
        pytest.param(gaps_of(1.0), 3, 0.005, id="one request tells no gap"),
        pytest.param(gaps_of(*(i * 0.0001 for i in range(10))), 7, 0.0014, id="a burst: briefly"),
        pytest.param(gaps_of(*(i * 0.002 for i in range(10))), 7, 0.005, id="a steady flow: as long as allowed"),
        pytest.param(gaps_of(*(i * 0.0125 for i in range(10))), 7, 0.0, id="nobody would come in time: not at all"),
        pytest.param(in_step(4, 0.0002, 0.2, 8), 3, 0.0012, id="cameras in step: the pause between does not count"),
        pytest.param(gaps_of(2.0, 1.0, 1.0), 3, 0.0, id="times that go back count as no gap"),
    ],
)
def test_the_window_follows_how_closely_requests_come(gaps: Gaps, missing: int, expected: float) -> None:
    """It is as long as the missing requests need to come, zero where they will not, never above ``max_wait``."""
    assert gaps.window(missing, 0.005) == pytest.approx(expected)


def test_the_window_forgets_how_it_was_long_ago() -> None:
    """After a change of rhythm, the last requests decide."""
    gaps = gaps_of(*(i * 0.1 for i in range(100)))
    assert gaps.window(4, 0.005) == 0.0
    for i in range(40):
        gaps.note(20.0 + i * 0.0005)
    assert gaps.window(4, 0.005) == pytest.approx(0.004)


@given(st.lists(st.floats(0, 100), max_size=50), st.integers(0, 300), st.floats(0, 1))
def test_the_window_is_never_longer_than_allowed(times: list[float], missing: int, max_wait: float) -> None:
    """Whatever came when, nobody is held back beyond ``max_wait``."""
    assert 0.0 <= gaps_of(*times).window(missing, max_wait) <= max_wait


def test_callers_forget_the_silent() -> None:
    """A stream that stopped asking is no longer waited for after the window, nor remembered."""
    callers = Callers(window=1.0)
    callers.note(1, 10.0)
    callers.serve(1)
    callers.note(2, 10.8)
    callers.note(2, 10.9)
    assert callers.count(11.0) == 2
    assert callers.turn(1) > callers.turn(2)
    assert callers.count(11.5) == 1
    assert callers.turn(1) == 0
    assert callers.count(20.0) == 0


@dataclass
class Camera:
    """Has a new picture every ``every`` batches, and withdraws one that has waited for ``budget`` batches."""

    every: int
    budget: int
    next_at: int = 0
    asked_at: int | None = None
    served: int = 0

    def look(self, batch: int) -> None:
        if self.asked_at is not None and batch - self.asked_at >= self.budget:
            self.asked_at = None  # too old; asks again as soon as the next picture is there
        if self.asked_at is None and self.next_at <= batch:
            self.asked_at, self.next_at = batch, batch + self.every


@given(st.lists(st.integers(1, 6), min_size=2, max_size=8), st.integers(1, 3), st.integers(0, 5))
def test_at_overload_everybody_is_served_alike(every: list[int], size: int, slack: int) -> None:
    """Callers of any rate that want more than there is get the same number of turns, to within a few at the start.

    Also when the queue is longer than the age budget, so that pictures grow too old in it and are replaced.
    """
    share = len(every) // size  # batches between two turns
    cameras = [Camera(pace := max(1, min(every_, share)), pace + slack) for every_ in every]
    callers = Callers()
    for batch in range(40 * len(every)):
        for camera in cameras:
            camera.look(batch)
        waiting = [number for number, camera in enumerate(cameras) if camera.asked_at is not None]
        for number in sorted(waiting, key=callers.turn)[:size]:
            callers.serve(number)
            cameras[number].asked_at = None
            cameras[number].served += 1
    served = [camera.served for camera in cameras]
    if share >= 2:  # else there is no overload
        assert max(served) - min(served) <= 2 + 0.2 * min(served), served
