"""User name and password inside a URL: where they are, taking them out, writing them so that every reader agrees.

People paste passwords as they are, and a raw ``@ : / % # ?`` in one makes a URL mean something else (FFmpeg, OpenCV and
urllib disagree on several of them). The rules, for ``scheme://user:password@host/path``:

* A URL that is valid by RFC 3986 means what the RFC says: the user information ends at the last ``@`` before the first
  ``/``, ``?`` or ``#``, provided that a host follows. One exception: a name there, but an IP address behind a later
  ``@`` (``u:p@ss/w@10.0.0.5/x``), means a raw password before that address.
* Otherwise, when the part before the first ``/ ? #`` has a ``:`` and is not an IP address with a port, the password is
  taken to hold those characters, and the user information ends at the last ``@`` of the URL.
* ``%41`` is ambiguous in a raw password: valid percent escapes are kept as escapes, any other ``%`` is a ``%``.
"""

from __future__ import annotations

import re
from urllib.parse import quote, unquote

_AUTHORITY_END = re.compile(r"[/?#]")
_ADDRESS = re.compile(r"(?:\d{1,3}(?:\.\d{1,3}){3}|\[[0-9A-Fa-f:.%]+\])(?::\d*)?")
_ADDRESS_FIRST = re.compile(rf"{_ADDRESS.pattern}(?=[/?#]|$)")
_HOST = re.compile(r"(?:[\w.\-~%]+|\[[0-9A-Fa-f:.%]+\])(?::\d*)?")
_RAW = re.compile(r"%[0-9A-Fa-f]{2}|[^A-Za-z0-9\-._~]", re.DOTALL)


def userinfo_end(text: str, start: int, end: int, *, cautious: bool = False) -> int:
    """Return the index of the ``@`` that ends the user information of a URL, or -1 when it has none.

    ``start`` is just behind ``//``, ``end`` just behind the URL. ``cautious`` prefers to call too much a password
    (redaction): only an IP address is then believed to be the host when another ``@`` follows.
    """
    last = text.rfind("@", start, end)
    if last < 0:
        return -1
    found = _AUTHORITY_END.search(text, start, end)
    authority_end = found.start() if found else end
    at = text.rfind("@", start, authority_end)
    if at < 0:
        bare = text.find(":", start, authority_end) < 0 or _ADDRESS.fullmatch(text, start, authority_end)
        return -1 if bare else last
    if at == last or _ADDRESS.fullmatch(text, at + 1, authority_end):
        return at
    if cautious or _ADDRESS_FIRST.match(text, last + 1, end):
        return last
    return at if _HOST.fullmatch(text, at + 1, authority_end) else last


def split_credentials(url: str) -> tuple[str, str | None, str | None]:
    """Return the URL without its user information, the user and the password, both decoded; None for what is absent."""
    slashes = url.find("://")
    start = slashes + 3
    at = userinfo_end(url, start, len(url)) if slashes >= 0 else -1
    if at < 0:
        return url, None, None
    user, colon, password = url[start:at].partition(":")
    return url[:start] + url[at + 1 :], unquote(user), unquote(password) if colon else None


def with_credentials(url: str, user: str, password: str | None = None) -> str:
    """Return ``url`` with this user and password, taken literally and percent-encoded, in place of any it has."""
    bare, _, _ = split_credentials(url)
    scheme, slashes, rest = bare.partition("://")
    if not slashes:
        raise ValueError("credentials need a URL of the form scheme://host")
    userinfo = quote(user, safe="") + ("" if password is None else ":" + quote(password, safe=""))
    return f"{scheme}://{userinfo}@{rest}"


def normalise_url(url: str) -> str:
    """Return ``url`` with its user information percent-encoded by the rules above; idempotent."""
    slashes = url.find("://")
    start = slashes + 3
    at = userinfo_end(url, start, len(url)) if slashes >= 0 else -1
    if at < 0:
        return url
    user, colon, password = url[start:at].partition(":")
    return url[:start] + _encode(user) + colon + _encode(password) + url[at:]


def _encode(raw: str) -> str:
    return _RAW.sub(lambda found: found[0] if len(found[0]) == 3 else quote(found[0], safe="", errors="replace"), raw)
