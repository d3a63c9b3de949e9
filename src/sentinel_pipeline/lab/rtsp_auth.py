"""Checks of Basic (RFC 7617) and Digest (RFC 7616, and RFC 2069 as cameras speak it) credentials, without I/O."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
from collections.abc import Mapping
from typing import Literal, get_args

from sentinel_pipeline.lab.rtsp_messages import Request

Auth = Literal["basic", "digest"]
Guard = Literal["both", "players", "publishers"]
REALM = "sentinel lab"

_PARAMETER = re.compile(r'([A-Za-z0-9_-]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s,"]+))')
_GUARDED: dict[Guard, tuple[bool, ...]] = {"both": (True, False), "players": (False,), "publishers": (True,)}
_HASHES = {"MD5": "md5", "SHA-256": "sha256"}


class Access:
    """Who has to show credentials, and whether they are good. Raises ``ValueError`` for unknown schemes and guards."""

    def __init__(self, auth: Auth, credentials: Mapping[str, str] | None, guard: Guard) -> None:
        if auth not in get_args(Auth) or guard not in get_args(Guard):
            raise ValueError(f"auth must be one of {get_args(Auth)}, guard one of {get_args(Guard)}")
        self._authenticator: BasicAuth | DigestAuth = (BasicAuth if auth == "basic" else DigestAuth)(credentials or {})
        self._guarded = () if credentials is None else _GUARDED[guard]

    def challenge(self, nonce: str) -> str:
        """Return the value of ``WWW-Authenticate``."""
        return self._authenticator.challenge(nonce)

    def allows(self, request: Request, nonce: str, *, publishing: bool) -> bool:
        """Return whether the client may do what it asks for; ``publishing`` tells in which role it asks."""
        return publishing not in self._guarded or self._authenticator.accepts(request, nonce)


class BasicAuth:
    """User and password in Base64. ``credentials``: user to password."""

    def __init__(self, credentials: Mapping[str, str]) -> None:
        self._credentials = dict(credentials)

    def challenge(self, nonce: str) -> str:  # noqa: ARG002 - Basic has no nonce
        """Return the value of ``WWW-Authenticate``."""
        return f'Basic realm="{REALM}"'

    def accepts(self, request: Request, nonce: str) -> bool:  # noqa: ARG002 - Basic has no nonce
        """Return whether the request carries a known user and its password."""
        scheme, _, encoded = request.header("Authorization").partition(" ")
        if scheme.lower() != "basic":
            return False
        try:
            user, _, password = base64.b64decode(encoded.strip(), validate=True).decode().partition(":")
        except (binascii.Error, UnicodeDecodeError):
            return False
        expected = self._credentials.get(user)
        return expected is not None and hmac.compare_digest(password.encode(), expected.encode())


class DigestAuth:
    """A hash over user, password, nonce, method and URL. ``credentials``: user to password.

    The challenge is RFC 2069's (MD5, no ``qop``), which every camera and client understands; answers with
    ``qop=auth`` and with SHA-256 are accepted as well.
    """

    def __init__(self, credentials: Mapping[str, str], realm: str = REALM) -> None:
        self._credentials = dict(credentials)
        self._realm = realm

    def challenge(self, nonce: str) -> str:
        """Return the value of ``WWW-Authenticate``."""
        return f'Digest realm="{self._realm}", nonce="{nonce}"'

    def accepts(self, request: Request, nonce: str) -> bool:
        """Return whether the request carries the right hash for a known user, this nonce and its own URL."""
        scheme, _, text = request.header("Authorization").partition(" ")
        given = digest_parameters(text)
        password = self._credentials.get(given.get("username", ""))
        algorithm = _HASHES.get(given.get("algorithm", "MD5").upper())
        if scheme.lower() != "digest" or password is None or algorithm is None:
            return False
        if given.get("realm") != self._realm or given.get("nonce") != nonce or given.get("uri") != request.url:
            return False
        expected = _response(algorithm, given, password, request.method)
        return hmac.compare_digest(given.get("response", "").encode(), expected.encode())


def digest_parameters(text: str) -> dict[str, str]:
    """Return the ``name="value"`` and ``name=value`` parameters of a Digest header."""
    return {name.lower(): bare or re.sub(r"\\(.)", r"\1", quoted) for name, quoted, bare in _PARAMETER.findall(text)}


def _response(algorithm: str, given: Mapping[str, str], password: str, method: str) -> str:
    """RFC 7616 section 3.4.1; without ``qop`` the older form of RFC 2069 section 2.1.2."""

    def digest(*parts: str) -> str:
        return hashlib.new(algorithm, ":".join(parts).encode(), usedforsecurity=False).hexdigest()

    secret = digest(given["username"], given["realm"], password)
    what = digest(method, given["uri"])
    if given.get("qop") == "auth":
        return digest(secret, given["nonce"], given.get("nc", ""), given.get("cnonce", ""), "auth", what)
    return digest(secret, given["nonce"], what)
