"""Class names: a known set, a list, a file, or what the exporter left in the model."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from pathlib import Path

from sentinel_pipeline.domain.builtin_models import COCO_LABELS
from sentinel_pipeline.domain.errors import ConfigError


def read_labels(labels: str | tuple[str, ...]) -> tuple[str, ...]:
    """Return the names that ``labels`` stands for: ``"coco"``, a file with one name a line, or the names themselves.

    Empty lines at the end of a file are ignored. Raises ``ConfigError``.
    """
    if labels == "coco":
        return COCO_LABELS
    names = _read_file(Path(labels)) if isinstance(labels, str) else labels
    if not names or not all(name.strip() for name in names):
        raise ConfigError("labels must be a list of names, none of them empty", remedy="write one name per class")
    return names


def labels_in_metadata(metadata: Mapping[str, str]) -> tuple[str, ...] | None:
    """Return the class names that Ultralytics' exporter writes as ``names`` (``{0: 'person', …}``), or None."""
    try:
        names = ast.literal_eval(metadata.get("names", ""))
    except (ValueError, SyntaxError):
        return None
    if isinstance(names, dict) and set(names) == set(range(len(names))):
        names = [names[i] for i in range(len(names))]
    return tuple(map(str, names)) if isinstance(names, list) and names else None


def _read_file(path: Path) -> tuple[str, ...]:
    try:
        text = path.read_text(encoding="utf-8").rstrip()
    except (OSError, UnicodeDecodeError) as exc:
        raise ConfigError(
            f"labels file {path} cannot be read: {getattr(exc, 'strerror', None) or 'it is not UTF-8 text'}",
            remedy="labels: takes coco, a list of names, or a text file with one name a line",
        ) from exc
    return tuple(line.strip() for line in text.splitlines())
