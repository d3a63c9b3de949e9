"""Batches that fail although their pictures succeed alone: how large the next ones are, and what is told."""

from __future__ import annotations

from sentinel_pipeline.application.pipeline.room import AGAIN_MAX_S, REPEATS, STEADY_S, WITHIN_S, Room

MOST = 8


def crowded(*sizes: int, now: float = 0.0) -> Room:
    """A room in which batches of ``sizes`` have failed at ``now``."""
    room = Room(MOST)
    for size in sizes:
        room.failed(size, "no memory", now)
    return room


def wait_of(room: Room, now: float) -> float:
    """Return how long the size that failed is left alone from ``now``."""
    lowered, waited = room.limit(now), 0.0
    while room.limit(now + waited) == lowered:
        waited += 0.05
    return waited


def test_room_is_halved_only_when_batches_fail_again_and_again() -> None:
    """One hiccup changes nothing, nor do three in an hour; three within half a minute do, and are told."""
    assert crowded(8, 8).limit(0.0) == MOST
    seldom = Room(MOST)
    for turn in range(10):
        seldom.failed(8, "no memory", turn * WITHIN_S)
        seldom.well(8, turn * WITHIN_S + 1.0)
    assert (seldom.limit(300.0), seldom.trouble) == (MOST, "")
    room = crowded(8, 8, 8)
    assert room.limit(0.0) == 4
    assert room.trouble == "batches of 8 fail though each picture succeeds alone, so it runs 4 at a time: no memory"


def test_room_is_halved_also_when_batches_go_well_in_between() -> None:
    """Every second batch that fails is a cost as well."""
    room = Room(MOST)
    for now in range(REPEATS):
        room.well(4, now)
        room.failed(4, "no memory", now + 0.5)
    assert room.limit(REPEATS) == 2


def test_room_follows_the_smallest_batch_that_failed() -> None:
    """It never sinks below one picture, whatever fails."""
    assert crowded(8, 6, 8).limit(0.0) == 3
    room = crowded(8, 8, 8)
    assert [(room.failed(size, "no memory", 0.0), room.limit(0.0))[1] for size in (4, 3, 2)] == [2, 1, 1]
    assert "batches of 2 fail" in room.trouble


def test_room_is_tried_again_after_growing_waits() -> None:
    """1, 2, 4 ... s less jitter, at most a minute; meanwhile the words stay the same, though the driver's differ."""
    room, now, waits = crowded(8, 8, 8), 0.0, []
    words = room.trouble
    for turn in range(9):
        waits.append(wait_of(room, now))
        now += waits[-1]
        assert room.limit(now) == 8
        room.failed(8, f"{turn} bytes missing", now)
        assert (room.limit(now), room.trouble) == (4, words)
    for waited, full in zip(waits, [1, 2, 4, 8, 16, 32, 60, 60, 60], strict=True):
        assert 0.8 * full <= waited <= full + 0.05


def test_room_is_as_large_as_before_once_the_size_that_failed_goes_well() -> None:
    """Smaller batches prove nothing; after half a minute of full ones the waits start over."""
    room = crowded(8, 8, 8)
    room.well(4, 1.0)
    assert room.trouble
    room.well(8, 2.0)
    assert (room.limit(2.0), room.trouble) == (MOST, "")
    room.failed(8, "no memory", 3.0)
    assert room.limit(3.0) == MOST, "what was before the recovery does not count"
    for _ in range(REPEATS):
        room.failed(8, "no memory", 4.0)
    assert 1.5 < wait_of(room, 4.0) < AGAIN_MAX_S
    room.well(8, 10.0)
    for _ in range(REPEATS):
        room.failed(8, "no memory", 10.0 + STEADY_S)
    assert wait_of(room, 10.0 + STEADY_S) <= 1.05
