"""What the operator decided about sinks, the outbox, the API and the process."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

SinkType = Literal["http", "websocket", "mqtt"]
SinkFormat = Literal["json", "cloudevents"]
CommandName = Literal["snapshot", "restart_stream", "ping"]
COMMANDS: tuple[str, ...] = get_args(CommandName)  # what a server may ask for
WhenFull = Literal["drop_oldest", "refuse"]
LogFormat = Literal["auto", "console", "json"]
LogLevel = Literal["debug", "info", "warning", "error"]


@dataclass(frozen=True, slots=True)
class SinkSpec:
    """One receiver of events.

    url, headers: may carry credentials, so they are not in ``repr``. A websocket has format ``json``.
    max_events: most events in one batch. max_wait: seconds that an event waits for company.
    timeout: seconds per attempt.
    allow_commands: what a websocket's server may ask for. discovery: Home Assistant's discovery prefix, for mqtt.
    """

    id: str
    type: SinkType
    url: str = field(repr=False)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False, hash=False)
    max_events: int = 100
    max_wait: float = 0.2
    timeout: float = 10.0
    format: SinkFormat = "json"
    verify_tls: bool = True
    allow_commands: tuple[str, ...] = ()
    discovery: str | None = None


@dataclass(frozen=True, slots=True)
class OutboxSpec:
    """Where accepted events are kept. ``max_size`` in bytes, ``max_age`` in seconds."""

    path: Path
    max_size: int = 512 * 1024 * 1024
    max_age: float = 7 * 86_400.0
    when_full: WhenFull = "drop_oldest"


@dataclass(frozen=True, slots=True)
class ApiSpec:
    """Where the control plane listens. ``port`` 0 means any free one; ``token`` empty means none is asked for."""

    host: str = "127.0.0.1"
    port: int = 8080
    token: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class RuntimeSpec:
    """The process. ``ffmpeg``: the binary to use, or None for the one that is found.

    ``log_format`` ``auto``: text on a terminal, JSON lines otherwise.
    """

    log_format: LogFormat = "auto"
    log_level: LogLevel = "info"
    ffmpeg: str | None = None
