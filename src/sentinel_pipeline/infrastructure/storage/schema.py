"""The outbox file: how it is opened, checked and migrated."""

from __future__ import annotations

import os
import sqlite3
import time
from contextlib import suppress
from pathlib import Path

import structlog

from sentinel_pipeline.domain.errors import OutboxError

log = structlog.get_logger(__name__)

APPLICATION_ID = 0x534E5431  # "SNT1" in the file's header: tells an outbox from somebody else's database
PAGE_SIZE = 4096
CHECK_DEADLINE_S = 5.0

# MIGRATIONS[n] takes a file from version n to n + 1 in one transaction; the last one makes the current version.
MIGRATIONS: tuple[tuple[str, ...], ...] = (
    (
        # AUTOINCREMENT: a sequence number is never used twice, also after its row is gone. sink '' means all sinks.
        """CREATE TABLE event(
             seq INTEGER PRIMARY KEY AUTOINCREMENT, sink TEXT NOT NULL DEFAULT '',
             stored_at REAL NOT NULL, body BLOB NOT NULL)""",
        "CREATE INDEX event_sink ON event(sink)",  # counts what is pending without touching the bodies
        # batch_last, batch_key: the batch under way, so that its key is the same on every retry and after a restart.
        """CREATE TABLE cursor(
             sink TEXT PRIMARY KEY, acked_seq INTEGER NOT NULL, batch_last INTEGER, batch_key TEXT,
             dropped INTEGER NOT NULL DEFAULT 0, retired_at REAL) WITHOUT ROWID""",
        """CREATE TABLE dead(
             id INTEGER PRIMARY KEY, sink TEXT NOT NULL, seq INTEGER NOT NULL, reason TEXT NOT NULL,
             stored_at REAL NOT NULL, at REAL NOT NULL, body BLOB NOT NULL)""",
        "CREATE INDEX dead_sink ON dead(sink)",
    ),
    (
        # What Retry-After asked for: Unix seconds, and how many seconds that was.
        "ALTER TABLE cursor ADD COLUMN not_before REAL",
        "ALTER TABLE cursor ADD COLUMN asked_s REAL",
    ),
)
VERSION = len(MIGRATIONS)

_DAMAGED = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})
_FORBIDDEN = frozenset({sqlite3.SQLITE_PERM, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_AUTH})


def primary_code(exc: sqlite3.Error) -> int:
    """Return SQLite's primary result code: the low eight bits of the extended one (sqlite.org/rescode.html)."""
    return getattr(exc, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF


def is_damage(exc: sqlite3.Error) -> bool:
    """Return whether SQLite says that the file is damaged.

    A log that somebody has cut short is an I/O error to it, and text that is no UTF-8, as nobody stores, one of Python.
    """
    garbled = str(exc).startswith("Could not decode to UTF-8")
    cut_short = getattr(exc, "sqlite_errorcode", 0) == sqlite3.SQLITE_IOERR_SHORT_READ
    return primary_code(exc) in _DAMAGED or cut_short or garbled


def damage(found: str) -> sqlite3.DatabaseError:
    """Return what SQLite raises for a damaged file."""
    damaged = sqlite3.DatabaseError(found)
    damaged.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
    return damaged


def explain(exc: sqlite3.Error, path: Path) -> OutboxError:
    """Return the error a person reads for what SQLite said."""
    code = primary_code(exc)
    if code == sqlite3.SQLITE_FULL:
        return OutboxError(
            f"the disk under {path} is full", remedy="free space there; storing and delivery then go on by themselves"
        )
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return OutboxError(f"another process is writing to {path}", remedy="wait for it, or end it")
    if is_damage(exc):
        return OutboxError(f"{path} is damaged", remedy="a running program sets it aside and starts a new one")
    if code in _FORBIDDEN:
        return OutboxError(
            f"{path} cannot be opened for writing",
            remedy="give this user write permission on the file and its directory",
        )
    return OutboxError(f"{path} cannot be used: {exc}", remedy="check the disk and its file system")


def connect(
    path: Path, *, read_only: bool = False, immutable: bool = False, timeout_s: float = 1.0
) -> sqlite3.Connection:
    """Open a connection in autocommit mode; lets ``sqlite3.Error`` out.

    ``timeout_s``: how long to wait for another writer. ``immutable``: nobody writes while this is open.
    """
    query = ("?mode=ro" + ("&immutable=1" if immutable else "")) if read_only else ""
    return sqlite3.connect(
        f"{path.absolute().as_uri()}{query}", uri=True, timeout=timeout_s, isolation_level=None, check_same_thread=False
    )


def open_database(path: Path, *, timeout_s: float = 1.0, check: bool = True) -> sqlite3.Connection:
    """Return a writing connection to a sound, current outbox; create or migrate the file as needed.

    ``check``: whether to look for damage first. Lets ``sqlite3.Error`` out; raises ``OutboxError`` when the file
    belongs to another program, or when a newer release wrote it.
    """
    connection = connect(path, timeout_s=timeout_s)
    try:
        connection.execute(f"PRAGMA page_size = {PAGE_SIZE}")
        version = recognise(connection, path)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")  # a commit has reached the disk when it returns
        if check:
            _check(connection)
        _migrate(connection, version)
        sync_directory(path.parent)
    except BaseException:
        connection.close()
        raise
    return connection


def recognise(connection: sqlite3.Connection, path: Path) -> int:
    """Return the schema version, 0 for a new file. Raises ``OutboxError`` for a file that is not ours to change."""
    version: int = connection.execute("PRAGMA user_version").fetchone()[0]
    owner: int = connection.execute("PRAGMA application_id").fetchone()[0]
    empty = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0] == 0
    if owner != APPLICATION_ID and not empty:
        raise OutboxError(f"{path} is a database of another program", remedy="name another file as outbox path")
    if version > VERSION:
        raise OutboxError(
            f"{path} was written by a newer release (schema {version}, this one knows {VERSION})",
            remedy="install that release again, or name another file as outbox path",
        )
    return version


def _check(connection: sqlite3.Connection) -> None:
    """Raise the ``DatabaseError`` of a damaged file; give up looking after ``CHECK_DEADLINE_S``."""
    deadline = time.monotonic() + CHECK_DEADLINE_S
    connection.set_progress_handler(lambda: int(time.monotonic() > deadline), 100_000)
    try:
        found = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
    except sqlite3.OperationalError as exc:
        if primary_code(exc) != sqlite3.SQLITE_INTERRUPT:
            raise
        log.warning("the outbox is large and was only checked in part", seconds=CHECK_DEADLINE_S)
        return
    finally:
        connection.set_progress_handler(None, 0)
    if found != "ok":
        raise damage(found)


def _migrate(connection: sqlite3.Connection, version: int) -> None:
    for number in range(version, VERSION):
        connection.execute("BEGIN IMMEDIATE")
        try:
            for statement in MIGRATIONS[number]:
                connection.execute(statement)
            connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            connection.execute(f"PRAGMA user_version = {number + 1}")
            connection.execute("COMMIT")
        except sqlite3.Error:
            with suppress(sqlite3.Error):
                connection.execute("ROLLBACK")
            raise


def sync_directory(directory: Path) -> None:
    """Make the new names themselves survive a power cut; file systems that cannot are left alone."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with suppress(OSError):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)
