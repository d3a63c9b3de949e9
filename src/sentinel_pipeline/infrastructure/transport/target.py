"""Where a sink is: its URL, without the credentials in it."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

import httpx

from sentinel_pipeline.domain.errors import ConfigError
from sentinel_pipeline.domain.redact import MASK, redact

_PORTS = {"http": 80, "https": 443, "ws": 80, "wss": 443}
_SHORTEST_SECRET = 6
_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")  # RFC 9110 section 5.6.2


@dataclass(frozen=True, slots=True)
class Target:
    """A receiver's address.

    url: as configured, without user information and fragment; its query may still hold a token, so it is not shown.
    host: ``host:port``, for messages and logs.
    secure: TLS is spoken.
    authorization: value of the ``Authorization`` header made from ``user:password@`` (RFC 7617), or None.
    """

    url: str = field(repr=False)
    host: str
    secure: bool
    authorization: str | None = field(default=None, repr=False)


def parse_target(url: str, schemes: tuple[str, ...], endpoint: str | None = "") -> Target:
    """Read a receiver's URL.

    ``endpoint`` is appended to the URL's path; None means ``/events`` unless the URL already has a path of its own.
    Raises ``ConfigError`` when the URL is unusable; the message carries no credentials.
    """
    try:
        parts = _split(url, schemes)
        port = parts.port or _PORTS[parts.scheme]
        name = parts.hostname or ""
        name.encode("idna")  # what the resolver will do later, with an error that nobody expects there
        bare = parts._replace(netloc=parts.netloc.rpartition("@")[2], path=_path(parts.path, endpoint), fragment="")
        if not httpx.URL(bare.geturl()).host:  # raises as each request would: 999.1.1.1, an impossible IDNA name
            raise ValueError("it names no host")
    except (ValueError, httpx.InvalidURL) as exc:  # UnicodeError is one
        raise ConfigError(
            f"the URL {redact(url)!r} of a sink cannot be used: {redact(str(exc))}",
            remedy=f"write {schemes[0]}://host:port/path, and percent-encode special characters in a password",
        ) from exc
    host = f"[{name}]" if ":" in name else name
    return Target(bare.geturl(), f"{host}:{port}", parts.scheme in {"https", "wss"}, _basic(parts))


def checked_proxy(proxy: str | None) -> str | None:
    """Return the URL of an HTTP proxy as it is. Raises ``ConfigError`` when it is unusable."""
    if proxy is not None:
        parse_target(proxy, ("http", "https"))
    return proxy


def request_headers(target: Target, headers: Mapping[str, str] | None) -> dict[str, str]:
    """Return the headers that go with every request to ``target``.

    Raises ``ConfigError`` for what HTTP cannot carry, and when credentials are given twice.
    """
    own = dict(headers or {})
    for name, value in own.items():
        if not _TOKEN.fullmatch(name):
            raise ConfigError(f"{name!r} is not the name of an HTTP header")
        if not value.isascii() or not value.isprintable():
            raise ConfigError(f"the value of the header {name!r} has characters that HTTP cannot carry")
    if target.authorization is None:
        return own
    if any(name.lower() == "authorization" for name in own):
        raise ConfigError(
            f"two credentials for {target.host}: in the URL and in the Authorization header", remedy="keep one of them"
        )
    return {**own, "Authorization": target.authorization}


class Mask:
    """Hides what we ourselves send as credentials: receivers quote it in their answers, in words no pattern knows."""

    def __init__(self, target: Target, headers: Mapping[str, str]) -> None:
        sent = [word for value in headers.values() for word in (value, *value.split())]
        sent += [_pair(target.authorization)] if target.authorization else []
        sent += [value for _, value in parse_qsl(urlsplit(target.url).query)]
        parts = {part for text in sent for part in (text, *text.split(":"))}
        # Short values, such as a channel's number, would make the answer unreadable and are no secrets.
        known = sorted((part for part in parts if len(part) >= _SHORTEST_SECRET), key=len, reverse=True)
        self._known = re.compile("|".join(map(re.escape, known))) if known else None

    def __call__(self, text: str) -> str:
        """Return ``text`` with those values masked."""
        return self._known.sub(MASK, text) if self._known is not None else text


def _pair(authorization: str) -> str:
    return base64.b64decode(authorization.removeprefix("Basic ")).decode()


def _split(url: str, schemes: tuple[str, ...]) -> SplitResult:
    if any(c.isspace() or not c.isprintable() for c in url):
        raise ValueError("it has white space or control characters in it")
    parts = urlsplit(url)
    if parts.scheme not in schemes:
        raise ValueError(f"it must begin with {' or '.join(f'{scheme}://' for scheme in schemes)}")
    if not parts.hostname:
        raise ValueError("it names no host")
    return parts


def _path(path: str, endpoint: str | None) -> str:
    if endpoint is None:
        endpoint = "/events" if path in {"", "/"} else ""
    if not endpoint:
        return path or "/"
    return f"{path.rstrip('/')}/{endpoint.lstrip('/')}"


def _basic(parts: SplitResult) -> str | None:
    if parts.username is None:
        return None
    pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
    return "Basic " + base64.b64encode(pair.encode()).decode()
