"""The sections ``outbox``, ``api`` and ``runtime``."""

from __future__ import annotations

from ipaddress import ip_address
from typing import Annotated, Literal

from pydantic import AfterValidator

from sentinel_pipeline.interface.config.fields import DURATION, SIZE, WHOLE, Name, Quantity, fault
from sentinel_pipeline.interface.config.section import Section, optional

_LISTEN_REMEDY = "write HOST:PORT, such as 127.0.0.1:8080 or [::1]:8080"


def split_listen(value: str) -> tuple[str, int]:
    """Return host and port of ``HOST:PORT`` or ``[IPv6]:PORT``. Raises ``ValueError``."""
    host, colon, port = value.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    host = host[1:-1] if bracketed else host
    if not colon or not host or not port.isascii() or not port.isdecimal() or int(port[:6]) > 65_535:
        raise ValueError("not HOST:PORT")
    if bracketed:
        ip_address(host)
    elif not host.isprintable() or any(character in host for character in " /:@[]"):
        raise ValueError("not a host")
    return host, int(port[:6])


def is_loopback(host: str) -> bool:
    """Return whether only this machine can reach ``host``."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def _listen(value: str) -> str:
    try:
        split_listen(value)
    except ValueError:
        raise fault("{value} is not an address to listen on", _LISTEN_REMEDY) from None
    return value


def _token(value: str) -> str:
    if not value.isascii() or not value.isprintable() or " " in value:
        raise fault("the token has characters that an Authorization header cannot carry", "write ASCII without spaces")
    return value


class OutboxSection(Section):
    """Where accepted events are kept until every sink has them."""

    path: Name = optional("var/outbox.db", "SQLite file, relative to the configuration file. On a local disk.")
    max_size: Annotated[int, Quantity(SIZE, "1MiB", "1TiB")] = optional("512MiB", "Most room on the disk.")
    max_age: Annotated[float, Quantity(DURATION, "1m", "365d")] = optional(
        "7d", "Age after which an event that not every sink has taken is dropped, counted and logged."
    )
    when_full: Literal["drop_oldest", "refuse"] = optional(
        "drop_oldest", "At the bound: drop the oldest events, or refuse new ones."
    )


class ApiSection(Section):
    """The HTTP API: how everything is doing."""

    listen: Annotated[str, AfterValidator(_listen)] = optional(
        "127.0.0.1:8080", "HOST:PORT. Port 0 takes any free one. Beyond this machine a token is demanded."
    )
    token: Annotated[str, AfterValidator(_token)] = optional(
        "", "What callers must send as `Authorization: Bearer`. Empty: nothing is asked for.", secret=True
    )


class LogSection(Section):
    """What the program says about itself."""

    format: Literal["auto", "console", "json"] = optional(
        "auto", "console for people, json for machines, auto by whether it is a terminal."
    )
    level: Literal["debug", "info", "warning", "error"] = optional("info", "Least important line that is written.")


class RuntimeSection(Section):
    """The process."""

    workers: Annotated[int, Quantity(WHOLE, 1, 256)] = optional(1, "Worker processes.")
    ffmpeg: Name | None = optional(
        None, "The ffmpeg binary. Without it: the first on PATH, else that of the package imageio-ffmpeg."
    )
    log: LogSection = optional({}, "Logging.")
