"""A configuration file as a tree of values that know where they stand."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from sentinel_pipeline.interface.config.problems import Problem, Steps, dotted


@dataclass(frozen=True, slots=True)
class Mark:
    """A place in the file; line and column count from 1."""

    line: int
    column: int


@dataclass(slots=True)
class Node:
    """A value and its place. ``value`` is a dict of nodes, a list of nodes, or text, a number, a truth value or None.

    keys: where each key of a mapping stands.
    touched: something in it came from outside the file, so it may be a secret.
    broken: its value could not be made out; that is reported already, so nothing else is said about it.
    """

    mark: Mark
    value: Any = field(repr=False)
    keys: dict[str, Mark] = field(default_factory=dict)
    touched: bool = False
    broken: bool = False

    def child(self, step: str | int) -> Node | None:
        """Return the value under a key or an index, or None."""
        if isinstance(self.value, dict) and isinstance(step, str):
            return self.value.get(step)
        if isinstance(self.value, list) and isinstance(step, int) and 0 <= step < len(self.value):
            item: Node = self.value[step]
            return item
        return None

    def at(self, *path: str | int) -> Node | None:
        """Return the value at a path below this one, or None."""
        node: Node | None = self
        for step in path:
            node = node.child(step) if node is not None else None
        return node

    def text(self, *path: str | int) -> str | None:
        """Return the text at a path below this one; None when there is none or it is broken."""
        node = self.at(*path)
        return node.value if node is not None and isinstance(node.value, str) and not node.broken else None

    def entries(self, *path: str | int) -> Iterator[tuple[str, Node]]:
        """Yield the entries of the mapping at a path below this one; nothing when there is none."""
        node = self.at(*path)
        if node is not None and isinstance(node.value, dict):
            yield from node.value.items()

    def items(self, *path: str | int) -> Iterator[tuple[int, Node]]:
        """Yield the items of the list at a path below this one; nothing when there is none."""
        node = self.at(*path)
        if node is not None and isinstance(node.value, list):
            yield from enumerate(node.value)

    def texts(self, *path: str | int) -> Iterator[tuple[int, str]]:
        """Yield the items of a list that are text."""
        for index, node in self.items(*path):
            if isinstance(node.value, str) and not node.broken:
                yield index, node.value

    def plain(self) -> Any:
        """Return the value without places. A node that is used twice (a YAML alias) gives one object used twice."""
        return _plain(self, {})


def _plain(node: Node, done: dict[int, Any]) -> Any:
    if id(node) not in done:
        value = node.value
        if isinstance(value, dict):
            value = {key: _plain(child, done) for key, child in value.items()}
        elif isinstance(value, list):
            value = [_plain(child, done) for child in value]
        done[id(node)] = value
    return done[id(node)]


class Document:
    """One configuration file; makes problems that point into it."""

    def __init__(self, file: str, root: Node) -> None:
        self.file = file
        self.root = root

    def locate(self, path: Steps, *, at_key: bool = False) -> Mark:
        """Return the place of the value at ``path`` (or of its key), or of the nearest thing around it that exists."""
        mark, node = self.root.mark, self.root
        for position, step in enumerate(path):
            last = position == len(path) - 1
            key_mark = node.keys.get(step, mark) if isinstance(step, str) else mark
            child = node.child(step)
            if child is None:
                return key_mark
            nested = isinstance(child.value, dict | list)
            mark = key_mark if isinstance(step, str) and (nested or (last and at_key)) else child.mark
            node = child
        return mark

    def broken(self, path: Steps) -> bool:
        """Return whether the value at ``path``, or something around it, could not be made out."""
        node: Node | None = self.root
        for step in path:
            node = node.child(step) if node is not None else None
            if node is not None and node.broken:
                return True
        return False

    def problem(self, path: Steps, message: str, remedy: str = "", *, at_key: bool = False) -> Problem:
        """Return a problem at ``path``."""
        mark = self.locate(path, at_key=at_key)
        return Problem(self.file, mark.line, mark.column, dotted(path), message, remedy)

    def shown(self, path: Steps) -> str:
        """Return the value at ``path`` in quotes where it is certainly no secret, else ``the value``."""
        node = self.root.at(*path)
        if node is None or node.touched or may_be_secret(path, node.value):
            return "the value"
        return f'"{node.value}"' if isinstance(node.value, str) else _kind(node.value)

    def name(self, path: Steps) -> str | None:
        """Return the text at ``path`` if it may be shown and compared in a suggestion, else None."""
        node = self.root.at(*path)
        if node is None or node.touched or not isinstance(node.value, str) or may_be_secret(path, node.value):
            return None
        return node.value


SECRET_KEYS = frozenset({"token", "source", "url", "headers"})


def may_be_secret(path: Steps, value: object) -> bool:
    """Return whether a value must not be shown: for what its key is, or because it looks like a URL or a token."""
    if SECRET_KEYS.intersection(path):
        return True
    return isinstance(value, str) and (len(value) > 80 or not value.isprintable() or "://" in value or "@" in value)


def _kind(value: object) -> str:
    match value:
        case dict():
            return "a mapping"
        case list():
            return "a list"
        case None:
            return "nothing"
        case bool():
            return str(value).lower()
        case _:
            return str(value)
