"""From a file's bytes to a tree: YAML 1.2's core schema, of which JSON is a part.

PyYAML composes the nodes; their meaning is decided here, because its own (YAML 1.1) reads ``on`` as true, ``1:30`` as
90 and keeps the last of two equal keys.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import yaml

from sentinel_pipeline.interface.config.problems import ConfigProblems, Problem, Steps, dotted, key_shown
from sentinel_pipeline.interface.config.substitution import substitute
from sentinel_pipeline.interface.config.tree import Document, Mark, Node

FILE_LIMIT = 4 * 1024 * 1024  # bytes
DEPTH_LIMIT = 32
NODE_LIMIT = 200_000  # with aliases written out: a few lines of YAML can stand for gigabytes

_TAG = "tag:yaml.org,2002:"
_NUMERIC_LIMIT = 40  # characters; a longer row of digits is no number that anyone means


class _Composer(yaml.SafeLoader):
    """Composes nodes with the scalars of YAML 1.2's core schema (section 10.3.2), down to a bounded depth."""

    yaml_implicit_resolvers: ClassVar[dict[str, list[tuple[str, re.Pattern[str]]]]] = {}  # type: ignore[misc]

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self._depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        self._depth += 1
        if self._depth > DEPTH_LIMIT:
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
            raise yaml.MarkedYAMLError(problem=f"nested more than {DEPTH_LIMIT} deep", problem_mark=mark)
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node


