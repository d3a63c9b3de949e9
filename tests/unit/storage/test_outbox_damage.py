"""The durable outbox under a program at work: damaged, deleted, replaced; and files that are not outboxes at all."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import sqlite3
import stat
import threading
import time
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from sentinel_pipeline.application.ports import Batch
from sentinel_pipeline.domain.errors import OutboxError
from sentinel_pipeline.infrastructure.storage import group_commit, outbox_file, rescue
from sentinel_pipeline.infrastructure.storage.outbox import SqliteOutbox
from sentinel_pipeline.infrastructure.storage.outbox_reader import OutboxReader
from sentinel_pipeline.infrastructure.storage.place import ensure_place
from sentinel_pipeline.infrastructure.storage.rescue import Replacement
from sentinel_pipeline.infrastructure.storage.schema import connect, damage
from support import outboxes
from support.outboxes import numbers, take_all

events = partial(outboxes.events, padding=500)

PARTS = ("", "-wal", "-shm")


def spoil(path: Path, start: int, end: int | None = None) -> None:
    """Write garbage into the file; never closed through Python's own descriptor, which would drop SQLite's locks."""
    descriptor = os.open(path, os.O_RDWR)
    _KEPT.append(descriptor)
    end = os.fstat(descriptor).st_size if end is None else end
    os.pwrite(descriptor, b"\xa5" * max(0, end - start), start)


_KEPT: list[int] = []


@pytest.fixture(autouse=True)
def _close_descriptors() -> object:
    yield
    while _KEPT:
        os.close(_KEPT.pop())


def checkpoint(outbox: SqliteOutbox) -> None:
    """Bring what is in the log into the file."""

    with closing(connect(outbox.path)) as other:
        other.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def aside(path: Path) -> list[Path]:
    return sorted(
        part for part in path.parent.glob(f"{path.name}.corrupt-*") if not part.name.endswith(("-wal", "-shm"))
    )


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "var" / "outbox.db"


def test_outbox_damaged_in_use_is_replaced_and_the_event_is_stored(path: Path) -> None:
    """File and log become garbage under the writer: the call that finds out succeeds, in a new file, and is told."""
    heard: list[Replacement] = []
    with capture_logs() as logs, SqliteOutbox(path) as outbox:
        outbox.on_replaced(heard.append)
        outbox.register(["vms"])
        outbox.append(events(50))
        checkpoint(outbox)
        outbox.append(events(50, start=50))
        spoil(path, 0)
        spoil(Path(f"{path}-wal"), 32)
        outbox.append(events(1, start=100))
        assert take_all(outbox)[-1] == 100
        outbox.append(events(1, start=101))
        assert take_all(outbox) == [101]
        assert outbox.trouble == ""
        assert outbox.replaced == 1
        with pytest.raises(OutboxError, match="in use by process"):
            SqliteOutbox(path).open()
    (kept,) = aside(path)
    assert path.stat().st_mode == kept.stat().st_mode
    assert [one.aside for one in heard] == [kept]
    (said,) = [line for line in logs if line["log_level"] == "error"]
    assert said["aside"] == str(kept)
    assert ".recover" in said["remedy"]
    with SqliteOutbox(path) as outbox:
        assert outbox.backlog("vms").pending == 0


def test_outbox_damaged_in_use_saves_what_can_be_read(path: Path) -> None:
    """A few pages are garbage: all other events, places of sinks and dead letters go on, in order, ids unchanged."""
    with SqliteOutbox(path) as outbox:
        outbox.register(["vms", "other"])
        outbox.append(events(400))
        first = outbox.next_batch("vms", 10)
        assert first is not None
        outbox.ack(first)
        refused = outbox.next_batch("vms", 1)
        assert refused is not None
        outbox.park(refused, "no")
        ids = {event.seq: event.body for event in OutboxReader(path).list(1000)}
        checkpoint(outbox)
        size = path.stat().st_size // 4096
        spoil(path, size // 2 * 4096, (size // 2 + 3) * 4096)
        taken: list[int] = []
        for sink in ("other", "vms"):
            taken = take_all(outbox, sink)
            assert taken == sorted(set(taken))
            assert 400 - 11 - 60 < len(taken) < (400 if sink == "other" else 389)
        assert taken[0] == 11
        assert taken[-1] == 399
        assert outbox.backlog("vms").dead == 1
        assert outbox.replaced == 1
        kept = OutboxReader(path).list(1000)
        assert all(ids[event.seq] == event.body for event in kept)
        outbox.append(events(2, start=400))
        assert take_all(outbox) == [400, 401]


def test_outbox_damaged_in_use_is_found_by_a_reader(path: Path) -> None:
    """A damaged page that only a reading call meets has the file replaced as well, once for all who meet it."""
    with SqliteOutbox(path) as outbox:
        outbox.register(["vms"])
        outbox.append(events(200))
        checkpoint(outbox)
        spoil(path, 4096)
        threads = [threading.Thread(target=lambda: outbox.backlog("vms")) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(10)
        assert outbox.backlog("vms").pending == 0
        assert outbox.replaced == 1
        assert len(aside(path)) == 1


def test_outbox_damaged_in_use_keeps_a_batch_under_way_from_hiding_new_events(path: Path) -> None:
    """Numbers go on behind those that were handed out: the late ack of an old batch passes nothing that is new."""
    with SqliteOutbox(path) as outbox:
        outbox.register(["vms"])
        outbox.append(events(100))
        under_way = outbox.next_batch("vms", 100)
        assert under_way is not None
        spoil(path, 0)
        spoil(Path(f"{path}-wal"), 0)
        outbox.append(events(5, start=100))
        outbox.ack(under_way)
        assert take_all(outbox)[-5:] == [100, 101, 102, 103, 104]


def test_outbox_damaged_in_use_is_found_while_tidying(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also retention, in a program with nothing to store, has a damaged file replaced."""
    monkeypatch.setattr(group_commit, "IDLE_TICK_S", 0.05)
    monkeypatch.setattr(group_commit, "TICK_S", 0.05)
    with SqliteOutbox(path) as outbox:
        outbox.register([])
        outbox.append(events(100))
        checkpoint(outbox)
        spoil(path, 0)
        deadline = time.monotonic() + 5
        while outbox.replaced == 0 and time.monotonic() < deadline:
            threading.Event().wait(0.02)
        assert outbox.replaced == 1


