"""What all connections of one relay share: its settings, its paths and its UDP ports. Lives in one event loop."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from sentinel_pipeline.lab.rtsp_auth import Access, Auth, Guard
from sentinel_pipeline.lab.rtsp_path import RelayPath
from sentinel_pipeline.lab.rtsp_udp import UdpPorts

MAX_PATHS = 1000  # whoever may publish can invent names: not without end
Transport = Literal["tcp", "udp"]


@dataclass(frozen=True, slots=True)
class RelaySettings:
    """How a relay works.

    credentials: user to password, None when everybody may do everything.
    guard: who has to show them: ``both``, ``players`` or ``publishers``.
    transports: what clients may choose; many cameras offer TCP only.
    session_timeout_s: how long a client may be silent (RFC 2326 section 12.37); players over TCP always may.
    write_buffer_bytes: what waits for one slow player at most; packets above that are dropped and counted.
    """

    host: str = "127.0.0.1"
    port: int = 0
    credentials: Mapping[str, str] | None = field(default=None, repr=False)
    auth: Auth = "digest"
    guard: Guard = "both"
    allow_takeover: bool = False
    transports: frozenset[Transport] = frozenset({"tcp", "udp"})
    session_timeout_s: float = 60.0
    write_buffer_bytes: int = 4 * 1024 * 1024


class RelayContext:
    """Settings, paths and ports. ``muted``: no request to any path is answered."""

    def __init__(self, settings: RelaySettings, udp: UdpPorts | None, on_change: Callable[[], None]) -> None:
        self.settings = settings
        self.access = Access(settings.auth, settings.credentials, settings.guard)
        self.udp = udp
        self.muted = False
        self.paths: dict[str, RelayPath] = {}
        self._on_change = on_change

    def find(self, name: str) -> RelayPath | None:
        """Return a path that has had a publisher or a fault, or None."""
        return self.paths.get(name)

    def path(self, name: str) -> RelayPath:
        """Return the path ``name``, made when it is new. Raises ``OverflowError`` when there are too many."""
        if name not in self.paths:
            if len(self.paths) >= MAX_PATHS:
                raise OverflowError(f"more than {MAX_PATHS} paths")
            self.paths[name] = RelayPath(name, self._on_change)
        return self.paths[name]
