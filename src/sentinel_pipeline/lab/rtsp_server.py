"""The relay's sockets and clock inside an event loop."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable

import structlog

from sentinel_pipeline.lab.rtsp_connection import RtspConnection
from sentinel_pipeline.lab.rtsp_context import RelayContext, RelaySettings
from sentinel_pipeline.lab.rtsp_udp import UdpPorts

log = structlog.get_logger(__name__)

_BACKLOG = 128
_CLOSE_DEADLINE_S = 0.8


class RtspServer:
    """Accepts clients between ``start`` and ``close``. Lives in one event loop."""

    def __init__(self, settings: RelaySettings, on_change: Callable[[], None]) -> None:
        self._settings = settings
        self._on_change = on_change
        self._connections: set[RtspConnection] = set()
        self._server: asyncio.Server | None = None
        self._sweep_timer: asyncio.TimerHandle | None = None
        self.context: RelayContext
        self.port = 0

    async def start(self) -> None:
        """Bind and listen. Raises ``OSError``; then nothing is left open."""
        loop = asyncio.get_running_loop()
        listener = _listen(self._settings.host, self._settings.port)
        udp = None
        try:
            if "udp" in self._settings.transports:
                udp = UdpPorts(listener.family, listener.getsockname()[0])
            self.context = RelayContext(self._settings, udp, self._on_change)
            self._server = await loop.create_server(
                lambda: RtspConnection(self.context, self._connections), sock=listener, backlog=_BACKLOG
            )
        except BaseException:
            listener.close()
            if udp is not None:
                udp.close(loop)
            raise
        if udp is not None:
            udp.start(loop)
        self.port = listener.getsockname()[1]
        self._sweep()
        log.info("rtsp relay listens", host=self._settings.host, port=self.port)

    async def close(self) -> None:
        """Close all sockets and end all sessions, within a second."""
        if self._server is None:
            return
        self._server.close()
        if self._sweep_timer is not None:
            self._sweep_timer.cancel()
        for connection in list(self._connections):
            connection.abort()
        if self._connections:
            await asyncio.wait([each.closed for each in self._connections], timeout=_CLOSE_DEADLINE_S)
        if self.context.udp is not None:
            self.context.udp.close(asyncio.get_running_loop())
        self._server = None

    def _sweep(self) -> None:
        loop = asyncio.get_running_loop()
        for connection in [each for each in self._connections if each.is_forgotten(loop.time())]:
            connection.close()
        self._sweep_timer = loop.call_later(min(5.0, self._settings.session_timeout_s / 4), self._sweep)


def _listen(host: str, port: int) -> socket.socket:
    """Return a listening socket on the first address of ``host`` only, so that UDP can use the same one."""
    family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    return socket.create_server(address[:2], family=family, backlog=_BACKLOG)
