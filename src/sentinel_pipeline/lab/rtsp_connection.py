"""One TCP connection to the relay: bytes in, requests and packets out of them, answers and packets back."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Callable, Sequence

from sentinel_pipeline.lab.rtsp_context import RelayContext
from sentinel_pipeline.lab.rtsp_link import Packet
from sentinel_pipeline.lab.rtsp_messages import (
    Interleaved,
    MessageReader,
    Request,
    Response,
    RtspSyntaxError,
)
from sentinel_pipeline.lab.rtsp_session import RtspSession

_RECEIVE_BYTES = 64 * 1024
_FLUSH_DEADLINE_S = 0.5  # a client that does not take its last bytes by then is cut off
_LINGER_RST = struct.pack("ii", 1, 0)  # SO_LINGER with zero seconds: close() sends RST, see socket(7)


class RtspConnection(asyncio.BufferedProtocol):
    """Implements ``Link`` on an asyncio transport. ``open_connections``: adds itself, and leaves when it is closed."""

    def __init__(self, relay: RelayContext, open_connections: set[RtspConnection]) -> None:
        self._relay = relay
        self._open = open_connections
        self._loop = asyncio.get_running_loop()
        self._reader = MessageReader()
        self._received = bytearray(_RECEIVE_BYTES)
        self._held: list[bytes] | None = None
        self._heard_at = self._loop.time()
        self._session = RtspSession(relay, self)
        self._transport: asyncio.Transport
        self.closed: asyncio.Future[None] = self._loop.create_future()
        self.peer = ""
        self.full = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin; called by the event loop."""
        assert isinstance(transport, asyncio.Transport)  # noqa: S101 - for the type checker
        self._transport = transport
        self.peer = transport.get_extra_info("peername")[0]
        limit = self._relay.settings.write_buffer_bytes
        transport.set_write_buffer_limits(high=limit, low=limit // 2)
        self._open.add(self)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - whoever closed it, the session ends
        """Let go of everything; called by the event loop."""
        self._open.discard(self)
        self._session.end()
        self.closed.set_result(None)

    def pause_writing(self) -> None:
        """The write buffer has reached its bound; called by the event loop."""
        self.full = True

    def resume_writing(self) -> None:
        """Half of the write buffer is free again; called by the event loop."""
        self.full = False

    def get_buffer(self, sizehint: int) -> bytearray:  # noqa: ARG002 - one size for all
        """Return where to put received bytes; called by the event loop."""
        return self._received

    def buffer_updated(self, nbytes: int) -> None:
        """Handle received bytes; called by the event loop."""
        self._heard_at = self._loop.time()
        packets: list[Interleaved] = []
        try:
            for event in self._reader.feed(memoryview(self._received)[:nbytes]):
                if isinstance(event, Interleaved):
                    packets.append(event)
                elif isinstance(event, Request):
                    self._forward(packets)  # what came before a TEARDOWN still counts
                    self._answer(event)
        except RtspSyntaxError as exc:
            self.write(Response(status=exc.status).encode())
            self.close()
        self._forward(packets)

    def write(self, data: bytes) -> None:
        """Queue bytes."""
        if self._held is not None:
            self._held.append(data)
        elif not self._transport.is_closing():
            self._transport.write(data)

    def soon(self, work: Callable[[], None]) -> None:
        """Call ``work`` after the answer under way has been written."""
        self._loop.call_soon(work)

    def packets(self, batch: Sequence[Packet]) -> None:
        """Take packets that came from this client over UDP."""
        self._heard_at = self._loop.time()
        self._session.packets(batch)

    def hold_back(self, data: bytes) -> None:
        """Keep ``data``, and everything written later (answers to keep-alive requests), until ``let_go``."""
        self._held = [data]

    def let_go(self) -> None:
        """Send what was held back."""
        held, self._held = self._held, None
        if held is not None:
            self.write(b"".join(held))

    def stop_reading(self) -> None:
        """Let the client run into a full TCP window."""
        if not self._transport.is_closing():
            self._transport.pause_reading()

    def go_on_reading(self) -> None:
        """Undo ``stop_reading``."""
        if not self._transport.is_closing():
            self._transport.resume_reading()

    def close(self) -> None:
        """End the connection; what is queued is sent if the client takes it soon."""
        self._transport.close()
        if self._transport.get_write_buffer_size():
            self._loop.call_later(_FLUSH_DEADLINE_S, self._transport.abort)

    def reset(self) -> None:
        """End the connection with a TCP RST."""
        self._transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_RST)
        self._transport.abort()

    def abort(self) -> None:
        """End the connection at once; what is queued is lost."""
        self._transport.abort()

    def is_forgotten(self, now: float) -> bool:
        """Return whether the client has been silent for longer than its session lives; ``now``: the loop's clock."""
        silent = now - self._heard_at > self._relay.settings.session_timeout_s
        return silent and self._session.needs_keep_alive

    def _forward(self, packets: list[Interleaved]) -> None:
        if packets:
            self._session.interleaved(packets)
            packets.clear()

    def _answer(self, request: Request) -> None:
        response = self._session.answer(request)
        if response is None:
            return
        if self._session.answer_delay_s:
            self._loop.call_later(self._session.answer_delay_s, self.write, response.encode())
        else:
            self.write(response.encode())
