"""The durable outbox: limits, restarts, damage, ownership."""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from sentinel_pipeline.domain.errors import OutboxError, OutboxFull
from sentinel_pipeline.domain.events import Event
from sentinel_pipeline.infrastructure.storage import schema
from sentinel_pipeline.infrastructure.storage.outbox import MIN_SIZE, SqliteOutbox
from sentinel_pipeline.infrastructure.storage.outbox_reader import OutboxReader
from sentinel_pipeline.infrastructure.storage.retention import _used
from support.outboxes import events, numbers, take_all

DAY = 86400.0


def size_on_disk(path: Path) -> int:
    return sum(part.stat().st_size for part in path.parent.glob(f"{path.name}*"))


def fill(outbox: SqliteOutbox) -> int:
    """Append twenty events at a time until one call is refused; return how many were accepted."""
    for start in range(0, 20_000, 20):
        try:
            outbox.append(events(20, start=start))
        except OutboxFull:
            return start
    raise AssertionError("the outbox never became full")


def eventually(condition: Callable[[], bool], seconds: float = 5.0) -> bool:
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        threading.Event().wait(0.02)
    return condition()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "var" / "outbox.db"


def test_outbox_restart_resumes_the_batch_under_its_key(path: Path) -> None:
    """The batch under way before a restart comes first after it: same key, same events."""
    with SqliteOutbox(path) as outbox:
        outbox.register(["vms"])
        outbox.append(events(5))
        before = outbox.next_batch("vms", 3)
    with SqliteOutbox(path) as outbox:
        outbox.register(["vms"])
        outbox.append(events(1, start=5))
        assert outbox.next_batch("vms", 100) == before
        assert take_all(outbox, "vms") == [0, 1, 2, 3, 4, 5]


def test_outbox_clean_close_leaves_one_file(path: Path) -> None:
    """After ``close`` all is in the database file; closing again, and opening twice, does nothing."""
    outbox = SqliteOutbox(path)
    outbox.open()
    outbox.open()
    assert "open" in repr(outbox)
    outbox.close()
    outbox.close()
    assert sorted(part.name for part in path.parent.iterdir()) == ["outbox.db", "outbox.db.lock"]
    with pytest.raises(OutboxError, match="not open"):
        outbox.append(events(1))
    with pytest.raises(OutboxError, match="not open"):
        outbox.backlog("vms")
    assert "closed" in outbox.trouble


def test_outbox_drops_the_oldest_and_counts_them(path: Path) -> None:
    """At its bound the oldest go, per sink and in all counted exactly; the file stays within its size."""
    with capture_logs() as logs, SqliteOutbox(path, max_size=MIN_SIZE) as outbox:
        outbox.register(["slow", "quick"])
        for start in range(0, 3000, 60):
            outbox.append(events(60, start=start, padding=100))
            if start == 1200:
                take_all(outbox, "quick")
        assert path.stat().st_size <= MIN_SIZE
        assert size_on_disk(path) <= MIN_SIZE * 2.5
        dropped = outbox.backlog("slow").dropped
        left = take_all(outbox, "slow")
        assert left == list(range(dropped, 3000))
        assert outbox.dropped == dropped > 0
        assert 0 < outbox.backlog("quick").dropped < dropped
    assert sum(line["dropped"] for line in logs) == dropped
    assert logs[-1]["dropped_total"] == dropped


def test_outbox_delivered_history_goes_before_anything_pending(path: Path) -> None:
    """Events that every sink has are no loss: they make room, uncounted, as long as there are any."""
    with SqliteOutbox(path, max_size=MIN_SIZE) as outbox:
        outbox.register(["vms"])
        for start in range(0, 2000, 80):
            outbox.append(events(80, start=start, padding=100))
            take_all(outbox, "vms")
        assert outbox.dropped == 0
        assert outbox.backlog("vms").dropped == 0


def test_outbox_refuses_when_full_and_takes_again_after_delivery(path: Path) -> None:
    """With ``refuse`` nothing is dropped; delivery, and parking, work on the full file and make room."""
    with SqliteOutbox(path, max_size=MIN_SIZE, when_full="refuse") as outbox:
        outbox.register(["vms"])
        stored = fill(outbox)
        with pytest.raises(OutboxFull, match="or raise max_size"):
            outbox.append(events(20))
        assert outbox.backlog("vms").pending == stored
        first = outbox.next_batch("vms", 20)
        assert first is not None
        outbox.park(first, "no")
        assert take_all(outbox, "vms") == list(range(20, stored))
        outbox.append(events(20))
        assert outbox.dropped == 0


