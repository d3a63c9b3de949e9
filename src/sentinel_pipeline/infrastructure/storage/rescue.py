"""An outbox that is damaged, or was deleted under its program, is replaced; what can be read of it goes on.

The new file is made under another name first, so that a crash leaves the old file, or both, or the new one.
"""

from __future__ import annotations

import os
import sqlite3
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson
import structlog

from sentinel_pipeline.domain.errors import OutboxError
from sentinel_pipeline.infrastructure.storage.schema import (
    connect,
    explain,
    is_damage,
    open_database,
    primary_code,
    sync_directory,
)

log = structlog.get_logger(__name__)

RESCUE_S = 10.0  # what can be read in this time is carried over, the rest stays in the file that is set aside
UNREADABLE_ROWS = 20_000  # in a row, after which nothing more is expected of the table

LOST = ""  # no sink is called that: the name of the place of all sinks whose own is lost

# What concerns a page, or (an error without a code of its own) one text that is no UTF-8.
_SINGLE = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_ERROR})

Row = tuple[Any, ...]


@dataclass(slots=True)
class Places:
    """How far each sink was, known by heart, should the file forget it. Used in the writer's thread only.

    newest: the highest number that a sink was ever given; numbers of a new file must go on behind it.
    """

    newest: int = 0
    acked: dict[str, int] = field(default_factory=dict)

    def passed(self, sink: str, seq: int) -> None:
        """A sink has everything up to ``seq``."""
        self.acked[sink] = max(seq, self.acked.get(sink, 0))
        self.given(seq)

    def given(self, seq: int) -> None:
        """A sink was given events up to ``seq``."""
        self.newest = max(self.newest, seq)


@dataclass(frozen=True, slots=True)
class Replacement:
    """A new file in the place of another.

    reason: what was wrong. aside: where the old file is, None when it is gone. rescued: events carried over.
    """

    reason: str
    aside: Path | None
    rescued: int
    at: float = field(default_factory=time.time)


def open_or_replace(path: Path, *, timeout_s: float = 1.0) -> tuple[sqlite3.Connection, Replacement | None]:
    """Open the outbox of a program that starts; one that is damaged is replaced. Raises ``OutboxError``."""
    try:
        finished = finish_replacement(path)
        try:
            return open_database(path, timeout_s=timeout_s), finished
        except sqlite3.DatabaseError as exc:
            if not is_damage(exc):
                raise
        replaced = replace_damaged(path, None, Places())
        return open_database(path, timeout_s=timeout_s), replaced
    except sqlite3.Error as exc:
        raise explain(exc, path) from exc


def finish_replacement(path: Path) -> Replacement | None:
    """Put a new file in place that is whole and has waited for it since its program was killed, or its disk failed.

    Raises ``OutboxError``: then it may be tried again.
    """
    if not _rebuilt(path).exists():
        return None
    rescued = 0
    with suppress(sqlite3.Error), closing(connect(_rebuilt(path), read_only=True, immutable=True)) as new:
        rescued = new.execute("SELECT count(*) FROM event").fetchone()[0]
    aside = _put_in_place(path, "corrupt")
    log.error(
        "the outbox was being replaced when that was cut off: it is now", path=str(path), aside=str(aside or ""),
        rescued=rescued,
    )  # fmt: skip
    return Replacement(f"{path} was damaged, deleted or moved", aside, rescued)


