"""Whose pictures a model fails on: who runs alone, who is left out and for how long."""

from __future__ import annotations

import gc

import pytest

from sentinel_pipeline.application.pipeline.suspects import FRESH_S, STEADY_S, Suspects


class Caller:
    """Stands for a camera's thread."""


ONE, TWO, THREE = Caller(), Caller(), Caller()


def stall(suspects: Suspects, now: float) -> float:
    """Let caller ONE stall alone at ``now``; return how long it is left out."""
    assert suspects.asks(ONE, now)
    suspects.failed([ONE], "slow", now, stalled=True)
    waited = 0.0
    while not suspects.asks(ONE, now + waited):
        waited += 0.05
    return waited


def test_suspects_are_left_out_longer_each_time_they_stall() -> None:
    """1, 2, 4 … s less jitter, at most a minute; a picture that goes well in between does not start that over."""
    suspects, now, waits = Suspects(), 0.0, []
    for _ in range(9):
        waits.append(stall(suspects, now))
        now += waits[-1]
        suspects.well(ONE, now)
        now += 1.0
    for waited, full in zip(waits, [1, 2, 4, 8, 16, 32, 60, 60, 60], strict=True):
        assert 0.8 * full <= waited <= full + 0.05
    for second in range(int(STEADY_S)):
        suspects.well(ONE, now + second)
    assert stall(suspects, now + STEADY_S) <= 1.05


def test_suspects_of_a_shared_batch_are_only_kept_apart() -> None:
    """Who shared a batch that stalled may be innocent: it runs alone, is served, and is cleared by one success."""
    suspects = Suspects()
    suspects.failed([ONE, TWO], "slow", 0.0, stalled=True)
    assert [suspects.alone(caller) for caller in (ONE, TWO, THREE)] == [True, True, False]
    assert suspects.asks(ONE, 0.1)
    suspects.well(ONE, 0.2)
    assert [suspects.alone(caller) for caller in (ONE, TWO, THREE)] == [False, True, False]


def test_suspects_that_ask_no_more_say_nothing_about_the_model() -> None:
    """The fault of a camera that went dark is forgotten after a while; a stall is told before a failure."""
    suspects = Suspects()
    assert suspects.fault(0.0) == ("", False)
    suspects.failed([ONE], "raised", 0.0, stalled=False)
    assert suspects.fault(1.0) == ("raised", False)
    suspects.failed([TWO], "slow", 2.0, stalled=True)
    assert suspects.fault(3.0) == ("slow", True)
    suspects.asks(ONE, 9.0)
    assert suspects.fault(2.0 + FRESH_S + 0.1) == ("raised", False)
    assert suspects.fault(9.0 + FRESH_S + 0.1) == ("", False)


@pytest.mark.parametrize("stalled", [True, False])
def test_suspects_that_raise_are_asked_again_at_once(*, stalled: bool) -> None:
    """Raising costs nobody time, so only a stall is answered by leaving out."""
    suspects = Suspects()
    suspects.failed([ONE], "x", 0.0, stalled=stalled)
    assert suspects.asks(ONE, 0.1) is not stalled


def test_suspects_are_forgotten_with_their_owner() -> None:
    """A camera that was taken out leaves neither a fault of the model behind nor memory."""
    suspects, gone = Suspects(), Caller()
    suspects.failed([gone], "slow", 0.0, stalled=True)
    assert suspects.fault(0.1) == ("slow", True)
    del gone
    gc.collect()
    assert suspects.fault(0.1) == ("", False)