def test_outbox_gives_up_the_key_of_a_batch_that_lost_events(path: Path) -> None:
    """A key never stands for two different bodies: dropping events under way ends the batch."""
    with SqliteOutbox(path, max_size=MIN_SIZE) as outbox:
        outbox.register(["vms"])
        outbox.append(events(20, padding=100))
        lost = outbox.next_batch("vms", 10)
        for start in range(20, 2000, 60):
            outbox.append(events(60, start=start, padding=100))
        fresh = outbox.next_batch("vms", 10)
        assert lost is not None
        assert fresh is not None
        assert fresh.key != lost.key
        assert fresh.first_seq > lost.last_seq
        outbox.split(lost)
        outbox.ack(lost)
        assert outbox.next_batch("vms", 10) == fresh


def test_outbox_refuses_a_call_that_can_never_fit(path: Path) -> None:
    """One call larger than a quarter of the outbox is an error with a remedy, not a wiped outbox."""
    with SqliteOutbox(path, max_size=MIN_SIZE) as outbox:
        outbox.register(["vms"])
        outbox.append(events(1))
        with pytest.raises(OutboxError, match="do not fit"):
            outbox.append(events(1, padding=MIN_SIZE))
        assert outbox.backlog("vms").pending == 1
    with pytest.raises(ValueError, match="max_size"):
        SqliteOutbox(path, max_size=1)


def test_outbox_applies_a_lowered_limit_at_the_next_start(path: Path) -> None:
    """A smaller ``max_size`` drops, counted, down to the new bound without an append."""
    with SqliteOutbox(path, max_size=8 * MIN_SIZE) as outbox:
        outbox.register(["vms"])
        for start in range(0, 3000, 100):
            outbox.append(events(100, start=start, padding=100))
        assert outbox.dropped == 0
    with SqliteOutbox(path, max_size=MIN_SIZE) as outbox:
        assert eventually(lambda: outbox._read(_used) <= outbox._retention._usable_pages)
        left = take_all(outbox, "vms")
        assert left == list(range(3000 - len(left), 3000))
        assert len(left) > 400
        assert outbox.dropped == 3000 - len(left)


def test_outbox_keeps_the_newest_delivered_events_for_the_operator(path: Path) -> None:
    """After delivery the newest ``keep`` events can still be listed; without a sink the same holds."""
    for sinks in ([], ["vms"]):
        with SqliteOutbox(path, keep=7) as outbox:
            outbox.register(sinks)
            outbox.append(events(30))
            if sinks:
                take_all(outbox, "vms")
        with SqliteOutbox(path, keep=7):
            assert eventually(lambda: len(OutboxReader(path).list(100)) == 7)


def test_outbox_retired_sink_holds_events_for_an_hour_only(path: Path) -> None:
    """A sink left out of the configuration keeps its events for the grace period, and no longer."""
    now = time.time()
    with SqliteOutbox(path, keep=0) as outbox:
        outbox.register(["old"])
        outbox.append(events(3))
        outbox.register([])
    with SqliteOutbox(path, keep=0, clock=lambda: now + 1800):
        threading.Event().wait(0.1)
        assert len(OutboxReader(path).list()) == 3
    with SqliteOutbox(path, keep=0, clock=lambda: now + 3700):
        assert eventually(lambda: OutboxReader(path).list() == [])


def test_outbox_drops_what_is_older_than_max_age(path: Path) -> None:
    """Old events and old dead letters go at the next start, counted; younger ones stay."""
    now = time.time()
    with SqliteOutbox(path, clock=lambda: now - 9 * DAY) as outbox:
        outbox.register(["vms"])
        outbox.append(events(4))
        dead = outbox.next_batch("vms", 1)
        assert dead is not None
        outbox.park(dead, "no")
    with SqliteOutbox(path, clock=lambda: now - DAY) as outbox:
        assert eventually(lambda: outbox.backlog("vms").dropped == 3)
        assert outbox.backlog("vms").dead == 0
        assert outbox.snapshot()["dropped"] == 4
        outbox.append(events(2, start=4))
        assert take_all(outbox, "vms") == [4, 5]
    with SqliteOutbox(path, max_age=None, clock=lambda: now + 900 * DAY):
        threading.Event().wait(0.1)
        assert len(OutboxReader(path).list()) == 2


def test_outbox_clock_jump_does_not_expire_events_of_this_run(path: Path) -> None:
    """A device that starts in 1970 and is set right a minute later must not lose what it has just seen."""
    wall = [0.0]
    with SqliteOutbox(path, clock=lambda: wall[0]) as outbox:
        outbox.register(["vms"])
        outbox.append(events(3))
        wall[0] = time.time()
        outbox._write(outbox._retention.tidy)
        assert outbox.backlog("vms").pending == 3


