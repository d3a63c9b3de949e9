"""Whether an outbox can be kept at a place, found out without leaving anything there."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from pathlib import Path

from sentinel_pipeline.domain.errors import OutboxError
from sentinel_pipeline.infrastructure.storage.schema import connect, recognise


def ensure_place(path: Path) -> None:
    """Raise ``OutboxError`` when no outbox could be created or written at ``path``; changes nothing."""
    if path.is_dir():
        raise OutboxError(f"the outbox {path} is a directory", remedy="name a file as outbox path")
    existing = path if path.exists() else next(parent for parent in path.absolute().parents if parent.exists())
    if (existing != path and not existing.is_dir()) or not os.access(existing, os.W_OK):
        raise OutboxError(
            f"no outbox can be kept at {path}: {existing} cannot be written",
            remedy="name a directory that this user may write to as outbox path",
        )
    if path.is_file() and path.stat().st_size:
        _recognise(path)


def _recognise(path: Path) -> None:
    """Raise for a database of another program; what is damaged is set aside at the start, and no reason to refuse."""
    try:
        with closing(connect(path, read_only=True, immutable=True)) as connection:  # leaves no files beside it
            recognise(connection, path)
    except sqlite3.Error:
        return
