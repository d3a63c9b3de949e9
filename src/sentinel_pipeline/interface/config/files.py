"""Files that a configuration names: relative to the folder of the configuration file."""

from __future__ import annotations

import os
from pathlib import Path

LABELS_LIMIT = 1024 * 1024  # bytes


def resolve(base: Path, name: str) -> Path:
    """Return the absolute path of a file named in a configuration in the folder ``base``."""
    return Path(os.path.normpath(base / name))


def is_file(path: Path) -> bool:
    """Return whether ``path`` is a file that exists; False too for what cannot be the name of one."""
    return os.path.isfile(path)


def read_labels(path: Path) -> tuple[str, ...]:
    """Return the labels of a file, one a line; blank lines at the end do not count.

    Raises ``ValueError`` with a sentence that carries no text of the file.
    """
    try:
        with path.open("rb") as file:
            raw = file.read(LABELS_LIMIT + 1)
    except OSError as exc:
        raise ValueError(f"the file cannot be read: {exc.strerror}") from exc
    if len(raw) > LABELS_LIMIT:
        raise ValueError(f"the file is larger than {LABELS_LIMIT // 2**20} MiB")
    try:
        labels = tuple(line.strip() for line in raw.decode("utf-8-sig").rstrip().splitlines())
    except UnicodeDecodeError:
        raise ValueError("the file is not UTF-8 text") from None
    if not labels or not all(labels):
        raise ValueError(
            "the file has no labels" if not labels else f"line {labels.index('') + 1} of the file is empty"
        )
    if len(set(labels)) != len(labels):
        raise ValueError("a label is in the file twice")
    return labels
