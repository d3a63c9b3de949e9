"""RTSP 1.0 messages and interleaved packets, read and written without any I/O (RFC 2326; limits of our own)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

MAX_HEAD_BYTES = 16 * 1024  # start line and headers of one message
MAX_BODY_BYTES = 64 * 1024  # an SDP is a few hundred bytes

_DOLLAR = 0x24  # first byte of an interleaved packet, RFC 2326 section 10.12
_NEWLINES = b"\r\n"
_END_OF_HEAD = re.compile(rb"\r?\n\r?\n")  # RFC 2326 section 4: bare LF is to be understood, too
_LINE_BREAK = re.compile(r"\r?\n")
_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_TOKEN_BYTES = frozenset(b"!#%&'*+-.^_`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz")
_REQUEST_LINE = re.compile(r"(\S+) (\S+) RTSP/([0-9]\.[0-9])")
_STATUS_LINE = re.compile(r"RTSP/([0-9]\.[0-9]) ([1-9][0-9]{2})(?: (.*))?")
_DIGITS = re.compile(r"[0-9]{1,9}")

REASONS = {
    200: "OK",
    400: "Bad Request",
    401: "Unauthorized",
    403: "Forbidden",
    404: "Not Found",
    405: "Method Not Allowed",
    413: "Request Entity Too Large",
    415: "Unsupported Media Type",
    454: "Session Not Found",
    455: "Method Not Valid in This State",
    461: "Unsupported Transport",
    500: "Internal Server Error",
    501: "Not Implemented",
    503: "Service Unavailable",
    505: "RTSP Version Not Supported",
    551: "Option Not Supported",
}

Headers = tuple[tuple[str, str], ...]


class RtspSyntaxError(ValueError):
    """What the peer sent is no RTSP; ``status`` is the answer to give before closing the connection."""

    def __init__(self, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.status = status


class Interleaved(NamedTuple):
    """One packet inside the RTSP connection. ``sized``: its length in two bytes, big endian, then the packet itself.

    The length stays in front so that forwarding to another channel needs no new header.
    """

    channel: int
    sized: bytes


@dataclass(frozen=True, slots=True)
class Message:
    """What requests and responses have in common. Header names are compared without regard to case."""

    headers: Headers = ()
    body: bytes = b""

    def header(self, name: str) -> str:
        """Return the value of a header, repeated ones joined by a comma (RFC 2326 section 4.2), or an empty string."""
        wanted = name.lower()
        return ", ".join(value for key, value in self.headers if key.lower() == wanted)

    def _encode(self, start_line: str) -> bytes:
        lines = [start_line, *(f"{name}: {value}" for name, value in self.headers)]
        if self.body:
            lines.append(f"Content-Length: {len(self.body)}")
        return "\r\n".join([*lines, "", ""]).encode() + self.body


@dataclass(frozen=True, slots=True)
class Request(Message):
    """A request; ``url`` as it came, still percent-encoded."""

    method: str = field(kw_only=True)
    url: str = field(kw_only=True)
    version: str = field(kw_only=True, default="1.0")

    def encode(self) -> bytes:
        """Return the bytes to send; ``Content-Length`` is added when there is a body."""
        return self._encode(f"{self.method} {self.url} RTSP/{self.version}")


@dataclass(frozen=True, slots=True)
class Response(Message):
    """A response; without ``reason`` the usual phrase of the status is sent."""

    status: int = field(kw_only=True)
    reason: str = field(kw_only=True, default="")
    version: str = field(kw_only=True, default="1.0")

    def encode(self) -> bytes:
        """Return the bytes to send; ``Content-Length`` is added when there is a body."""
        reason = self.reason or REASONS.get(self.status, "Unknown")
        return self._encode(f"RTSP/{self.version} {self.status} {reason}")


@dataclass(frozen=True, slots=True)
class _Head:
    """A message whose body has not come completely yet."""

    start_line: str
    headers: Headers
    body_bytes: int


class MessageReader:
    """Cuts a byte stream into messages and interleaved packets; how the stream is split into chunks does not matter."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._head: _Head | None = None

    def feed(self, data: bytes | memoryview) -> Iterator[Request | Response | Interleaved]:
        """Take the next bytes and yield what is complete. Iterate to the end before feeding again.

        Raises ``RtspSyntaxError``; after that the stream has lost its framing and the reader is of no more use.
        """
        buffer = self._buffer
        buffer += data
        start, end = 0, len(buffer)
        try:
            while start < end:
                if self._head is None and buffer[start] == _DOLLAR:
                    stop = _packet_end(buffer, start)
                    if stop is None:
                        return
                    packet = Interleaved(buffer[start + 1], bytes(buffer[start + 2 : stop]))
                    start = stop
                    yield packet
                elif self._head is None and buffer[start] in _NEWLINES:
                    start += 1  # empty lines before a message are ignored, RFC 7826 section 20.2.1
                else:
                    start, message = self._message(start)
                    if message is None:
                        return
                    yield message
        finally:
            del buffer[:start]

    def _message(self, start: int) -> tuple[int, Request | Response | None]:
        """Return where to go on, and the message that begins at ``start``, None when more bytes are needed."""
        buffer = self._buffer
        if self._head is None:
            found = _find_head(buffer, start)
            if found is None:
                return start, None
            self._head = _parse_head(bytes(buffer[start : found[0]]))
            start = found[1]
        stop = start + self._head.body_bytes
        if stop > len(buffer):
            return start, None
        message = _build(self._head, bytes(buffer[start:stop]))
        self._head = None
        return stop, message


