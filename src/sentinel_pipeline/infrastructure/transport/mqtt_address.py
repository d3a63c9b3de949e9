"""Where an MQTT sink is: broker, credentials and topic prefix, from one URL. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from urllib.parse import SplitResult, unquote, urlsplit

from sentinel_pipeline.domain.errors import ConfigError
from sentinel_pipeline.domain.redact import redact

DEFAULT_PREFIX = "sentinel"
_PORTS = {"mqtt": 1883, "mqtts": 8883}  # registered with IANA
_LONGEST_TOPIC = 65_535  # bytes, MQTT 5 section 1.5.4
_ROOM = 2048  # bytes that the topics below the prefix may take


@dataclass(frozen=True, slots=True)
class MqttAddress:
    """``mqtt://[user:password@]host[:port][/topic/prefix]``; ``mqtts`` speaks TLS.

    host: name or IP address. place: ``host:port`` for messages and logs.
    prefix: what all topics begin with, without a slash at its end.
    """

    host: str
    port: int
    secure: bool
    prefix: str = DEFAULT_PREFIX
    user: str | None = None
    password: str | None = field(default=None, repr=False)

    @property
    def place(self) -> str:
        """Host and port, for people."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_address(url: str) -> MqttAddress:
    """Read the URL of an MQTT sink. Raises ``ConfigError`` without credentials in it."""
    try:
        parts = _split(url)
        port = parts.port or _PORTS[parts.scheme]
        prefix = topic_prefix(parts.path)
    except ValueError as exc:  # UnicodeError is one
        raise ConfigError(
            f"the URL {redact(url)!r} of a sink cannot be used: {redact(str(exc))}",
            remedy="write mqtt://user:password@host:1883/topic/prefix, with special characters percent-encoded",
        ) from exc
    return MqttAddress(
        host=parts.hostname or "",
        port=port,
        secure=parts.scheme == "mqtts",
        prefix=prefix,
        user=None if parts.username is None else unquote(parts.username),
        password=None if parts.password is None else unquote(parts.password),
    )


def topic_prefix(path: str) -> str:
    """Return the topic prefix that the path of a URL names. Raises ``ValueError`` for what no topic can have."""
    prefix = unquote(path, errors="strict").strip("/") or DEFAULT_PREFIX
    if any(character in prefix for character in "+#\0"):
        raise ValueError("a topic that is published to has no + or # in it")  # MQTT 5 section 4.7.1
    if prefix.startswith("$"):
        raise ValueError("topics that begin with $ belong to the broker")  # section 4.7.2
    if len(prefix.encode()) > _LONGEST_TOPIC - _ROOM:
        raise ValueError("the topic prefix is too long")
    return prefix


def _split(url: str) -> SplitResult:
    if any(c.isspace() or not c.isprintable() for c in url):
        raise ValueError("it has white space or control characters in it")
    parts = urlsplit(url)
    if parts.scheme not in _PORTS:
        raise ValueError("it must begin with mqtt:// or mqtts://")
    if not parts.hostname:
        raise ValueError("it names no host")
    if parts.query or parts.fragment:
        raise ValueError("it has a ? or # behind the topic prefix")
    parts.hostname.encode("idna")  # what the resolver will do later, with an error that nobody expects there
    return parts
