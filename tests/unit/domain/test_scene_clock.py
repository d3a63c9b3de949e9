"""The clock that stands while nothing moves."""

from __future__ import annotations

from sentinel_pipeline.domain.sampling import SceneClock


def test_scene_clock_leaves_out_the_time_in_which_it_stood() -> None:
    """It follows stream time, stands from ``stop`` to ``start``, and goes on without the time between."""
    clock = SceneClock()
    clock.start(0.0)
    assert clock.at(5.0) == 5.0
    assert clock.stop(6.0)
    assert not clock.stop(7.0)
    assert (clock.at(5.5), clock.at(6.0), clock.at(100.0)) == (5.5, 6.0, 6.0)
    clock.start(106.0)
    clock.start(107.0)
    assert clock.at(108.0) == 8.0
    assert clock.stop(110.0)
    assert clock.at(200.0) == 10.0
