"""Whether an outbox can be kept at a place, found out without leaving anything there."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from pathlib import Path

from sentinel_pipeline.domain.errors import OutboxError
from sentinel_pipeline.infrastructure.storage.schema import APPLICATION_ID, connect, recognise


def ensure_place(path: Path) -> None:
    """Raise ``OutboxError`` when no outbox could be created or written at ``path``; changes nothing."""
    if path.exists() and not path.is_file():
        what = "directory" if path.is_dir() else "device or pipe"
        raise OutboxError(f"the outbox {path} is a {what}", remedy="name a file as outbox path")
    existing = path if path.exists() else next(parent for parent in path.absolute().parents if parent.exists())
    if (existing != path and not existing.is_dir()) or not os.access(existing, os.W_OK):
        raise OutboxError(
            f"no outbox can be kept at {path}: {existing} cannot be written",
            remedy="name a directory that this user may write to as outbox path",
        )
    if path.is_file() and path.stat().st_size:
        _recognise(path)


def _recognise(path: Path) -> None:
    """Raise for a file that is not ours; a damaged outbox is replaced at the start, and no reason to refuse."""
    try:
        with closing(connect(path, read_only=True, immutable=True)) as connection:  # leaves no files beside it
            recognise(connection, path)
    except sqlite3.Error as exc:
        if not was_ours(path):
            raise OutboxError(
                f"{path} is a file of another kind, not an outbox",
                remedy="name another file as outbox path; if it is an outbox that was damaged, move it away",
            ) from exc


def was_ours(path: Path) -> bool:
    """Whether a file that SQLite cannot read was an outbox: its header says so, or, when that is gone, its lock file.

    The lock file is made by the first program that takes a path as its outbox, and stays.
    """
    try:
        with path.open("rb") as file:
            header = file.read(100)
    except OSError:
        return True  # no slip that could be told from the content: opening it will say what is wrong
    application = int.from_bytes(header[68:72], "big")  # https://sqlite.org/fileformat2.html#the_database_header
    if header.startswith(b"SQLite format 3\0") and application not in (0, APPLICATION_ID):
        return False
    return application == APPLICATION_ID or Path(f"{os.path.realpath(path)}.lock").exists()
