"""Whose pictures a model fails on: who runs alone, who is left out and for how long."""

from __future__ import annotations

import pytest

from sentinel_pipeline.application.pipeline.suspects import FRESH_S, STEADY_S, Suspects


def stall(suspects: Suspects, now: float) -> float:
    """Let caller 1 stall alone at ``now``; return how long it is left out."""
    assert suspects.asks(1, now)
    suspects.failed([1], "slow", now, stalled=True)
    waited = 0.0
    while not suspects.asks(1, now + waited):
        waited += 0.05
    return waited


def test_suspects_are_left_out_longer_each_time_they_stall() -> None:
    """1, 2, 4 … s less jitter, at most a minute; a picture that goes well in between does not start that over."""
    suspects, now, waits = Suspects(), 0.0, []
    for _ in range(9):
        waits.append(stall(suspects, now))
        now += waits[-1]
        suspects.well(1, now)
        now += 1.0
    for waited, full in zip(waits, [1, 2, 4, 8, 16, 32, 60, 60, 60], strict=True):
        assert 0.8 * full <= waited <= full + 0.05
    for second in range(int(STEADY_S)):
        suspects.well(1, now + second)
    assert stall(suspects, now + STEADY_S) <= 1.05


def test_suspects_of_a_shared_batch_are_only_kept_apart() -> None:
    """Who shared a batch that stalled may be innocent: it runs alone, is served, and is cleared by one success."""
    suspects = Suspects()
    suspects.failed([1, 2], "slow", 0.0, stalled=True)
    assert [suspects.alone(caller) for caller in (1, 2, 3)] == [True, True, False]
    assert suspects.asks(1, 0.1)
    suspects.well(1, 0.2)
    assert [suspects.alone(caller) for caller in (1, 2, 3)] == [False, True, False]


def test_suspects_that_ask_no_more_say_nothing_about_the_model() -> None:
    """The fault of a camera that went dark is forgotten after a while; a stall is told before a failure."""
    suspects = Suspects()
    assert suspects.fault(0.0) == ("", False)
    suspects.failed([1], "raised", 0.0, stalled=False)
    assert suspects.fault(1.0) == ("raised", False)
    suspects.failed([2], "slow", 2.0, stalled=True)
    assert suspects.fault(3.0) == ("slow", True)
    suspects.asks(1, 9.0)
    assert suspects.fault(2.0 + FRESH_S + 0.1) == ("raised", False)
    assert suspects.fault(9.0 + FRESH_S + 0.1) == ("", False)


@pytest.mark.parametrize("stalled", [True, False])
def test_suspects_that_raise_are_asked_again_at_once(*, stalled: bool) -> None:
    """Raising costs nobody time, so only a stall is answered by leaving out."""
    suspects = Suspects()
    suspects.failed([1], "x", 0.0, stalled=stalled)
    assert suspects.asks(1, 0.1) is not stalled
