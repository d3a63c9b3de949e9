"""The durable outbox on a real file system that runs full."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from sentinel_pipeline.domain.errors import OutboxError
from sentinel_pipeline.domain.events import Event, EventStage
from sentinel_pipeline.infrastructure.storage.outbox import SqliteOutbox
from sentinel_pipeline.infrastructure.storage.outbox_reader import OutboxReader
from support.outboxes import take_all
from support.small_disk import fill, small_disk


def event(number: int) -> Event:
    return Event("X", EventStage.DETECTED, "gate", "rule", ts=float(number), details={"padding": "x" * 500})


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    with small_disk(tmp_path / "disk", "1M") as place:
        yield place


def append_until_refused(outbox: SqliteOutbox, start: int) -> tuple[int, OutboxError]:
    for number in range(start, start + 20_000):
        try:
            outbox.append([event(number)])
        except OutboxError as exc:
            return number, exc
    raise AssertionError("the disk never became full")


def test_outbox_full_disk_is_said_loudly_and_recovers_by_itself(disk: Path) -> None:
    """The disk fills up under too high a limit: an error with a remedy, no hang, and on with the next free space."""
    ballast = disk / "ballast"
    ballast.write_bytes(b"\0" * 300_000)
    with SqliteOutbox(disk / "outbox.db") as outbox:
        outbox.register(["vms"])
        accepted, error = append_until_refused(outbox, 0)
        assert accepted > 10
        assert "disk" in str(error)
        assert error.remedy
        assert outbox.trouble
        assert outbox.backlog("vms").pending == accepted
        with pytest.raises(OutboxError, match="disk"):
            outbox.append([event(accepted)])
        ballast.unlink()
        outbox.append([event(accepted)])
        assert outbox.trouble == ""
        assert take_all(outbox) == list(range(accepted + 1))


def test_outbox_goes_on_when_another_program_fills_the_disk(disk: Path) -> None:
    """A warm outbox at its own limit lives on inside its own files when nothing is left on the disk."""
    path = disk / "outbox.db"
    with SqliteOutbox(path, max_size=256 * 1024) as outbox:
        outbox.register(["vms"])
        for start in range(0, 1500, 5):
            outbox.append([event(start + offset) for offset in range(5)])
        dropped = outbox.backlog("vms").dropped
        assert dropped > 0
        fill(disk / "ballast")
        assert os.statvfs(disk).f_bavail == 0
        for start in range(1500, 2500, 5):
            outbox.append([event(start + offset) for offset in range(5)])
        left = take_all(outbox)
        assert left == list(range(2500 - len(left), 2500))
        assert outbox.backlog("vms").dropped == 2500 - len(left)


def test_outbox_cannot_start_on_a_full_disk_and_says_so(disk: Path) -> None:
    """No room for even an empty outbox is one sentence and a remedy; with room the same call works."""
    fill(disk / "ballast")
    outbox = SqliteOutbox(disk / "var" / "outbox.db")
    with pytest.raises(OutboxError) as caught:
        outbox.open()
    assert caught.value.remedy
    (disk / "ballast").unlink()
    with outbox:
        outbox.register(["vms"])
        outbox.append([event(1)])
        assert take_all(outbox) == [1]


def test_outbox_goes_on_in_the_room_that_delivery_made(disk: Path) -> None:
    """Freshly started, far from its own limit, on a disk that others filled: it lives on in the pages it has freed."""
    path = disk / "outbox.db"
    with SqliteOutbox(path) as outbox:
        outbox.register(["vms"])
        for start in range(0, 300, 50):
            outbox.append([event(start + offset) for offset in range(50)])
        assert take_all(outbox) == list(range(300))
    with SqliteOutbox(path, keep=0) as outbox:
        while OutboxReader(path).list(1):
            threading.Event().wait(0.02)
        fill(disk / "ballast")
        for number in range(300, 400):
            outbox.append([event(number)])
        assert take_all(outbox) == list(range(300, 400))
