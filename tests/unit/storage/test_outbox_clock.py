"""The ages of stored events when the clock was wrong: what may be young is not dropped as old."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from sentinel_pipeline.domain.errors import OutboxError
from sentinel_pipeline.domain.events import Event, EventStage
from sentinel_pipeline.infrastructure.storage.outbox import SqliteOutbox

DAY = 86400.0
YEARS = 7 * 365 * DAY


class Run:
    """One life of the program, with a clock that can be set."""

    def __init__(self, outbox: SqliteOutbox, clock: list[float]) -> None:
        self.outbox, self._clock = outbox, clock

    def at(self, moment: float) -> int:
        """Set the clock, tidy, and return how many events wait."""
        self._clock[0] = moment
        self.outbox._write(self.outbox._retention.tidy)
        return self.outbox.backlog("vms").pending

    def store(self, count: int) -> None:
        self.outbox.append([Event("X", EventStage.DETECTED, "gate", "rule", ts=float(n)) for n in range(count)])


@contextmanager
def run(path: Path, moment: float) -> Iterator[Run]:
    clock = [moment]
    with SqliteOutbox(path, max_age=7 * DAY, clock=lambda: clock[0]) as outbox:
        outbox.register(["vms"])
        yield Run(outbox, clock)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "outbox.db"


@pytest.fixture
def now() -> float:
    return time.time()


def test_outbox_events_of_an_earlier_run_in_2019_are_not_old(path: Path, now: float) -> None:
    """A board without a battery stores, is switched off and learns the time: the age begins when it is known."""
    for _ in range(2):
        with run(path, now - YEARS) as earlier:
            earlier.store(3)
    with run(path, now - YEARS + 60) as later:
        assert later.at(now - YEARS + 120) == 6
        assert later.at(now) == 6
        assert later.outbox.backlog("vms").oldest_s < 60
    with run(path, now + 6 * DAY) as again:
        assert again.at(now + 6 * DAY) == 6
        assert again.at(now + 8 * DAY) == 0
        assert again.outbox.dropped == 6


def test_outbox_clock_that_was_weeks_behind_makes_nothing_old(path: Path, now: float) -> None:
    """A clock that stood still while the board was off is set: events stored before are as old as they are."""
    with run(path, now - 30 * DAY) as first:
        first.store(3)
        assert first.at(now) == 3
    with run(path, now + DAY) as second:
        assert second.at(now + DAY) == 3
        assert second.at(now + 8 * DAY) == 0


def test_outbox_clock_is_noticed_also_when_the_disk_then_fails(path: Path, now: float) -> None:
    """Tidying that fails after a clock was set loses nothing of the correction."""
    with run(path, now - 30 * DAY) as first, pytest.MonkeyPatch.context() as failing:
        first.store(3)

        def fail(_: sqlite3.Connection) -> bool:
            raise sqlite3.OperationalError("the disk fails")

        failing.setattr(first.outbox._retention, "_expire", fail)
        with pytest.raises(OutboxError, match="the disk fails"):
            first.at(now)
    with run(path, now + DAY) as second:
        assert second.at(now + DAY) == 3


def test_outbox_clock_that_was_years_ahead_makes_nothing_immortal(path: Path, now: float) -> None:
    """Events dated in the future are dropped in time, and do not keep those behind them from it."""
    with run(path, now + YEARS) as wrong:
        wrong.store(3)
    with run(path, now) as right:
        right.store(2)
    with run(path, now + 6 * DAY) as later:
        assert later.at(now + 6 * DAY) == 5
    with run(path, now + 8 * DAY) as later:
        assert later.at(now + 8 * DAY) == 0


def test_outbox_clock_that_is_not_set_yet_spoils_no_dates(path: Path, now: float) -> None:
    """A start in 1970 leaves true dates alone: the events are dropped when they are truly old, not later."""
    with run(path, now) as first:
        first.store(3)
    with run(path, 100.0) as unset:
        assert unset.at(200.0) == 3
        assert unset.at(now + 6 * DAY) == 3
        assert unset.at(now + 8 * DAY) == 0


def test_outbox_clock_that_jumps_back_and_forth_drops_nothing(path: Path, now: float) -> None:
    """To 2019, to 2036 and back, again and again: everything young stays."""
    with run(path, now) as one:
        for moment in (now - YEARS, now, now + 3600, now + 10 * YEARS, now, now - DAY, now):
            one.store(1)
            one.at(moment)
        assert one.at(now + 60) == 7


def test_outbox_dead_letters_survive_a_clock_that_is_set(path: Path, now: float) -> None:
    """What was parked in 2019 is still there for the operator when the clock is right."""
    with run(path, now - YEARS) as one:
        one.store(1)
        batch = one.outbox.next_batch("vms", 1)
        assert batch is not None
        one.outbox.park(batch, "no")
        one.at(now)
        assert one.outbox.backlog("vms").dead == 1
        one.at(now + 8 * DAY)
        assert one.outbox.backlog("vms").dead == 0


@pytest.mark.parametrize("jump", [3600.0, -3600.0], ids=["ahead", "back"])
def test_outbox_clock_that_is_set_leaves_retry_after_as_long_as_it_was(path: Path, now: float, jump: float) -> None:
    """A receiver that wants to be left alone is, also when the clock is set meanwhile and the program starts again."""
    with run(path, now) as first:
        first.outbox.defer("vms", 600.0)
        first.at(now + jump)
        assert 590 < first.outbox.deferred("vms") <= 600
    with run(path, now + jump + 60) as second:
        assert 530 < second.outbox.deferred("vms") <= 540
