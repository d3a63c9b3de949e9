"""Stream time only moves forward."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sentinel_pipeline.domain.timeline import Timeline


def test_timeline_follows_timestamps_not_arrival() -> None:
    """A burst after a network hiccup keeps its own spacing."""
    timeline = Timeline()
    assert [round(timeline.stamp(pts, now), 3) for pts, now in ((5.0, 100), (5.04, 101), (5.08, 101))] == [
        0,
        0.04,
        0.08,
    ]


@pytest.mark.parametrize("jump", [-3.0, 3600.0, None], ids=["back", "far ahead", "missing"])
def test_timeline_replaces_a_jump_by_the_time_that_passed(jump: float | None) -> None:
    """A timestamp that cannot be true, or is missing, counts as the time since the frame before."""
    timeline = Timeline()
    timeline.stamp(50.0, 100.0)
    assert timeline.stamp(None if jump is None else 50.0 + jump, 100.5) == pytest.approx(0.5)
    assert timeline.jumps == (jump is not None)


def test_timeline_goes_on_after_a_jump() -> None:
    """After the clock was set the new timestamps are followed."""
    timeline = Timeline()
    timeline.stamp(1000.0, 0.0)
    timeline.stamp(2.0, 0.04)
    assert timeline.stamp(2.1, 0.05) == pytest.approx(0.14)


def test_timeline_accepts_a_pause_that_really_happened() -> None:
    """Fifteen seconds between timestamps are no jump when fifteen seconds passed."""
    timeline = Timeline(max_jump=1.0)
    timeline.stamp(1.0, 0.0)
    assert timeline.stamp(16.0, 15.0) == pytest.approx(15.0)
    assert timeline.jumps == 0


def test_timeline_goes_on_across_a_reconnect() -> None:
    """A new connection with other timestamps continues after the time that the camera was away."""
    timeline = Timeline()
    timeline.stamp(90_000.0, 10.0)
    timeline.restart()
    assert timeline.stamp(3.0, 40.0) == pytest.approx(30.0)
    assert timeline.jumps == 0


@given(
    st.lists(
        st.tuples(st.none() | st.floats(-1e6, 1e6), st.floats(0, 100), st.booleans()),
        max_size=50,
    )
)
def test_timeline_never_decreases(steps: list[tuple[float | None, float, bool]]) -> None:
    """Whatever the camera sends, stream time never goes back and never runs away from real time by more than a jump."""
    timeline, now, last = Timeline(), 0.0, 0.0
    for frames, (pts, elapsed, reconnected) in enumerate(steps, start=1):
        now += elapsed
        if reconnected:
            timeline.restart()
        stamped = timeline.stamp(pts, now)
        assert last <= stamped <= now + 10.0 * frames
        last = stamped