@pytest.mark.parametrize("what", ["", "-wal"], ids=["file", "log"])
def test_outbox_cut_short_in_use_counts_as_damage(path: Path, what: str) -> None:
    """A file or log that somebody truncates is repaired like any other damage, an I/O error to SQLite or not."""
    with SqliteOutbox(path) as outbox:
        outbox.register(["vms"])
        outbox.append(events(100))
        checkpoint(outbox)
        outbox.append(events(100, start=100))
        os.truncate(f"{path}{what}", 0)
        outbox.append(events(1, start=200))
        taken = take_all(outbox)
        assert taken[-1] == 200
        assert taken == sorted(set(taken))
        outbox.append(events(1, start=201))
        assert take_all(outbox) == [201]
        assert outbox.replaced == 1


def test_outbox_damaged_again_and_again_does_not_fill_the_disk(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a disk that garbles all it gets, files are set aside now and then only; meanwhile calls say what to check."""
    with SqliteOutbox(path) as outbox:
        outbox.register(["vms"])
        outbox.append(events(100))
        for again in ("is damaged", "is damaged again.*memory", "is damaged again"):
            with pytest.raises(OutboxError, match=again):
                outbox._write(_damaged)
        assert len(aside(path)) == 1
        monkeypatch.setattr(outbox_file, "AGAIN_S", 0.0)
        outbox._file._aside_from = 0.0
        outbox.append(events(1, start=100))
        assert take_all(outbox) == list(range(101))


def replace(outbox: SqliteOutbox) -> None:
    """Have the file replaced as damaged."""
    with pytest.raises(OutboxError, match="is damaged"):
        outbox._write(_damaged)
    assert outbox.replaced == 1


def test_outbox_numbers_go_on_when_nothing_can_be_read(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also then the late ack of a batch from the old file hides nothing of the new one."""
    monkeypatch.setattr(rescue, "_copy", lambda *_: [])
    with SqliteOutbox(path) as outbox:
        outbox.register(["vms"])
        outbox.append(events(100))
        under_way = outbox.next_batch("vms", 100)
        assert under_way is not None
        replace(outbox)
        outbox.append(events(5, start=100))
        outbox.ack(under_way)
        assert take_all(outbox) == [100, 101, 102, 103, 104]


def test_outbox_place_of_a_sink_that_makes_no_sense_hides_nothing(path: Path) -> None:
    """A place beyond all events, as garbage may say, does not keep new events from the sink."""
    with SqliteOutbox(path) as outbox:
        outbox.register(["vms"])
        outbox.append(events(3))
        outbox._write(lambda c: c.execute("UPDATE cursor SET acked_seq = 1000000000"))
        replace(outbox)
        outbox.append(events(1, start=3))
        assert take_all(outbox) == [3]


def test_outbox_replaced_gives_up_the_key_of_the_batch_under_way(path: Path) -> None:
    """A batch may have lost events to the damage: it comes under a new key."""
    with SqliteOutbox(path) as outbox:
        outbox.register(["vms"])
        outbox.append(events(10))
        before = outbox.next_batch("vms", 5)
        replace(outbox)
        after = outbox.next_batch("vms", 5)
        assert before is not None
        assert after is not None
        assert (after.bodies, after.first_seq) == (before.bodies, before.first_seq)
        assert after.key != before.key


def test_outbox_set_aside_is_left_as_it_was_found(path: Path) -> None:
    """The log is not copied into the damaged file when that is let go: whoever examines it has both as they were."""
    with SqliteOutbox(path) as outbox:
        outbox.register(["vms"])
        outbox.append(events(50))
        checkpoint(outbox)
        outbox.append(events(50, start=50))
        descriptor = os.open(path, os.O_RDONLY)
        _KEPT.append(descriptor)
        before = os.pread(descriptor, 10_000_000, 0)
        replace(outbox)
        (kept,) = aside(path)
        assert kept.read_bytes() == before
        assert Path(f"{kept}-wal").stat().st_size > 0


def test_outbox_log_cut_short_is_found_by_a_reader(path: Path) -> None:
    """A reader that finds the log too short has the file replaced, and what the writer still has in memory goes on."""
    with SqliteOutbox(path) as outbox:
        outbox.register(["vms"])
        outbox.append(events(100))
        os.truncate(f"{path}-wal", 0)
        assert outbox.backlog("vms").pending == 100
        assert outbox.replaced == 1


def _damaged(_: sqlite3.Connection) -> None:
    raise damage("as told")


def test_outbox_that_cannot_be_replaced_says_so_and_is_later(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While no new file can be made, calls fail with a reason; when it can, the next one is stored."""
    monkeypatch.setattr(outbox_file, "REST", 0.0)
    with SqliteOutbox(path) as outbox:
        outbox.register(["vms"])
        outbox.append(events(10))
        checkpoint(outbox)
        spoil(path, 0)
        with monkeypatch.context() as full:
            full.setattr(rescue, "_rebuilt", lambda path: path.parent / "nowhere" / "rebuilt")
            for _ in range(2):
                with pytest.raises(OutboxError) as caught:
                    outbox.append(events(1))
                assert caught.value.remedy
            assert outbox.trouble
        outbox.append(events(1, start=10))
        assert take_all(outbox) == [10]
        assert outbox.trouble == ""


def test_outbox_damaged_between_runs_saves_what_can_be_read(path: Path) -> None:
    """At the start too: events, places of sinks and dead letters of the readable part go on."""
    with SqliteOutbox(path) as outbox:
        outbox.register(["vms"])
        outbox.append(events(300))
        first = outbox.next_batch("vms", 20)
        assert first is not None
        outbox.ack(first)
    size = path.stat().st_size // 4096
    spoil(path, size // 2 * 4096, (size // 2 + 1) * 4096)
    with SqliteOutbox(path) as outbox:
        outbox.register(["vms"])
        taken = take_all(outbox)
        assert taken == sorted(set(taken))
        assert (taken[0], taken[-1]) == (20, 299)
        assert len(taken) > 250


def test_outbox_whose_places_of_sinks_are_lost_sends_again(path: Path) -> None:
    """Without the table of sinks nobody knows what was delivered: rather sent again than not at all."""
    with SqliteOutbox(path) as outbox:
        outbox.register(["vms"])
        outbox.append(events(20))
    with closing(sqlite3.connect(path)) as connection:
        page = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = 'cursor'").fetchone()[0]
    spoil(path, (page - 1) * 4096, page * 4096)
    with SqliteOutbox(path) as outbox:
        outbox.register(["vms"])
        outbox.append(events(1, start=20))
        assert take_all(outbox) == list(range(21))


@pytest.mark.parametrize("old", [None, b"half of it"], ids=["the old file is moved", "the old file is there"])
def test_outbox_finishes_a_replacement_that_was_cut_off(path: Path, old: bytes | None) -> None:
    """A program killed when the new file was whole, before it had its name, goes on with the new one."""
    with SqliteOutbox(path) as outbox:
        outbox.register(["vms"])
        outbox.append(events(3))
    path.rename(rescue._rebuilt(path))
    if old is not None:
        path.write_bytes(old)
    heard: list[Replacement] = []
    with SqliteOutbox(path) as outbox:
        outbox.on_replaced(heard.append)
        assert take_all(outbox) == [0, 1, 2]
    assert not rescue._rebuilt(path).exists()
    assert [part.read_bytes() for part in aside(path)] == ([] if old is None else [old])
    assert [(one.rescued, one.aside) for one in heard] == [(3, aside(path)[0] if old else None)]


@pytest.mark.parametrize("gone", [PARTS, ("",), ("-wal",), ("-shm",)], ids=["all", "file", "log", "index"])
def test_outbox_deleted_in_use_is_written_again(path: Path, gone: tuple[str, ...]) -> None:
    """Somebody deletes the file, or its log or index: nothing is lost, not even to a restart."""
    with SqliteOutbox(path):
        path.chmod(0o640)
    with capture_logs() as logs, SqliteOutbox(path) as outbox:
        outbox.register(["vms"])
        outbox.append(events(10))
        batch = outbox.next_batch("vms", 4)
        for suffix in (*gone, ".lock"):
            os.unlink(f"{path}{suffix}")
        outbox.append(events(1, start=10))
        with pytest.raises(OutboxError, match="in use by process"):
            SqliteOutbox(path).open()
        assert numbers(_stored_by_others(path)) == list(range(11))
        assert outbox.next_batch("vms", 4) == batch
        outbox.append(events(1, start=11))
        assert outbox.replaced == 1
        assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert [line["log_level"] for line in logs] == ["error"]
    assert sorted(part.name for part in path.parent.iterdir()) == ["outbox.db", "outbox.db.lock"]
    with SqliteOutbox(path) as outbox:
        assert take_all(outbox) == list(range(12))


def _stored_by_others(path: Path) -> Batch:
    """Return what another process would find, as ``kill -9`` would leave it."""
    bodies = tuple(event.body for event in reversed(OutboxReader(path).list(100)))
    return Batch("", "", 0, 0, bodies)


def test_outbox_deleted_in_use_accepts_nothing_until_it_is_back(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While it cannot be written again no event is accepted into a file without a name; then all are there."""
    monkeypatch.setattr(outbox_file, "REST", 0.0)
    with SqliteOutbox(path) as outbox:
        outbox.register(["vms"])
        outbox.append(events(5))
        path.unlink()
        with monkeypatch.context() as full:
            full.setattr(rescue, "_rebuilt", lambda path: path.parent / "nowhere" / "rebuilt")
            for _ in range(3):
                with pytest.raises(OutboxError, match="must be replaced and cannot"):
                    outbox.append(events(1, start=5))
        outbox.append(events(1, start=6))
        assert take_all(outbox) == [0, 1, 2, 3, 4, 6]
        assert numbers(_stored_by_others(path)) == [0, 1, 2, 3, 4, 6]


def test_outbox_deleted_with_its_directory_is_written_again(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The directory goes too: it is made again, the outbox keeps its owner, and an idle program notices as well."""
    monkeypatch.setattr(group_commit, "IDLE_TICK_S", 0.05)
    monkeypatch.setattr(group_commit, "TICK_S", 0.05)
    with SqliteOutbox(path) as outbox:
        outbox.register(["vms"])
        outbox.append(events(10))
        for part in path.parent.iterdir():
            part.unlink()
        path.parent.rmdir()
        deadline = time.monotonic() + 5
        while outbox.replaced == 0 and time.monotonic() < deadline:
            threading.Event().wait(0.02)
        assert numbers(_stored_by_others(path)) == list(range(10))
        with pytest.raises(OutboxError, match="in use by process"):
            SqliteOutbox(path).open()
        assert take_all(outbox) == list(range(10))


def test_outbox_lock_file_deleted_in_use_is_locked_anew(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody tidies away the lock file: a second program is still refused."""
    monkeypatch.setattr(group_commit, "IDLE_TICK_S", 0.05)
    monkeypatch.setattr(group_commit, "TICK_S", 0.05)
    lock = Path(f"{path}.lock")
    with SqliteOutbox(path):
        lock.unlink()
        deadline = time.monotonic() + 5
        while not lock.exists() and time.monotonic() < deadline:
            threading.Event().wait(0.02)
        with pytest.raises(OutboxError, match="in use by process"):
            SqliteOutbox(path).open()


def test_outbox_replaced_by_another_file_in_use_keeps_both(path: Path) -> None:
    """A file that somebody moves over the outbox is set aside; the program's own events go on."""
    with SqliteOutbox(path) as outbox:
        outbox.register(["vms"])
        outbox.append(events(3))
        backup = path.with_name("backup")
        backup.write_bytes(b"an older one")
        backup.rename(path)
        outbox.append(events(1, start=3))
        assert take_all(outbox) == [0, 1, 2, 3]
    (found,) = path.parent.glob("outbox.db.found-*Z")
    assert found.read_bytes() == b"an older one"


def test_outbox_has_one_owner_whatever_it_is_called(path: Path, tmp_path: Path) -> None:
    """A symbolic link to an outbox in use is refused too, and one whose program has ended works, log and all."""
    link = tmp_path / "link.db"
    link.symlink_to(path)
    with SqliteOutbox(path) as outbox:
        outbox.register(["vms"])
        outbox.append(events(3))
        with pytest.raises(OutboxError, match="in use by process"):
            SqliteOutbox(link).open()
        assert len(OutboxReader(link).list()) == 3
    with SqliteOutbox(link) as outbox:
        assert take_all(outbox) == [0, 1, 2]


def test_outbox_without_locks_says_so(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system that has no locks (some NFS) is named as that, not as another program."""

    def no_locks(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", no_locks)
    with pytest.raises(OutboxError, match=r"cannot be locked: No locks available .*local disk"):
        SqliteOutbox(path).open()


def test_outbox_damage_found_at_the_end_is_left_to_the_next_start(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program that is told to end while it replaces a file ends in time, and the next one carries everything over."""
    begun, go_on = threading.Event(), threading.Event()
    copy = rescue._copy

    def slowly(*arguments: Any) -> list[dict[str, Any]]:
        begun.set()
        go_on.wait(5)
        return copy(*arguments)

    with SqliteOutbox(path) as outbox:
        outbox.register(["vms"])
        outbox.append(events(300))
        checkpoint(outbox)
        size = path.stat().st_size // 4096
        spoil(path, size // 2 * 4096, (size // 2 + 1) * 4096)
        monkeypatch.setattr(rescue, "_copy", slowly)
        failed: list[str] = []

        def read() -> None:
            try:
                take_all(outbox)
            except OutboxError as exc:
                failed.append(str(exc))

        reader = threading.Thread(target=read)
        reader.start()
        assert begun.wait(5)
        closing_thread = threading.Thread(target=outbox.close)
        closing_thread.start()
        while not outbox._file._ending:
            threading.Event().wait(0.01)
        go_on.set()
        closing_thread.join(5)
        reader.join(5)
        assert failed
        assert not aside(path)
    monkeypatch.undo()
    with SqliteOutbox(path) as outbox:
        taken = take_all(outbox)
        assert (taken[-1], len(aside(path))) == (299, 1)


@pytest.mark.parametrize("content", [b"version: 1\n", b"\0\0\0\x20ftypisom" + bytes(4000)], ids=["yaml", "video"])
def test_outbox_path_that_names_a_file_of_another_kind_is_refused(tmp_path: Path, content: bytes) -> None:
    """A slip in ``outbox.path`` must not rename the user's file: it is refused with a remedy, and left as it was."""
    path = tmp_path / "precious"
    path.write_bytes(content)
    for attempt in (lambda: ensure_place(path), SqliteOutbox(path).open):
        with pytest.raises(OutboxError, match="file of another kind") as caught:
            attempt()
        assert "outbox path" in caught.value.remedy
    assert [part.name for part in tmp_path.iterdir()] == ["precious"]
    assert path.read_bytes() == content


def test_outbox_tells_its_own_damaged_file_from_anothers(path: Path) -> None:
    """Ours is what has our header, or no header and our lock beside it; a damaged database of others is theirs."""
    with SqliteOutbox(path) as outbox:
        outbox.register(["vms"])
        outbox.append(events(50))
    whole = path.read_bytes()
    headless = b"\xff" * 4096 + whole[4096:]
    lock = Path(f"{path}.lock")
    path.write_bytes(headless)
    ensure_place(path)
    lock.unlink()
    with pytest.raises(OutboxError, match="another kind"):
        ensure_place(path)
    path.write_bytes(whole[:100] + b"\xff" * 3996 + whole[4096:])
    ensure_place(path)
    theirs = whole[:68] + (1234).to_bytes(4, "big") + whole[72:100] + b"\xff" * 3996 + whole[4096:]
    path.write_bytes(theirs)
    lock.touch()
    with pytest.raises(OutboxError, match="another kind"):
        SqliteOutbox(path).open()
    assert path.read_bytes() == theirs


def test_outbox_bodies_of_garbage_hold_up_no_sink(path: Path) -> None:
    """A body that was overwritten inside a sound page is damage too: it is left behind, the others are delivered."""
    with SqliteOutbox(path) as outbox:
        outbox.register(["vms"])
        outbox.append(events(50))
        outbox._write(lambda c: c.execute("UPDATE event SET body = x'ff00' WHERE seq = 7"))
        outbox._write(lambda c: c.execute("UPDATE event SET body = ? WHERE seq = 8", (json.dumps([1]).encode(),)))
        assert take_all(outbox) == [n for n in range(50) if n not in (6, 7)]
        assert outbox.replaced == 1
