"""The operator's view: list, show, dead letters and replay, with and without a running program."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from sentinel_pipeline.domain.errors import OutboxError
from sentinel_pipeline.domain.events import Event, EventStage
from sentinel_pipeline.infrastructure.storage.outbox import SqliteOutbox
from sentinel_pipeline.infrastructure.storage.outbox_reader import OutboxReader
from sentinel_pipeline.infrastructure.storage.place import ensure_place

STAGES = [EventStage.DETECTED, EventStage.CONFIRMED, EventStage.CLEARED]
EVENTS = [
    Event(
        ("INTRUSION", "LINE_CROSSED")[number % 2],
        STAGES[number % 3],
        f"cam{number % 4}",
        "other" if number == 7 else "rule",
        ts=1000.0 + number,
    )
    for number in range(12)
]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "outbox.db"


@pytest.fixture
def outbox(path: Path) -> Iterator[SqliteOutbox]:
    """Twelve events; sink ``a`` has four and refused the next two, sink ``b`` has none."""
    with SqliteOutbox(path) as outbox:
        outbox.register(["a", "b"])
        outbox.append(EVENTS)
        first = outbox.next_batch("a", 4)
        assert first is not None
        outbox.ack(first)
        second = outbox.next_batch("a", 2)
        assert second is not None
        outbox.park(second, "HTTP 422")
        yield outbox


def ids(bodies: list[bytes]) -> list[int]:
    return [int(Event.from_wire(body).ts) - 1000 for body in bodies]


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ({}, list(range(11, -1, -1))),
        ({"limit": 3}, [11, 10, 9]),
        ({"stream": "cam1"}, [9, 5, 1]),
        ({"type": "LINE_CROSSED", "limit": 2}, [11, 9]),
        ({"stage": "CLEARED"}, [11, 8, 5, 2]),
        ({"type": "INTRUSION", "stage": "CONFIRMED"}, [10, 4]),
        ({"since": 1003.0, "until": 1005.0}, [5, 4, 3]),
        ({"stream": "nobody"}, []),
        ({"module": "other"}, [7]),
        ({"module": "rule", "newest": 5}, [11, 10, 9, 8]),
        ({"newest": 3}, [11, 10, 9]),
    ],
    ids=str,
)
def test_reader_lists_newest_first_by_filter(
    outbox: SqliteOutbox, path: Path, filters: dict[str, object], expected: list[int]
) -> None:
    """Every filter narrows the list, newest first, while the program runs."""
    found = OutboxReader(path).list(**filters)  # type: ignore[arg-type]
    assert ids([event.body for event in found]) == expected


def test_reader_pages_by_sequence(outbox: SqliteOutbox, path: Path) -> None:
    """The last ``seq`` of a page leads to the next page, without a gap or a repetition."""
    reader = OutboxReader(path)
    pages, before = [], None
    while page := reader.list(5, before=before):
        pages.append(ids([event.body for event in page]))
        before = page[-1].seq
    assert pages == [[11, 10, 9, 8, 7], [6, 5, 4, 3, 2], [1, 0]]


def test_reader_tells_who_still_waits(outbox: SqliteOutbox, path: Path) -> None:
    """``pending_for`` names the sinks that have not passed an event; delivered and parked ones are passed."""
    by_number = {ids([event.body])[0]: event.pending_for for event in OutboxReader(path).list()}
    assert by_number[0] == ("b",)
    assert by_number[5] == ("b",)
    assert by_number[6] == ("a", "b")
    assert OutboxReader(path).sinks() == ("a", "b")


def test_reader_shows_one_event_after_the_program_has_ended(outbox: SqliteOutbox, path: Path) -> None:
    """``show`` returns the stored bytes, also when nothing runs."""
    outbox.close()
    shown = OutboxReader(path).show(EVENTS[3].event_id)
    assert shown.body == EVENTS[3].encode()
    assert shown.stored_at > 0
    with pytest.raises(OutboxError, match="no event 0000"):
        OutboxReader(path).show("0000")


def test_reader_lists_dead_letters_with_their_reason(outbox: SqliteOutbox, path: Path) -> None:
    """A dead letter tells which sink refused it and why."""
    dead = OutboxReader(path).dead()
    assert ids([letter.body for letter in dead]) == [5, 4]
    assert {(letter.sink, letter.reason) for letter in dead} == {("a", "HTTP 422")}
    assert OutboxReader(path).dead(sink="b") == []
    assert len(OutboxReader(path).dead(1)) == 1


def test_reader_replays_chosen_events_to_one_sink(outbox: SqliteOutbox, path: Path) -> None:
    """A replay reaches only its sink, behind what is pending, under the same event id, while the program runs."""
    reader = OutboxReader(path)
    assert reader.replay([EVENTS[1].event_id, EVENTS[4].event_id], sink="a") == 2
    assert reader.list(1)[0].pending_for == ("a",)
    assert reader.list(1)[0].replay_for == "a"
    batch = outbox.next_batch("a", 100)
    assert batch is not None
    assert ids(list(batch.bodies)) == [6, 7, 8, 9, 10, 11, 1, 4]
    other = outbox.next_batch("b", 100)
    assert other is not None
    assert ids(list(other.bodies)) == list(range(12))


def test_reader_replays_to_all_sinks(outbox: SqliteOutbox, path: Path) -> None:
    """Without a sink every registered one gets the event again."""
    OutboxReader(path).replay([EVENTS[0].event_id])
    assert OutboxReader(path).list(1)[0].pending_for == ("a", "b")


def test_reader_replays_dead_letters_to_the_sink_that_refused_them(outbox: SqliteOutbox, path: Path) -> None:
    """Dead letters go back to their own sink, in order, and leave the dead-letter table."""
    outbox.close()
    reader = OutboxReader(path)
    assert reader.replay_dead(sink="b") == 0
    assert reader.replay_dead() == 2
    assert reader.dead() == []
    with SqliteOutbox(path) as again:
        assert again.backlog("a").dead == 0
        batch = again.next_batch("a", 100)
        assert batch is not None
        assert ids(list(batch.bodies)) == [6, 7, 8, 9, 10, 11, 4, 5]


def test_reader_queues_nothing_when_one_thing_is_unknown(outbox: SqliteOutbox, path: Path) -> None:
    """A wrong id or sink is named, with the choice there is, and nothing was changed."""
    reader = OutboxReader(path)
    with pytest.raises(OutboxError, match="no event nope"):
        reader.replay([EVENTS[0].event_id, "nope"])
    with pytest.raises(OutboxError, match="name one of: a, b"):
        reader.replay([EVENTS[0].event_id], sink="c")
    with pytest.raises(OutboxError, match="no sink 'c'"):
        reader.replay_dead(sink="c")
    assert len(reader.list(100)) == 12


@pytest.mark.parametrize(
    "call",
    [
        pytest.param(lambda reader: reader.list(), id="list"),
        pytest.param(lambda reader: reader.replay_dead(), id="replay"),
    ],
)
def test_reader_says_when_there_is_no_outbox(path: Path, call: Callable[[OutboxReader], object]) -> None:
    """A missing file, a text file and another program's database give one sentence each; none is created or changed."""
    reader = OutboxReader(path)
    with pytest.raises(OutboxError, match="there is no outbox"):
        call(reader)
    assert not path.exists()
    path.write_text("hello " * 100)
    with pytest.raises(OutboxError, match="not an outbox"):
        call(reader)
    Path(f"{path}.lock").touch()  # it was one
    with pytest.raises(OutboxError, match="damaged"):
        call(reader)
    path.unlink()
    other = sqlite3.connect(path)
    other.execute("CREATE TABLE theirs(x)")
    other.close()
    with pytest.raises(OutboxError, match="not an outbox"):
        call(reader)