@pytest.mark.parametrize("damage", ["header", "middle", "truncated", "text"])
def test_outbox_sets_a_damaged_file_aside(path: Path, damage: str) -> None:
    """A damaged file never stops the program: it is renamed, named in the log, and a new one works at once."""
    with SqliteOutbox(path) as outbox:
        outbox.register(["vms"])
        for start in range(0, 1000, 100):
            outbox.append(events(100, start=start, padding=200))
    content = path.read_bytes()
    broken = {
        "header": b"\xff" * 100 + content[100:],
        "middle": content[:4096] + os.urandom(len(content) - 8192) + content[-4096:],
        "truncated": content[: len(content) // 2 // 4096 * 4096 + 1000],
        "text": b"this is not a database, but it is long enough to look like one" * 100,
    }[damage]
    path.write_bytes(broken)
    with capture_logs() as logs, SqliteOutbox(path) as outbox:
        outbox.register(["vms"])
        outbox.append(events(2))
        assert take_all(outbox, "vms") == [0, 1]
    aside = [part for part in path.parent.iterdir() if part.name.startswith("outbox.db.corrupt-")]
    assert len(aside) == 1
    assert aside[0].read_bytes() == broken
    assert [line["aside"] for line in logs] == [str(aside[0])]


def test_outbox_leaves_other_programs_databases_alone(path: Path) -> None:
    """A path that names somebody else's SQLite file is refused, and the file is untouched."""
    path.parent.mkdir()
    other = sqlite3.connect(path)
    other.execute("CREATE TABLE theirs(x)")
    other.close()
    content = path.read_bytes()
    with pytest.raises(OutboxError, match="another program"):
        SqliteOutbox(path).open()
    assert path.read_bytes() == content


def test_outbox_refuses_a_file_of_a_newer_release(path: Path) -> None:
    """A downgrade says what to do instead of misreading the file."""
    with SqliteOutbox(path):
        pass
    newer = sqlite3.connect(path)
    newer.execute(f"PRAGMA user_version = {schema.VERSION + 1}")
    newer.close()
    with pytest.raises(OutboxError, match="newer release"):
        SqliteOutbox(path).open()
    with pytest.raises(OutboxError, match="schema"):
        OutboxReader(path).list()


def test_outbox_migrates_an_older_file_in_one_transaction(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A new schema version is reached with the data kept; a step that fails leaves the old version whole."""
    with SqliteOutbox(path) as outbox:
        outbox.register(["vms"])
        outbox.append(events(2))
    broken = (*schema.MIGRATIONS, ("ALTER TABLE event ADD COLUMN extra TEXT", "NO SUCH STATEMENT"))
    monkeypatch.setattr(schema, "MIGRATIONS", broken)
    monkeypatch.setattr(schema, "VERSION", len(broken))
    with pytest.raises(OutboxError, match="cannot be used"):
        SqliteOutbox(path).open()
    monkeypatch.setattr(schema, "MIGRATIONS", (*broken[:-1], broken[-1][:1]))
    with SqliteOutbox(path) as outbox:
        assert take_all(outbox, "vms") == [0, 1]
        columns = outbox._read(lambda connection: connection.execute("PRAGMA table_info(event)").fetchall())
        assert "extra" in [column[1] for column in columns]


def test_outbox_brings_the_first_releases_file_up_to_date(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file of version 0.1.0 goes on where it was, and can then remember a Retry-After."""
    with monkeypatch.context() as first_release:
        first_release.setattr(schema, "MIGRATIONS", schema.MIGRATIONS[:1])
        first_release.setattr(schema, "VERSION", 1)
        path.parent.mkdir()
        schema.open_database(path).close()
    old = sqlite3.connect(path)
    assert old.execute("PRAGMA user_version").fetchone() == (1,)
    old.execute("INSERT INTO cursor(sink, acked_seq) VALUES('vms', 0)")
    old.execute("INSERT INTO event(stored_at, body) VALUES(?, ?)", (time.time(), events(1)[0].encode()))
    old.commit()
    old.close()
    with SqliteOutbox(path) as outbox:
        assert outbox.deferred("vms") == 0.0
        outbox.defer("vms", 5.0)
        assert 4.0 < outbox.deferred("vms") <= 5.0
        assert take_all(outbox, "vms") == [0]


@pytest.mark.parametrize(
    ("moved", "left"),
    [(10.0, 20.0), (29.0, 1.0), (31.0, 0.0), (-3600.0, 30.0), (3600.0, 0.0)],
    ids=["later", "almost over", "over", "the clock was set back", "the clock was set ahead"],
)
def test_outbox_remembers_retry_after_across_a_restart(path: Path, moved: float, left: float) -> None:
    """The rest of the wait is known to the next life, and a wrong clock never makes it longer than was asked."""
    clock = [1_800_000_000.0]
    with SqliteOutbox(path, clock=lambda: clock[0]) as outbox:
        outbox.register(["vms", "other"])
        outbox.defer("vms", 30.0)
    clock[0] += moved
    with SqliteOutbox(path, clock=lambda: clock[0]) as outbox:
        outbox.register(["vms", "other"])
        assert outbox.deferred("vms") == pytest.approx(left)
        assert outbox.deferred("other") == 0.0


def test_outbox_has_one_owner(path: Path) -> None:
    """A second owner is refused at once, with the process that holds it; the first one goes on."""
    with SqliteOutbox(path) as outbox:
        with pytest.raises(OutboxError, match=rf"in use by process {os.getpid()}\b"):
            SqliteOutbox(path).open()
        outbox.register(["vms"])
        outbox.append(events(1))
        assert take_all(outbox, "vms") == [0]


@pytest.mark.parametrize("place", ["under-a-file", "a-directory"])
def test_outbox_names_the_remedy_for_an_impossible_path(tmp_path: Path, place: str) -> None:
    """A path that cannot be a file gives one sentence and a remedy."""
    (tmp_path / "file").write_text("")
    path = tmp_path / "file" / "outbox.db" if place == "under-a-file" else tmp_path
    with pytest.raises(OutboxError) as caught:
        SqliteOutbox(path).open()
    assert caught.value.remedy
    assert str(path) in str(caught.value)


def test_outbox_append_while_another_process_writes(path: Path) -> None:
    """While something else holds the file, ``append`` says so within its deadline; afterwards all works again."""
    with SqliteOutbox(path, deadline_s=0.2) as outbox:
        outbox.register(["vms"])
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        begun = time.monotonic()
        with pytest.raises(OutboxError, match="another process"):
            outbox.append(events(1))
        assert time.monotonic() - begun < 1.0
        assert "another process" in outbox.trouble
        other.execute("ROLLBACK")
        other.close()
        outbox.append(events(1, start=1))
        assert take_all(outbox, "vms") == [1]
        assert outbox.trouble == ""


def test_outbox_append_has_a_deadline(path: Path) -> None:
    """When the disk does not come back, ``append`` does; what had not begun by then is never stored."""
    stuck, begun = threading.Event(), threading.Event()
    with SqliteOutbox(path, deadline_s=0.1) as outbox:
        outbox.register(["vms"])

        def hang(connection: sqlite3.Connection) -> None:
            begun.set()
            stuck.wait(10)

        with pytest.raises(OutboxError, match="may still be stored"):
            outbox._write(hang)
        assert begun.is_set()
        with pytest.raises(OutboxError, match=r"did not answer within 0\.1 s \(check the disk\)"):
            outbox.append(events(1))
        stuck.set()
        assert eventually(lambda: _accepts(outbox, events(1, start=1)))
        assert set(take_all(outbox, "vms")) == {1}


def _accepts(outbox: SqliteOutbox, batch: list[Event]) -> bool:
    try:
        outbox.append(batch)
    except OutboxError:
        return False
    return True


def test_outbox_threads_share_commits(path: Path) -> None:
    """Eight threads that append one event at a time need far fewer commits than events."""
    commits: list[None] = []
    with SqliteOutbox(path) as outbox:
        outbox.on_append(lambda: commits.append(None))

        def work() -> None:
            for number in range(20):
                outbox.append(events(1, start=number))

        threads = [threading.Thread(target=work) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
        assert len(OutboxReader(path).list(1000)) == 160
    assert len(commits) < 80


def test_outbox_writer_survives_a_defect(path: Path) -> None:
    """An unforeseen exception inside the writer fails that call, not the outbox."""
    with SqliteOutbox(path) as outbox:
        with pytest.raises(OutboxError, match="AttributeError"):
            outbox._write(lambda connection: connection.no_such_thing)  # type: ignore[attr-defined]
        outbox.register(["vms"])
        outbox.append(events(1))
        assert take_all(outbox, "vms") == [0]


def test_outbox_bounds_a_batch_in_bytes(path: Path) -> None:
    """Large events do not make a batch of hundreds of megabytes: beyond the first, 4 MiB travel together."""
    with SqliteOutbox(path) as outbox:
        outbox.register(["vms"])
        for start in range(6):
            outbox.append(events(1, start=start, padding=1024 * 1024))
        batch = outbox.next_batch("vms", 100)
        assert numbers(batch) == [0, 1, 2]
        assert outbox.next_batch("vms", 100) == batch
