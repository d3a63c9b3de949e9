"""What the configuration's form has and this release does not do yet. It is refused rather than ignored.

One row per feature; a release that brings the feature takes its row out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from sentinel_pipeline.interface.config.problems import Problem, Steps
from sentinel_pipeline.interface.config.tree import Document, Node


@dataclass(frozen=True, slots=True)
class Unsupported:
    """A feature. ``path`` may have ``*`` for any key; ``asked`` says whether the value there asks for the feature."""

    path: tuple[str, ...]
    asked: Callable[[object], bool]
    what: str
    remedy: str


def _one_of(*values: str) -> Callable[[object], bool]:
    return lambda value: value in values


def _more_than_one(value: object) -> bool:
    return str(value).isdecimal() and int(str(value)[:9]) > 1


_STREAM = ("streams", "*")

UNSUPPORTED: tuple[Unsupported, ...] = (
    Unsupported((*_STREAM, "analyse", "modules"), bool, "user modules", "remove it"),
    Unsupported(
        (*_STREAM, "decode", "hwaccel"),
        _one_of("auto", "cuda", "vaapi", "qsv"),
        "hardware decoding",
        "remove it, or write `hwaccel: none`",
    ),
    Unsupported(
        ("models", "*", "family"),
        _one_of("yolox", "detr", "classifier", "raw"),
        "the families yolox, detr, classifier and raw",
        "use a model of the family yolov8 or centerface",
    ),
    Unsupported(
        ("runtime", "workers"),
        _more_than_one,
        "more than one worker process",
        "remove it, or write `workers: 1`; to use more processes, start the program once per group of cameras",
    ),
)


def refuse_unsupported(document: Document) -> Iterator[Problem]:
    """Yield a problem for each feature that the file asks for and this release does not have."""
    for feature in UNSUPPORTED:
        for path, node in _matches(document.root, feature.path):
            if not node.broken and feature.asked(node.value):
                yield document.problem(path, f"not in this version: {feature.what}", feature.remedy, at_key=True)


def _matches(node: Node, pattern: tuple[str, ...], done: Steps = ()) -> Iterator[tuple[Steps, Node]]:
    if not pattern:
        yield done, node
        return
    head, rest = pattern[0], pattern[1:]
    keys = [key for key, _ in node.entries()] if head == "*" else [head]
    for key in keys:
        child = node.child(key)
        if child is not None:
            yield from _matches(child, rest, (*done, key))