def test_reader_survives_ids_that_are_no_text(path: Path, outbox: SqliteOutbox) -> None:
    """A command line may carry bytes that are no UTF-8: nothing has that id, and nothing breaks."""
    reader = OutboxReader(path)
    with pytest.raises(OutboxError, match="has no event"):
        reader.show("\udcff")
    with pytest.raises(OutboxError, match="has no event"):
        reader.replay(["\udcff"])
    assert reader.list(5, stream="\udcff", type="\udcff", stage="\udcff") == []


def test_reader_needs_no_write_permission_while_nothing_runs(
    path: Path, outbox: SqliteOutbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a folder that cannot be written an outbox at rest can be listed, and no file appears beside it."""
    outbox.close()
    path.with_name("outbox.db-shm").unlink(missing_ok=True)
    path.with_name("outbox.db-wal").unlink(missing_ok=True)
    monkeypatch.setattr("os.access", lambda *_: False)
    assert len(OutboxReader(path).list(50)) == len(EVENTS)
    assert sorted(file.name for file in path.parent.iterdir()) == ["outbox.db", "outbox.db.lock"]


def test_place_of_another_programs_database_is_refused_before_the_start(tmp_path: Path, outbox: SqliteOutbox) -> None:
    """``sentinel check`` says what the start would say; an outbox of ours is no reason."""
    ensure_place(outbox.path)
    foreign = tmp_path / "foreign.db"
    with closing(sqlite3.connect(foreign)) as connection:
        connection.execute("CREATE TABLE theirs(x)")
    before = sorted(tmp_path.iterdir())
    with pytest.raises(OutboxError, match="another program"):
        ensure_place(foreign)
    assert sorted(tmp_path.iterdir()) == before