def replace_damaged(
    path: Path,
    live: sqlite3.Connection | None,
    places: Places,
    *,
    let_go: Callable[[], None] = lambda: None,
    hurry: Callable[[], bool] = lambda: False,
) -> Replacement:
    """Set a damaged file aside, and put a sound one with all that can be read in its place.

    live: the connection of a program that was using it; what it has in memory is read first. let_go: closes it and all
    others of this process, so that the file is then read as after a crash. hurry: whether to give up.

    Lets ``sqlite3.Error`` out and raises ``OutboxError``: then the file is where it was, and it may be tried again.
    """
    end = time.monotonic() + RESCUE_S

    def enough() -> bool:
        return hurry() or time.monotonic() > end

    with _new_file(path, mode_of(path)) as begun, closing(open_database(begun)) as target:
        for quick in ("journal_mode = DELETE", "journal_mode = OFF", "synchronous = OFF"):  # nobody needs half of it
            target.execute(f"PRAGMA {quick}")
        target.execute("BEGIN IMMEDIATE")
        cursors = _copy(live, target, enough) if live is not None else []
        let_go()
        if path.exists():
            with closing(connect(path, read_only=True, immutable=not Path(f"{path}-wal").exists())) as source:
                cursors += _copy(source, target, enough)
        if hurry():
            raise OutboxError(f"{path} is damaged", remedy="the next start replaces it")
        rescued = _place(cursors, target, places)
        target.execute("COMMIT")
    aside = _put_in_place(path, "corrupt")
    log.error(
        "the outbox was damaged: it is set aside and a new one started",
        path=str(path),
        aside=str(aside),
        rescued=rescued,
        remedy=f"what could not be read may come out with: sqlite3 {aside} .recover",
    )
    return Replacement(f"{path} was damaged", aside, rescued)


def replace_lost(connection: sqlite3.Connection, path: Path, mode: int, *, foreign: bool) -> Replacement:
    """Put a copy of the open, sound database where its file was deleted, or another one put into its place.

    mode: the permissions that the file had. foreign: whether what is at ``path``, if anything, is another file, to be
    set aside.

    Lets ``sqlite3.Error`` out and raises ``OutboxError``. The connection is as it was; after success its file is no
    longer needed: close it before opening ``path``.
    """
    with _new_file(path, mode) as begun, closing(connect(begun)) as target:
        connection.backup(target)
        count = target.execute("SELECT count(*) FROM event").fetchone()[0]
    aside = _put_in_place(path, "found" if foreign else "")
    log.error(
        "the outbox was deleted or moved while in use: it was written again from what the program still had",
        path=str(path),
        rescued=count,
        **({"aside": str(aside)} if aside else {}),
        remedy="let nobody touch the outbox, nor its -wal and -shm files, while the program runs",
    )
    return Replacement(f"{path} was deleted or moved while in use", aside, count)


