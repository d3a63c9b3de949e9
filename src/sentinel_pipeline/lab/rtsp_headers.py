"""The parts of RTSP messages that have a grammar of their own: request URLs and the ``Transport`` header."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal
from urllib.parse import unquote

from sentinel_pipeline.lab.rtsp_messages import RtspSyntaxError

_URL = re.compile(r"(?P<scheme>rtsps?)://(?:[^/?#]*@)?(?P<host>[^/?#@]*)(?P<rest>.*)", re.IGNORECASE)
_PAIR = re.compile(r"([0-9]{1,5})(?:-([0-9]{1,5}))?")
_MAX_NAME = 200


@dataclass(frozen=True, slots=True)
class TransportOffer:
    """One way of carrying a track that the client offers (RFC 2326 section 12.39).

    pair: interleaved channels (tcp, 0 to 255) or the client's UDP ports (udp) for RTP and RTCP; None when not named.
    """

    lower: Literal["tcp", "udp"]
    pair: tuple[int, int] | None


def transport_offers(value: str) -> list[TransportOffer]:
    """Return the unicast offers of a ``Transport`` header in the client's order; what is not understood is left out.

    Raises ``RtspSyntaxError`` for channel or port numbers that cannot be.
    """
    offers = (_offer([part.strip() for part in text.split(";")]) for text in value.split(","))
    return [offer for offer in offers if offer is not None]


def _offer(parts: list[str]) -> TransportOffer | None:
    settings = {name.strip().lower(): text.strip() for name, _, text in (part.partition("=") for part in parts[1:])}
    if "multicast" in settings:
        return None
    match parts[0].upper():
        case "RTP/AVP/TCP":
            return TransportOffer("tcp", _pair(settings.get("interleaved"), 255))
        case "RTP/AVP" | "RTP/AVP/UDP":
            return TransportOffer("udp", _pair(settings.get("client_port"), 65535))
        case _:
            return None


def _pair(text: str | None, highest: int) -> tuple[int, int] | None:
    if text is None:
        return None
    found = _PAIR.fullmatch(text)
    if found is None:
        raise RtspSyntaxError("a Transport header has a malformed range")
    first = int(found[1])
    second = int(found[2]) if found[2] else first + 1
    if not 0 <= first < second <= highest:
        raise RtspSyntaxError("a Transport header has a range that cannot be")
    return first, second


def url_rest(url: str) -> str:
    """Return what follows the authority in an RTSP URL, without slashes around it; user info never gets through."""
    return _split(url)["rest"].strip("/")


def base_url(url: str) -> str:
    """Return the ``Content-Base`` for a request URL: without user info and query, with the slash that clients need."""
    found = _split(url)
    path = re.split(r"[?#]", found["rest"], maxsplit=1)[0].strip("/")
    return f"{found['scheme']}://{found['host']}/{path}/"


def _split(url: str) -> re.Match[str]:
    found = _URL.fullmatch(url)
    if found is None:
        raise RtspSyntaxError("a request URL is not an rtsp:// URL")
    return found


def path_name(rest: str) -> str:
    """Return the name of the path: decoded, without query and surrounding slashes.

    Raises ``RtspSyntaxError`` for names that are too long or not printable: they end up in logs.
    """
    name = unquote(re.split(r"[?#]", rest, maxsplit=1)[0]).strip("/")
    if len(name) > _MAX_NAME or not name.isprintable():
        raise RtspSyntaxError("a path name is too long or not printable")
    return name


def without_control(rest: str, control: str) -> str | None:
    """Return ``rest`` without a track's control name at its end, or None when it does not end in it.

    FFmpeg appends the name behind a query, too: ``cam1?key=value/streamid=0``.
    """
    if rest == control:
        return ""
    return rest.removesuffix(f"/{control}") if rest.endswith(f"/{control}") else None
