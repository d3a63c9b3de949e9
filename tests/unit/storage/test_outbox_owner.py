"""The durable outbox when its place is contested: files and locks deleted, a second program, repairs that fail."""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from sentinel_pipeline.domain.errors import OutboxError
from sentinel_pipeline.infrastructure.storage import group_commit, outbox_file, rescue
from sentinel_pipeline.infrastructure.storage.outbox import SqliteOutbox
from sentinel_pipeline.infrastructure.storage.outbox_reader import OutboxReader
from sentinel_pipeline.infrastructure.storage.rescue import Replacement
from sentinel_pipeline.infrastructure.storage.schema import damage
from support.outboxes import events, numbers, take_all


def delete(path: Path, *suffixes: str) -> None:
    for suffix in suffixes or ("", "-wal", "-shm"):
        os.unlink(f"{path}{suffix}")


def eventually(condition: Callable[[], bool], seconds: float = 5.0) -> bool:
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        threading.Event().wait(0.02)
    return condition()


def _damaged(_: sqlite3.Connection) -> None:
    raise damage("as told")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "var" / "outbox.db"


@pytest.fixture
def _rare_ticks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(group_commit, "IDLE_TICK_S", 0.05)
    monkeypatch.setattr(group_commit, "TICK_S", 60.0)


@pytest.mark.usefixtures("_rare_ticks")
def test_outbox_whose_place_another_program_has_taken_leaves_that_one_alone(path: Path) -> None:
    """The directory is emptied, a second program started: the first stores nothing more, the second loses nothing."""
    first, second = SqliteOutbox(path), SqliteOutbox(path)
    with first:
        first.register(["vms"])
        first.append(events(3))
        delete(path, "", "-wal", "-shm", ".lock")
        with second:
            second.register(["vms"])
            for number in range(5):
                with pytest.raises(OutboxError, match="in use by process"):
                    first.append(events(1))
                second.append(events(1, start=100 + number))
            assert "in use by process" in first.trouble
            with capture_logs() as logs:
                first.close()
            assert [line["event"] for line in logs] == ["the outbox was deleted, and what was pending is lost"]
            second.append(events(1, start=105))
            assert second.replaced == 0
            assert numbers(second.next_batch("vms", 100)) == list(range(100, 106))
    assert sorted(part.name for part in path.parent.iterdir()) == ["outbox.db", "outbox.db.lock"]


