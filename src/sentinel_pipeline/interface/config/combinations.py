"""Do the parts of the file that are not about models fit together?"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

from sentinel_pipeline.application.event.emitter import SYNC
from sentinel_pipeline.domain.credentials import normalise_url, split_credentials
from sentinel_pipeline.interface.config.addresses import PUBLISH_FILES, is_local, local_path, place
from sentinel_pipeline.interface.config.files import is_file, resolve
from sentinel_pipeline.interface.config.problems import Problem, Steps
from sentinel_pipeline.interface.config.process_sections import is_loopback, split_listen
from sentinel_pipeline.interface.config.references import is_true
from sentinel_pipeline.interface.config.tree import Document, Node
from sentinel_pipeline.interface.config.units import parse_duration


def check_streams(document: Document, base: Path) -> Iterator[Problem]:
    """Yield what is wrong with each stream as a whole, and between streams."""
    outputs: dict[str, str] = {}
    for stream, node in document.root.entries("streams"):
        path: Steps = ("streams", stream)
        yield from _source_file(document, path, node, base)
        yield from _waits(document, path, node)
        yield from _skipping(document, path, node)
        yield from _watching(document, path, node)
        yield from _rules(document, path, node)
        yield from _output(document, path, node, outputs, base)


def _source_file(document: Document, path: Steps, node: Node, base: Path) -> Iterator[Problem]:
    source = node.text("source")
    if not source or not source.strip() or not is_local(source) or ":" in source.removeprefix("file:"):
        return  # what is blank or looks like a scheme is reported by the field
    if not is_file(resolve(base, local_path(source))):
        message = "this is neither a URL nor a file that exists"
        remedy = f"write rtsp://host/path, or a file, absolute or relative to {base}"
        yield document.problem((*path, "source"), message, remedy)


def _waits(document: Document, path: Steps, node: Node) -> Iterator[Problem]:
    first, longest = node.at("reconnect", "base_delay"), node.at("reconnect", "max_delay")
    try:
        too_long = parse_duration(first.value if first else "1s") > parse_duration(longest.value if longest else "30s")
    except ValueError:
        return  # reported by the field
    if too_long:
        message = "the first wait is longer than the longest"
        where = (*path, "reconnect", "base_delay" if first else "max_delay")
        yield document.problem(where, message, "make `base_delay` at most `max_delay`", at_key=True)


def _skipping(document: Document, path: Steps, node: Node) -> Iterator[Problem]:
    skip, where = node.text("decode", "skip"), (*path, "decode", "skip")
    if skip in ("nonref", "idle") and node.text("decode", "backend") == "opencv":
        message = "OpenCV cannot leave pictures out"
        yield document.problem(where, message, "remove `backend: opencv`, or write `skip: none`")
    motion = node.at("analyse", "motion", "enabled")
    if skip == "idle" and (motion is None or not is_true(motion)):
        message = "without the motion gate nobody knows when nothing moves"
        yield document.problem(where, message, "set `analyse.motion.enabled: true`, or write `skip: none`")


def _watching(document: Document, path: Steps, node: Node) -> Iterator[Problem]:
    if node.text("publish", "when") != "watched":
        return
    where: Steps = (*path, "publish", "when")
    if node.at("publish", "watch", "url") is None:
        message = "nobody says who watches"
        yield document.problem(where, message, "add `watch: {url: http://127.0.0.1:9997/v3/paths/get/NAME}`")
    if any(is_local(url) for _, url in _addresses(node)):
        yield document.problem(where, "nobody can be seen watching a file", "remove the file, or write `when: always`")


def _addresses(node: Node) -> Iterator[tuple[Steps, str]]:
    """Yield the path below the stream, and the text, of each address that it publishes to."""
    one = node.text("publish", "url")
    if one is not None:
        yield ("publish", "url"), one
    for index, text in node.texts("publish", "url"):
        yield ("publish", "url", index), text


def _rules(document: Document, path: Steps, node: Node) -> Iterator[Problem]:
    seen: set[str] = set()
    tracked = node.at("analyse", "track", "enabled")
    for index, rule in node.items("analyse", "rules"):
        where: Steps = (*path, "analyse", "rules", index)
        name = rule.text("name")
        if name is not None and name in seen:
            message = "another rule of this stream has this name"
            yield document.problem((*where, "name"), message, "give each rule a name of its own")
        seen.add(name or "")
        if rule.text("when") != "line":
            continue
        if tracked is not None and is_false(tracked):
            message = "a line is crossed by an object that is followed, and tracking is off"
            yield document.problem((*where, "when"), message, "remove `track.enabled: false`, or use `when: zone`")
        yield from _ends(document, where, rule)


def _ends(document: Document, where: Steps, rule: Node) -> Iterator[Problem]:
    start, end = rule.child("from"), rule.child("to")
    if start and end and isinstance(start.value, list) and start.plain() == end.plain():
        yield document.problem((*where, "to"), "the line ends where it begins", "move one of its ends", at_key=True)


def _output(document: Document, path: Steps, node: Node, outputs: dict[str, str], base: Path) -> Iterator[Problem]:
    enabled = node.child("enabled")
    if enabled is not None and is_false(enabled):
        return
    for below, url in _addresses(node):
        yield from _target_of(document, (*path, *below), node, url, outputs, base)


def _target_of(
    document: Document, where: Steps, node: Node, url: str, outputs: dict[str, str], base: Path
) -> Iterator[Problem]:
    target, stream = _target(url, base), str(where[1])
    if not target:
        return
    if target == _target(node.text("source"), base):
        message = "this is where the stream comes from"
        yield document.problem(where, message, "publish to another path, such as …/annotated")
    elif outputs.get(target) == stream:
        yield document.problem(where, "this address is in the list twice", "remove one of the two")
    elif target in outputs:
        message = f"the stream {outputs[target]} publishes to this address already"
        yield document.problem(where, message, "give each stream an address of its own")
    elif near := next((name for name in outputs if _continues(name, target) or _continues(target, name)), ""):
        message = f"recordings into {Path(near).name} and this file are numbered, and would meet"
        yield document.problem(where, message, "give it a name that does not differ by a number alone")
    outputs.setdefault(target, stream)
    folder = Path(target).parent
    if target.startswith("/") and target.lower().endswith(PUBLISH_FILES) and not os.path.isdir(folder):
        message = "the folder of this file does not exist"
        yield document.problem(where, message, f"create it, or write a path relative to {base}")


def _continues(numbered: str, target: str) -> bool:
    """Return whether recordings into ``target`` go on in ``numbered`` (``rec-2.mp4`` after ``rec.mp4``)."""
    one, other = Path(numbered), Path(target)
    if not target.startswith("/") or one.with_stem(other.stem) != other:
        return False
    return re.fullmatch(re.escape(other.stem) + r"-\d+", one.stem) is not None


def _target(url: str | None, base: Path) -> str:
    """Return what can be compared: the absolute path of a file, or the place of a URL; empty for what is neither."""
    if not url:
        return ""
    try:
        return str(resolve(base, local_path(url))) if is_local(url) else place(normalise_url(url))
    except ValueError:
        return ""


def check_sinks(document: Document) -> Iterator[Problem]:
    """Yield sinks whose name is taken, and those that would send two different credentials."""
    for sink, node in document.root.entries("sinks"):
        if sink == SYNC:
            message = f"{SYNC} is taken: it is what the program calls a receiver inside its own process"
            yield document.problem(("sinks", sink), message, "give the sink another id, such as vms", at_key=True)
        url = node.text("url")
        has_header = any(key.lower() == "authorization" for key, _ in node.entries("headers"))
        if url and has_header and split_credentials(normalise_url(url))[1] is not None:
            message = "there are two credentials: in the URL and in the Authorization header"
            yield document.problem(("sinks", sink, "url"), message, "keep one of them")


def check_process(document: Document, base: Path, environ: Mapping[str, str]) -> Iterator[Problem]:
    """Yield what is wrong with the outbox, the API and the runtime as wholes."""
    yield from _exposed(document)
    outbox = document.root.text("outbox", "path")
    if outbox and os.path.isdir(resolve(base, outbox)):
        yield document.problem(("outbox", "path"), "this is a folder", "name a file in it, such as outbox.db")
    ffmpeg = document.root.text("runtime", "ffmpeg")
    if ffmpeg and shutil.which(binary(ffmpeg, base), path=environ.get("PATH")) is None:
        remedy = "name an ffmpeg that can be run, or remove `ffmpeg` to use the one that is found"
        yield document.problem(("runtime", "ffmpeg"), "there is no such program", remedy)


def binary(name: str, base: Path) -> str:
    """Return a program as it is named when PATH finds it, else its absolute path."""
    return str(resolve(base, name)) if "/" in name else name


def _exposed(document: Document) -> Iterator[Problem]:
    listen, token = document.root.text("api", "listen"), document.root.at("api", "token")
    if listen is None or (token is not None and (token.value or token.broken)):
        return
    try:
        host, _ = split_listen(listen)
    except ValueError:
        return  # reported by the field
    if not is_loopback(host):
        message = "without a token anyone in the network could control the cameras through this address"
        yield document.problem(("api", "listen"), message, "listen on 127.0.0.1, or set `api.token`")


def is_false(node: Node) -> bool:
    """Return whether a node says no, in any of the ways that a truth value can be written."""
    return isinstance(node.value, bool | str | int) and not is_true(node)