def _packet_end(buffer: bytearray, start: int) -> int | None:
    """Return where the interleaved packet at ``start`` ends, or None when more bytes are needed."""
    if len(buffer) - start < 4:
        return None
    stop = start + 4 + (buffer[start + 2] << 8 | buffer[start + 3])
    return stop if stop <= len(buffer) else None


def _find_head(buffer: bytearray, start: int) -> tuple[int, int] | None:
    """Return where the head ends and where the body begins, or None when more bytes are needed."""
    if buffer[start] not in _TOKEN_BYTES:  # TLS and the like are recognised by their first byte
        raise RtspSyntaxError(f"a message cannot begin with byte 0x{buffer[start]:02x}")
    found = _END_OF_HEAD.search(buffer, start, start + MAX_HEAD_BYTES)
    if found is not None:
        return found.span()
    if len(buffer) - start >= MAX_HEAD_BYTES:
        raise RtspSyntaxError(f"a message's head is longer than {MAX_HEAD_BYTES} bytes", 413)
    return None


def _parse_head(raw: bytes) -> _Head:
    try:
        lines = _LINE_BREAK.split(raw.decode())
    except UnicodeDecodeError as exc:
        raise RtspSyntaxError("a message's head is not UTF-8") from exc
    headers: list[tuple[str, str]] = []
    for line in lines[1:]:
        if line[:1] in {" ", "\t"} and headers:  # folded line, RFC 2326 section 4.2 by way of RFC 2616 section 2.2
            headers[-1] = (headers[-1][0], f"{headers[-1][1]} {line.strip()}".strip())
            continue
        name, colon, value = line.partition(":")
        if not colon or _TOKEN.fullmatch(name.rstrip()) is None:
            raise RtspSyntaxError("a header line has no name")
        headers.append((name.rstrip(), value.strip()))
    return _Head(lines[0], tuple(headers), _content_length(headers))


def _content_length(headers: list[tuple[str, str]]) -> int:
    values = {value for name, value in headers if name.lower() == "content-length"}
    if not values:
        return 0
    if len(values) > 1 or _DIGITS.fullmatch(value := values.pop()) is None:
        raise RtspSyntaxError("Content-Length is not one number")
    if int(value) > MAX_BODY_BYTES:
        raise RtspSyntaxError(f"a body is longer than {MAX_BODY_BYTES} bytes", 413)
    return int(value)


def _build(head: _Head, body: bytes) -> Request | Response:
    if (status := _STATUS_LINE.fullmatch(head.start_line)) is not None:
        version, code, reason = status.groups(default="")
        return Response(head.headers, body, status=int(code), reason=reason, version=version)
    line = _REQUEST_LINE.fullmatch(head.start_line)
    if line is None or _TOKEN.fullmatch(line[1]) is None:
        raise RtspSyntaxError("a message begins with neither a request line nor a status line")
    return Request(head.headers, body, method=line[1], url=line[2], version=line[3])