@contextmanager
def _new_file(path: Path, mode: int) -> Iterator[Path]:
    """Make a file that is to take the place of ``path``; after the block it is whole and waits for its turn."""
    begun = Path(f"{path}.rebuilding")
    with _explained(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        for suffix in ("", "-wal", "-shm", "-journal"):
            Path(f"{begun}{suffix}").unlink(missing_ok=True)
        begun.touch()
        begun.chmod(mode)
    try:
        yield begun
        with _explained(path):
            with begun.open("rb") as file:
                os.fsync(file.fileno())
            begun.rename(_rebuilt(path))
    except BaseException:
        with suppress(OSError):
            begun.unlink()  # half a file takes room that the next try needs
        raise


def _put_in_place(path: Path, why: str) -> Path | None:
    """Rename what there is of ``path`` and its companions (delete it, without a ``why``), and put the new file there.

    Return the new name of the old file, None when there is none.
    """
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%fZ")
    aside = path.with_name(f"{path.name}.{why}-{stamp}")
    with _explained(path):
        for suffix in ("-wal", "-shm", ""):
            with suppress(FileNotFoundError):
                old = Path(f"{path}{suffix}")
                old.rename(f"{aside}{suffix}") if why else old.unlink()
        _rebuilt(path).rename(path)
        sync_directory(path.parent)
    return aside if aside.exists() else None


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as exc:
        raise OutboxError(
            f"{path} must be replaced and cannot: {exc.strerror}",
            remedy="give this user write permission on its directory, and check the disk",
        ) from exc


def _copy(source: sqlite3.Connection, target: sqlite3.Connection, enough: Callable[[], bool]) -> list[dict[str, Any]]:
    """Copy the events and dead letters that can be read and are not there yet; return the rows about sinks."""
    rows = _readable(source, "SELECT id, sink, seq, reason, stored_at, at, body FROM dead", "id", enough)
    target.executemany("INSERT OR IGNORE INTO dead VALUES(?, ?, ?, ?, ?, ?, ?)", (r for r in rows if _sound(r)))
    rows = _readable(source, "SELECT seq, sink, stored_at, body FROM event", "seq", enough)
    target.executemany("INSERT OR IGNORE INTO event VALUES(?, ?, ?, ?)", (r for r in rows if _sound(r)))
    try:
        return _cursors(source)
    except sqlite3.Error:
        return []


def _place(cursors: list[dict[str, Any]], target: sqlite3.Connection, places: Places) -> int:
    """Put each sink where it was at the furthest; return how many events there are.

    A program that starts does not know by heart which sinks there were: a row without a name keeps, until they are
    registered, where those begin whose rows are lost.
    """
    count, oldest, newest = target.execute("SELECT count(*), min(seq), max(seq) FROM event").fetchone()
    newest = max(newest or 0, places.newest)
    known: dict[str, dict[str, Any]] = {sink: {"sink": sink, "acked_seq": seq} for sink, seq in places.acked.items()}
    if not places.acked and oldest is not None:
        cursors = [*cursors, {"sink": LOST, "acked_seq": oldest - 1, "retired_at": time.time()}]
    for cursor in cursors:
        sink, acked = cursor["sink"], cursor["acked_seq"]
        known[sink] = {**cursor, "acked_seq": max(acked, known.get(sink, cursor)["acked_seq"])}
    for cursor in known.values():
        values = {**cursor, "acked_seq": min(cursor["acked_seq"], newest)}  # beyond all events it would hide new ones
        marks = ", ".join("?" * len(values))
        target.execute(f"INSERT INTO cursor({', '.join(values)}) VALUES({marks})", tuple(values.values()))
    target.execute("DELETE FROM sqlite_sequence WHERE name = 'event'")
    target.execute("INSERT INTO sqlite_sequence(name, seq) VALUES('event', ?)", (newest,))
    return int(count)


def _cursors(source: sqlite3.Connection) -> list[dict[str, Any]]:
    """Return what makes sense of the rows about sinks; a place that does not is before all events.

    Without the batches under way: such a batch may have lost events, and a key never stands for two bodies.
    """
    found = source.execute("SELECT * FROM cursor")
    names = [column[0] for column in found.description]
    cursors = []
    for row in found:
        values = dict(zip(names, row, strict=True))
        sink, acked = values.pop("sink"), values.pop("acked_seq")
        del values["batch_last"], values["batch_key"]
        if isinstance(sink, str) and sink != LOST:
            numbers = {name: value for name, value in values.items() if isinstance(value, int | float)}
            cursors.append({"sink": sink, "acked_seq": acked if isinstance(acked, int) else 0, **numbers})
    return cursors


def _readable(source: sqlite3.Connection, select: str, key: str, enough: Callable[[], bool]) -> Iterator[Row]:
    """Yield the rows of a damaged table in order of ``key``, the first column, stepping over what cannot be read."""
    at, failures = 0, 0
    while failures < UNREADABLE_ROWS and not enough():
        try:
            with closing(source.execute(f"{select} WHERE {key} > ? ORDER BY {key}", (at,))) as rows:
                for row in rows:
                    at, failures = row[0], 0
                    yield row
                    if enough():
                        return
        except sqlite3.Error as exc:
            if primary_code(exc) not in _SINGLE:
                return  # nothing of the file can be read
            at, failures = at + 1, failures + 1
        else:
            return


def _sound(row: Row) -> bool:
    """Whether the columns of a row are of their kinds, and its body, the last of them, an event."""
    *columns, body = row
    return all(isinstance(column, int | float | str) for column in columns) and is_event(body)


def is_event(body: object) -> bool:
    """Whether a stored body is an event, and not garbage that happens to lie in a sound page."""
    if not isinstance(body, bytes):
        return False
    try:
        event = orjson.loads(body)
    except orjson.JSONDecodeError:
        return False
    return isinstance(event, dict) and isinstance(event.get("event_id"), str)


def mode_of(path: Path) -> int:
    """Return the permissions of a file, 0o600 when it cannot be asked: who may read events is the operator's choice."""
    try:
        return stat.S_IMODE(path.stat().st_mode)
    except OSError:
        return 0o600


def _rebuilt(path: Path) -> Path:
    return Path(f"{path}.rebuilt")
