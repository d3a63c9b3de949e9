"""The session description (SDP, RFC 8866) of a publisher, and the one that the relay hands to players."""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import pairwise

from sentinel_pipeline.lab.rtsp_messages import RtspSyntaxError

_LINE_BREAK = re.compile(r"\r?\n")
_CONTROL = "a=control:"


@dataclass(frozen=True, slots=True)
class Description:
    """What a publisher announced.

    controls: the publisher's own name of each track, in order: the end of its SETUP URL.
    sdp: for players; everything as announced (``fmtp`` above all: with ``-c copy`` FFmpeg sends the H.264 parameter
    sets nowhere else), but each track is called ``trackID=N``.
    """

    controls: tuple[str, ...]
    sdp: bytes


def track_name(track: int) -> str:
    """Return what players call a track, counted from 0."""
    return f"trackID={track}"


def read_description(body: bytes) -> Description:
    """Read the body of an ANNOUNCE. Raises ``RtspSyntaxError`` when it describes no track."""
    try:
        lines = [line.rstrip() for line in _LINE_BREAK.split(body.decode()) if line.strip()]
    except UnicodeDecodeError as exc:
        raise RtspSyntaxError("the SDP is not UTF-8") from exc
    session, tracks = _sections(lines)
    if not tracks or not session or session[0] != "v=0":
        raise RtspSyntaxError("the SDP describes no track")
    rewritten = [*_without_addresses(session), f"{_CONTROL}*"]
    for number, section in enumerate(tracks):
        rewritten += [*_without_addresses(section), f"{_CONTROL}{track_name(number)}"]
    controls = tuple(_control(section, number) for number, section in enumerate(tracks))
    return Description(controls, "\r\n".join([*rewritten, ""]).encode())


def _sections(lines: list[str]) -> tuple[list[str], list[list[str]]]:
    """Split into the session's lines and each track's lines."""
    edges = [*(number for number, line in enumerate(lines) if line.startswith("m=")), len(lines)]
    return lines[: edges[0]], [lines[start:end] for start, end in pairwise(edges)]


def _without_addresses(section: list[str]) -> list[str]:
    """Drop control names, and replace the publisher's address and port by none (RFC 2326 sections C.1.2 and C.1.7)."""
    kept = []
    for line in section:
        if line.startswith(_CONTROL):
            continue
        if line.startswith("c="):
            kept.append("c=IN IP4 0.0.0.0" if "IP4" in line else "c=IN IP6 ::")
        elif line.startswith("m="):
            kept.append(re.sub(r"^(m=\S+) \S+", r"\1 0", line))
        else:
            kept.append(line)
    return kept


def _control(section: list[str], number: int) -> str:
    names = [line.removeprefix(_CONTROL).strip() for line in section if line.startswith(_CONTROL)]
    return names[0].rsplit("/", 1)[-1] if names else track_name(number)