for _kind, _pattern, _first in (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", list("-+0123456789")),
    ("float", r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?", list("-+.0123456789")),
    ("float", r"[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)", list("-+.")),
    ("merge", r"<<", ["<"]),
):
    _Composer.add_implicit_resolver(_TAG + _kind, re.compile(rf"(?:{_pattern})\Z"), _first)


def read_document(path: Path, environ: Mapping[str, str]) -> tuple[Document, list[Problem]]:
    """Read a file into a tree, with the problems found on the way.

    Raises ``ConfigProblems`` when there is no tree to go on with.
    """
    file = str(path)
    text = _decode(file, _read(path))
    if path.suffix.lower() == ".json":
        text = text.replace("\t", " ")  # inside strings JSON has no raw tabs, and outside YAML takes spaces only
    node = _compose(file, text)
    if node is None:
        raise ConfigProblems([Problem(file, 1, 1, "", "the file is empty", "begin with `version: 1`")])
    builder = _Builder(file, environ, path.absolute().parent)
    root = builder.build(node)
    if not isinstance(root.value, dict):
        if not root.broken:
            builder.report(root.mark, (), "the file must be a mapping of keys to values", "begin with `version: 1`")
        raise ConfigProblems(builder.problems)
    return Document(file, root), builder.problems


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            raw = file.read(FILE_LIMIT + 1)
    except (OSError, ValueError) as exc:  # ValueError: a NUL in the name
        reason = exc.strerror if isinstance(exc, OSError) else "not a file name"
        remedy = (
            "name a file, not a folder" if isinstance(exc, IsADirectoryError) else "check the name and its permissions"
        )
        raise ConfigProblems([Problem(str(path), 1, 1, "", f"the file cannot be read: {reason}", remedy)]) from exc
    if len(raw) > FILE_LIMIT:
        message = f"the file is larger than {FILE_LIMIT // 2**20} MiB"
        raise ConfigProblems([Problem(str(path), 1, 1, "", message, "is this the right file?")])
    return raw


def _decode(file: str, raw: bytes) -> str:
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as exc:
        line = raw.count(b"\n", 0, exc.start) + 1
        column = exc.start - raw.rfind(b"\n", 0, exc.start)
        problem = Problem(file, line, column, "", "the file is not UTF-8 text", "save it as UTF-8")
    raise ConfigProblems([problem])  # outside the handler: the exception carries the whole file


def _compose(file: str, text: str) -> yaml.Node | None:
    loader = None
    try:
        loader = _Composer(text)
        return loader.get_single_node()
    except yaml.MarkedYAMLError as exc:
        problem = _syntax_problem(file, exc)
    except yaml.reader.ReaderError as exc:
        line = text.count("\n", 0, exc.position) + 1
        column = exc.position - text.rfind("\n", 0, exc.position)
        message = f"the character U+{_code(exc.character):04X} is not allowed in YAML"
        problem = Problem(file, line, column, "", message, "remove it, or write it as an escape in double quotes")
    finally:
        if loader is not None:
            loader.dispose()
    raise ConfigProblems([problem])  # outside the handler: the exception carries the text around the fault


def _syntax_problem(file: str, exc: yaml.MarkedYAMLError) -> Problem:
    mark = exc.problem_mark or exc.context_mark
    line, column = (mark.line + 1, mark.column + 1) if mark is not None else (1, 1)
    # what PyYAML quotes may be a piece of a password: `token: *s3cret` is an alias in YAML's eyes
    said = re.sub(r"'([^']*)'", _harmless, exc.problem or exc.context or "unreadable")
    remedy = next((remedy for piece, remedy in _SYNTAX_REMEDIES if piece in said), _DEFAULT_REMEDY)
    return Problem(file, line, column, "", f"this is not YAML: {said}", remedy)


def _harmless(quoted: re.Match[str]) -> str:
    return quoted[0] if re.fullmatch(r".?|\\.|<[a-z ]+>", quoted[1]) else "…"


def _code(character: str | int) -> int:
    return character if isinstance(character, int) else ord(character)  # PyYAML's own type depends on its input


_DEFAULT_REMEDY = "compare the indentation and the quotes here and on the line before"
_SYNTAX_REMEDIES = (
    (r"'\t'", "indent with spaces, not tabs"),
    ("cannot start any token", "put the value in quotes"),
    ("mapping values are not allowed", "put a value that contains `: ` in quotes, and check the indentation"),
    ("undefined alias", "put a value that begins with * in quotes"),
    ("alphabetic or numeric", "put a value that begins with * or & in quotes"),
    ("could not find expected ':'", "write `key: value`, with a space after the colon"),
    ("expected a single document", "keep one document in the file: remove `---`"),
    ("another document", "keep one document in the file: remove `---`"),
    ("end of stream", "close the quote"),
    ("<stream end>", "close the bracket or brace"),
    ("unknown escape character", "use single quotes, or double the backslash"),
    ("nested more than", "is this the right file?"),
)


class _Builder:
    """Gives composed nodes their values, once per node, and collects what is wrong with them."""

    def __init__(self, file: str, environ: Mapping[str, str], base: Path) -> None:
        self._file, self._environ, self._base = file, environ, base
        self._done: dict[int, Node] = {}
        self._extent: dict[int, tuple[int, int]] = {}  # nodes and levels from each node down, with aliases written out
        self._open: set[int] = set()
        self.problems: list[Problem] = []

    def report(self, mark: Mark, path: Steps, message: str, remedy: str) -> None:
        self.problems.append(Problem(self._file, mark.line, mark.column, dotted(path), message, remedy))

    def build(self, node: yaml.Node, path: Steps = ()) -> Node:
        """Return the tree below ``node``, which is at ``path``."""
        identity = id(node)
        if identity in self._open:
            return self._broken(_mark(node), path, "this alias contains itself", "write the value out")
        if identity not in self._done:
            self._open.add(identity)
            self._done[identity] = self._make(node, path)
            self._open.discard(identity)
        return self._done[identity]

    def _broken(self, mark: Mark, path: Steps, message: str, remedy: str) -> Node:
        self.report(mark, path, message, remedy)
        return Node(mark, None, broken=True)

    def _make(self, node: yaml.Node, path: Steps) -> Node:
        kind = node.tag.removeprefix(_TAG)
        match node:
            case yaml.MappingNode() if kind == "map":
                return self._bounded(node, path, self._mapping(node, path))
            case yaml.SequenceNode() if kind == "seq":
                return self._bounded(node, path, self._sequence(node, path))
            case yaml.ScalarNode() if kind in _SCALARS:
                return self._scalar(node, path, kind)
            case _:
                return self._broken(
                    _mark(node), path, "this YAML tag has no meaning here", "put a value that begins with ! in quotes"
                )

    def _bounded(self, node: yaml.Node, path: Steps, built: Node) -> Node:
        children = built.value.values() if isinstance(built.value, dict) else built.value
        below = [self._extent.get(id(child), (1, 1)) for child in children]
        size = 1 + sum(nodes for nodes, _ in below)
        depth = 1 + max((levels for _, levels in below), default=0)
        self._extent[id(built)] = size, depth
        if size > NODE_LIMIT or depth > DEPTH_LIMIT:
            return self._broken(_mark(node), path, "aliases make this too large", "use fewer aliases")
        return built

    def _sequence(self, node: yaml.SequenceNode, path: Steps) -> Node:
        return Node(_mark(node), [self.build(item, (*path, index)) for index, item in enumerate(node.value)])

    def _mapping(self, node: yaml.MappingNode, path: Steps) -> Node:
        entries: dict[str, Node] = {}
        keys: dict[str, Mark] = {}
        merged: list[Node] = []
        for key, value in node.value:
            mark = _mark(key)
            if not isinstance(key, yaml.ScalarNode):
                self.report(mark, path, "a key must be text", "write `key: value`")
            elif key.tag == _TAG + "merge":
                merged += self._merged(value, path)
            elif (name := _joined(key.value)) is None:
                self.report(mark, path, "a key holds half of a character", "write the character itself")
            elif name in entries:
                self.report(
                    mark,
                    (*path, name),
                    f"`{key_shown(name)}` is here twice; first in line {keys[name].line}",
                    "remove one of the two",
                )
            else:
                entries[name], keys[name] = self.build(value, (*path, name)), mark
        for base in merged:
            entries = base.value | entries
            keys = base.keys | keys
        return Node(_mark(node), entries, keys)

    def _merged(self, value: yaml.Node, path: Steps) -> list[Node]:
        """Return the mappings behind ``<<:``, the one that counts most first (yaml.org/type/merge)."""
        built = self.build(value, path)
        bases = built.value if isinstance(built.value, list) else [built]
        if not all(isinstance(base.value, dict) for base in bases):
            self.report(_mark(value), path, "only mappings can be merged with <<", "write `<<: *name` of a mapping")
            return []
        return bases

    def _scalar(self, node: yaml.ScalarNode, path: Steps, kind: str) -> Node:
        mark = _mark(node)
        if kind != "str":
            return Node(mark, _number_or_constant(node.value, kind))
        text = _joined(node.value)
        if text is None:
            return self._broken(mark, path, "the text holds half of a character", "write the character itself")
        filled = substitute(text, self._environ, self._base)
        for fault in filled.faults:
            self.report(mark, path, fault.message, fault.remedy)
        return Node(mark, filled.text, touched=filled.touched, broken=bool(filled.faults))


_SCALARS = ("str", "null", "bool", "int", "float", "merge")


def _mark(node: yaml.Node) -> Mark:
    return Mark(node.start_mark.line + 1, node.start_mark.column + 1)


def _joined(text: str) -> str | None:
    r"""Return text with the surrogate pairs of JSON's ``\ud83d\ude00`` joined, or None when one is alone."""
    if not any("\ud800" <= character <= "\udfff" for character in text):
        return text
    try:
        return text.encode("utf-16", "surrogatepass").decode("utf-16")
    except UnicodeDecodeError:
        return None


def _number_or_constant(text: str, kind: str) -> int | float | bool | str | None:
    if kind == "null":
        return None
    if kind == "bool" and text.lower() in ("true", "false"):
        return text.lower() == "true"
    try:
        if kind == "int" and len(text) <= _NUMERIC_LIMIT:
            return int(text, 0) if text[:2] in ("0o", "0x") else int(text)
        if kind == "float" and len(text) <= _NUMERIC_LIMIT:
            return float(text.replace(".inf", "inf").replace(".nan", "nan"))
    except ValueError:
        pass  # an explicit tag on something that is no number, such as `!!int five`
    return text
