"""URLs of cameras, outputs and receivers: which are possible, and when two of them mean the same place."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Annotated
from urllib.parse import SplitResult, unquote, urlsplit

from pydantic import AfterValidator, BeforeValidator, WithJsonSchema
from pydantic_core import PydanticCustomError

from sentinel_pipeline.domain.credentials import normalise_url, split_credentials
from sentinel_pipeline.interface.config.fields import fault
from sentinel_pipeline.interface.config.suggestions import closest, listing

SOURCE_SCHEMES = ("rtsp", "rtsps", "rtmp", "rtmps", "http", "https", "srt", "udp")
PUBLISH_SCHEMES = ("rtsp", "rtsps", "rtmp", "rtmps", "srt")
PUBLISH_FILES = (".mp4", ".mkv", ".ts")
_NEEDS_PORT = ("srt", "udp")  # they have no default
_PORTS = {
    "rtsp": 554,
    "rtsps": 322,
    "rtmp": 1935,
    "rtmps": 443,
    "http": 80,
    "https": 443,
    "ws": 80,
    "wss": 443,
    "mqtt": 1883,
    "mqtts": 8883,
}

_TEST = re.compile(r"test:(?:([0-9]{2,4})x([0-9]{2,4}))?(?:@([0-9]{1,3}))?", re.ASCII)
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):")
_TEST_REMEDY = "write test:WIDTHxHEIGHT@FPS, such as test:1280x720@25, with even sizes from 16 to 8192 and 1 to 120 fps"


def _camera(value: str) -> str:
    if value.startswith("test:"):
        return _test_pattern(value)
    if is_local(value):
        return _local(value, SOURCE_SCHEMES)
    return _network(value, SOURCE_SCHEMES, "a camera")


def _output(value: str) -> str:
    if not is_local(value):
        return _network(value, PUBLISH_SCHEMES, "an output")
    if not local_path(value).lower().endswith(PUBLISH_FILES):
        raise fault(
            "nothing can be published to this file", f"end its name in {listing(PUBLISH_FILES)}, or write a URL"
        )
    return _local(value, PUBLISH_SCHEMES)


def _http(value: str) -> str:
    return _network(value, ("http", "https"), "an http sink", ("ws", "wss"), "type: websocket")


def _status(value: str) -> str:
    return _network(value, ("http", "https"), "the API of a media server")


def _websocket(value: str) -> str:
    return _network(value, ("ws", "wss"), "a websocket sink", ("http", "https"), "type: http")


def _mqtt(value: str) -> str:
    url = _network(value, ("mqtt", "mqtts"), "an mqtt sink", ("tcp", "ssl"), "mqtt:// or mqtts://")
    parts = urlsplit(url)
    prefix = unquote(parts.path).strip("/")
    if parts.query or parts.fragment or any(character in prefix for character in "+#\0") or prefix.startswith("$"):
        raise fault(
            "the path of this URL is no topic prefix", "write mqtt://host:1883/topic/prefix, without ? # + and $ in it"
        )
    return url


def _listed(one: Callable[[str], str]) -> Callable[[object], tuple[str, ...]]:
    """Return what reads one address or a list of them. A fault in a list says which of them it is about."""

    def read(value: object) -> tuple[str, ...]:
        if isinstance(value, str):
            return (one(value),)
        if not isinstance(value, list | tuple) or not value or not all(isinstance(item, str) for item in value):
            raise fault("{value} is not an address", "write a URL, or a list of URLs")
        return tuple(_numbered(one, number, item) for number, item in enumerate(value, 1))

    return read


def _numbered(one: Callable[[str], str], number: int, value: str) -> str:
    try:
        return one(value)
    except PydanticCustomError as exc:
        context = exc.context or {}
        raise fault(f"address {number} of the list: {context['message']}", context["remedy"]) from None


SourceUrl = Annotated[str, AfterValidator(_camera)]
_SOME_TEXT = {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}, "minItems": 1}]}
PublishUrls = Annotated[tuple[str, ...], BeforeValidator(_listed(_output)), WithJsonSchema(_SOME_TEXT)]
WatchUrls = Annotated[tuple[str, ...], BeforeValidator(_listed(_status)), WithJsonSchema(_SOME_TEXT)]
HttpUrl = Annotated[str, AfterValidator(_http)]
MqttUrl = Annotated[str, AfterValidator(_mqtt)]
WebSocketUrl = Annotated[str, AfterValidator(_websocket)]


def is_local(value: str) -> bool:
    """Return whether a source or an output is a file: a path, or a ``file:`` URL."""
    return value.startswith("file:") or ("://" not in value and not value.startswith("test:"))


def local_path(value: str) -> str:
    """Return the path of a file given as a path or as a ``file:`` URL."""
    if not value.startswith("file:"):
        return value
    try:
        return unquote(urlsplit(value).path) if value.startswith("file://") else value.removeprefix("file:")
    except ValueError:
        return ""


def place(value: str) -> str:
    """Return what two URLs of the same place have in common: no credentials, no default port, no trailing slash.

    The text is for comparing, not for showing. Raises ``ValueError`` for what is not a URL.
    """
    bare, _, _ = split_credentials(value)
    parts = urlsplit(bare)
    port = parts.port or _PORTS.get(parts.scheme)
    return f"{parts.scheme}://{parts.hostname}:{port}{parts.path.rstrip('/')}?{parts.query}"


def _test_pattern(value: str) -> str:
    match = _TEST.fullmatch(value)
    if match is None:
        raise fault("this is not a test pattern", _TEST_REMEDY)
    width, height, fps = int(match[1] or 1280), int(match[2] or 720), int(match[3] or 25)
    if not (16 <= width <= 8192 and 16 <= height <= 8192 and 1 <= fps <= 120) or width % 2 or height % 2:
        raise fault("this test pattern is not possible", _TEST_REMEDY)
    return f"test:{width}x{height}@{fps}"


def _local(value: str, schemes: tuple[str, ...]) -> str:
    path = local_path(value)
    scheme = _SCHEME.match(path)
    if scheme and scheme[1].lower() in schemes:
        raise fault(f"a URL needs // after {scheme[1]}:", f"write {scheme[1]}://host/path")
    if not path.strip() or not path.isprintable():
        raise fault("this names no file", f"write a path, or a URL that begins with {listing(schemes)}")
    return value


def _network(value: str, schemes: tuple[str, ...], what: str, others: tuple[str, ...] = (), instead: str = "") -> str:
    scheme, _, rest = value.partition("://")
    if scheme.lower() not in schemes:
        raise _wrong_scheme(scheme.lower(), schemes, what, others, instead)
    url = normalise_url(f"{scheme.lower()}://{rest}")
    parts, port = _split(url)
    if port is None and parts.scheme in _NEEDS_PORT:
        raise fault(f"a {parts.scheme} URL needs a port", f"write {parts.scheme}://host:port")
    return url


def _split(url: str) -> tuple[SplitResult, int | None]:
    if any(character.isspace() or not character.isprintable() for character in url):
        raise fault("this URL has white space or control characters in it", "write a space as %20")
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
        (host or "").encode("idna")  # what the resolver does later, with an error that nobody expects there
    except ValueError:  # UnicodeError is one
        raise fault(
            "this is not a URL", "write scheme://user:password@host:port/path, with / ? # in a password as %2F %3F %23"
        ) from None
    if not host or port == 0:
        raise fault(
            "this URL names no host" if not host else "port 0 cannot be connected to", "write scheme://host:port/path"
        )
    return parts, port


def _wrong_scheme(scheme: str, schemes: tuple[str, ...], what: str, others: tuple[str, ...], instead: str) -> Exception:
    known = [f"{name}://" for name in schemes]
    if scheme in others:
        return fault(f"{what} cannot be reached by {scheme}://", f"write {instead}, or a URL with {listing(known)}")
    if not re.fullmatch(r"[a-z][a-z0-9+.-]{0,15}", scheme):
        return fault("this is not a URL", f"begin it with {listing(known)}")
    near = closest(scheme, schemes)
    hint = f"did you mean {near}://? " if near else ""
    return fault(f"{what} cannot be reached by {scheme}://", f"{hint}write {listing(known)}")
