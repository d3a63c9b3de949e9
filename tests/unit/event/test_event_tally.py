"""Counting without a log line per happening."""

from __future__ import annotations

from sentinel_pipeline.application.event.tally import Tally


def test_tally_reports_at_most_once_per_period_and_loses_no_count() -> None:
    """The first happening is said at once, those within the period together, the rest at the end."""
    now = [100.0]
    said: list[tuple[int, int]] = []
    tally = Tally(lambda news, total: said.append((news, total)), every=5.0, clock=lambda: now[0])
    tally.flush(now=True)
    tally.add(3)
    tally.add()
    now[0] = 104.9
    tally.add()
    assert said == [(3, 3)]
    now[0] = 105.0
    tally.add()
    assert said == [(3, 3), (3, 6)]
    tally.add(2)
    tally.flush()
    tally.flush(now=True)
    tally.flush(now=True)
    assert said == [(3, 3), (3, 6), (2, 8)]
    assert tally.total == 8