@pytest.mark.usefixtures("_rare_ticks")
def test_outbox_whose_lock_another_program_has_taken_has_one_owner(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the lock file is deleted: the one that has lost it says so and refuses, until the other has ended."""
    with SqliteOutbox(path) as first:
        first.register(["vms"])
        first.append(events(3))
        delete(path, ".lock")
        with SqliteOutbox(path) as second:
            monkeypatch.setattr(group_commit, "TICK_S", 0.05)
            assert first._writer is not None
            first._writer._tick_at = 0.0
            assert eventually(lambda: "in use by process" in first.trouble)
            with pytest.raises(OutboxError, match="in use by process"):
                first.append(events(1))
            with pytest.raises(OutboxError, match="in use by process"):
                first.next_batch("vms", 10)
            second.append(events(1, start=3))
            assert take_all(second) == [0, 1, 2, 3]
        assert eventually(lambda: first.trouble == "")
        first.append(events(1, start=4))
        assert take_all(first) == [4]


def test_outbox_parks_in_a_transaction_that_is_done_again(path: Path) -> None:
    """The file is found damaged in the very transaction that parks a batch: its events are dead letters, not gone."""
    with SqliteOutbox(path) as outbox:
        outbox.register(["vms"])
        outbox.append(events(3))
        batch = outbox.next_batch("vms", 10)
        assert batch is not None
        go_on = threading.Event()
        jobs = [
            lambda: outbox._write(lambda _: go_on.wait(5)),
            lambda: outbox.park(batch, "no"),
            lambda: outbox._write(outbox._file.complain(1)),
        ]
        threads = [threading.Thread(target=job) for job in jobs]
        assert outbox._writer is not None
        for position, thread in enumerate(threads):
            thread.start()
            assert eventually(lambda position=position: outbox._writer._jobs.qsize() == position)
        go_on.set()
        for thread in threads:
            thread.join(5)
        assert outbox.replaced == 1
        assert (outbox.backlog("vms").pending, outbox.backlog("vms").dead) == (0, 3)


@pytest.mark.usefixtures("_rare_ticks")
def test_outbox_deleted_just_before_an_orderly_stop_is_written_again(path: Path) -> None:
    """What was pending when the files went is there at the next start, though nothing was stored in between."""
    with SqliteOutbox(path) as outbox:
        outbox.register(["vms"])
        outbox.append(events(5))
        delete(path)
    with SqliteOutbox(path) as outbox:
        assert take_all(outbox) == [0, 1, 2, 3, 4]


def spoil_places(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        page = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = 'cursor'").fetchone()[0]
    with path.open("r+b") as file:
        file.seek((page - 1) * 4096)
        file.write(b"\xa5" * 4096)


def test_outbox_whose_places_are_lost_sends_again_also_after_another_start(path: Path) -> None:
    """A program that is gone between replacing the file and naming its sinks leaves nothing unsent."""
    with SqliteOutbox(path) as outbox:
        outbox.register(["vms"])
        outbox.append(events(5))
    spoil_places(path)
    with SqliteOutbox(path) as outbox:
        assert outbox.replaced == 1
    with SqliteOutbox(path) as outbox:
        assert OutboxReader(path).sinks() == ()
        outbox.register([])
        outbox.register(["vms"])
        assert OutboxReader(path).sinks() == ("vms",)
        assert take_all(outbox) == [0, 1, 2, 3, 4]
        outbox.register(["vms", "new"])
        assert take_all(outbox, "new") == []


def test_outbox_without_sinks_keeps_old_events_from_the_first_one(path: Path) -> None:
    """Without a damage an empty table of sinks means that there were none: the first gets what comes from now on."""
    with SqliteOutbox(path) as outbox:
        outbox.register([])
        outbox.append(events(5))
    with SqliteOutbox(path) as outbox:
        outbox.register(["vms"])
        outbox.append(events(1, start=5))
        assert take_all(outbox) == [5]


def garble(path: Path, change: str) -> None:
    """Change the row of the sink as a flipped bit may, whatever the schema forbids."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        schema = connection.execute("SELECT sql FROM sqlite_master WHERE name = 'cursor'").fetchone()[0]
        for sql in (schema.replace("NOT NULL", ""), schema):
            connection.execute("PRAGMA writable_schema = ON")
            connection.execute("UPDATE sqlite_master SET sql = ? WHERE name = 'cursor'", (sql,))
            connection.execute("PRAGMA writable_schema = RESET")
            if sql != schema:
                connection.execute(f"UPDATE cursor SET {change}")  # noqa: S608


@pytest.mark.parametrize(
    "change",
    [
        "acked_seq = NULL",
        "acked_seq = 'x'",
        "dropped = NULL",
        "dropped = x'00'",
        "batch_key = CAST(x'ff' AS TEXT)",
        "batch_key = x'00'",
        "batch_last = 'x'",
        "not_before = 9e9, asked_s = NULL",
        "not_before = 'x', asked_s = 1",
    ],
)
def test_outbox_place_of_a_sink_that_is_garbled_keeps_nothing_from_it(path: Path, change: str) -> None:
    """A row about a sink with a value that cannot be: the program starts, and the sink gets its events."""
    with SqliteOutbox(path) as outbox:
        outbox.register(["vms"])
        outbox.append(events(5))
    garble(path, change)
    with SqliteOutbox(path) as outbox:
        outbox.register(["vms"])
        assert 0.0 <= outbox.deferred("vms") <= 1.0
        assert outbox.backlog("vms").pending == 5
        assert take_all(outbox) == [0, 1, 2, 3, 4]


def once(real: Callable[..., Any], error: Exception) -> Callable[..., Any]:
    """Return a function that fails the first time."""
    left = [error]

    def work(*arguments: Any, **named: Any) -> Any:
        if left:
            raise left.pop()
        return real(*arguments, **named)

    return work


def cannot_open() -> sqlite3.OperationalError:
    error = sqlite3.OperationalError("unable to open database file")
    error.sqlite_errorcode = sqlite3.SQLITE_CANTOPEN
    return error


@pytest.mark.parametrize("why", ["deleted", "damaged"])
def test_outbox_that_cannot_be_opened_once_replaced_is_opened_later(
    path: Path, monkeypatch: pytest.MonkeyPatch, why: str
) -> None:
    """The new file is in place and opening it fails: the next call opens it, and does not take it for damaged."""
    with SqliteOutbox(path) as outbox:
        outbox.register(["vms"])
        outbox.append(events(5))
        batch = outbox.next_batch("vms", 3)
        monkeypatch.setattr(outbox_file, "open_database", once(outbox_file.open_database, cannot_open()))
        if why == "deleted":
            delete(path)
        with pytest.raises(OutboxError, match="cannot be opened"):
            outbox.append(events(1, start=5)) if why == "deleted" else outbox._write(_damaged)
        outbox.append(events(1, start=6))
        assert outbox.replaced == 1
        assert (outbox.next_batch("vms", 3) == batch) is (why == "deleted")
        assert set(take_all(outbox)) - {5} == {0, 1, 2, 3, 4, 6}
    assert len(list(path.parent.glob("outbox.db.corrupt-*Z"))) == (why == "damaged")


def test_outbox_half_put_in_place_is_put_there_at_the_next_call(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The old file is set aside and the disk fails: what was carried over is not carried over anew, from nothing."""

    def half(path: Path, why: str) -> Path | None:
        path.rename(path.with_name(f"{path.name}.{why}-20261124Z"))
        raise OutboxError("the disk fails")

    with SqliteOutbox(path) as outbox:
        outbox.register(["vms"])
        outbox.append(events(5))
        with monkeypatch.context() as failing:
            failing.setattr(rescue, "_put_in_place", half)
            with pytest.raises(OutboxError, match="the disk fails"):
                outbox._write(_damaged)
        outbox.append(events(1, start=5))
        assert take_all(outbox) == [0, 1, 2, 3, 4, 5]
        assert outbox.replaced == 1


def test_outbox_that_cannot_be_written_again_is_not_copied_for_each_event(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the disk refuses, the calls fail with its reason, the file is copied now and then, events come once."""
    tries: list[int] = []

    def fail(*_: Any, **__: Any) -> Replacement:
        tries.append(1)
        threading.Event().wait(0.01)
        raise OutboxError("the disk under it is full")

    monkeypatch.setattr(outbox_file, "REST", 1e6)
    with SqliteOutbox(path) as outbox:
        outbox.register(["vms"])
        outbox.append(events(5))
        with monkeypatch.context() as failing:
            failing.setattr(outbox_file, "replace_lost", fail)
            delete(path)
            for _ in range(5):
                with pytest.raises(OutboxError, match="the disk under it is full"):
                    outbox.append(events(1, start=5))
        assert len(tries) == 1
        outbox._file._retry_from = 0.0
        outbox.append(events(1, start=5))
        assert take_all(outbox) == [0, 1, 2, 3, 4, 5]


def test_outbox_deleted_and_damaged_is_written_again_from_what_can_be_read(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is open under a deleted name is damaged as well: it is replaced like any damaged file."""
    with SqliteOutbox(path) as outbox:
        outbox.register(["vms"])
        outbox.append(events(5))
        monkeypatch.setattr(outbox_file, "replace_lost", once(outbox_file.replace_lost, damage("as told")))
        delete(path)
        outbox.append(events(1, start=5))
        assert take_all(outbox) == [0, 1, 2, 3, 4, 5]
        assert outbox.replaced == 1


def test_outbox_whose_place_is_taken_by_files_again_and_again_keeps_few_of_them(path: Path) -> None:
    """A program that puts its file over ours time after time does not fill the disk with what is set aside."""
    with SqliteOutbox(path) as outbox:
        outbox.register(["vms"])
        for again in (False, True):
            path.with_name("backup").write_bytes(b"an older one")
            path.with_name("backup").rename(path)
            if again:
                with pytest.raises(OutboxError, match="again within 30 s"):
                    outbox.append(events(1, start=1))
            else:
                outbox.append(events(1))
        assert len(list(path.parent.glob("outbox.db.found-*Z"))) == 1
    with SqliteOutbox(path) as outbox:
        assert take_all(outbox) == [0]


def test_outbox_tells_of_a_replacement_during_the_telling(path: Path) -> None:
    """A file that is replaced while one who asks is told of the earlier ones is told as well, once."""
    heard: list[str] = []
    with SqliteOutbox(path) as outbox:
        outbox._note_replaced(Replacement("first", None, 0))

        def hear(replacement: Replacement) -> None:
            heard.append(replacement.reason)
            if replacement.reason == "first":
                outbox._note_replaced(Replacement("second", None, 0))

        outbox.on_replaced(hear)
        assert heard == ["first", "second"]
