"""Opens the socket of an MQTT connection.

paho-mqtt would open it by a call that blocks, without a deadline over TLS, through whatever proxy the environment
names, and with Nagle's algorithm, which holds small packets back until the broker's delayed acknowledgement.
"""

from __future__ import annotations

import asyncio
import socket
import ssl

Socket = socket.socket  # ssl.SSLSocket is one


_NEXT_ADDRESS_S = 0.25  # RFC 8305 section 8: so long an address is waited for before the next one is tried beside it


async def open_socket(host: str, port: int, tls: ssl.SSLContext | None) -> Socket:
    """Return a connected, non-blocking socket; the caller sets the deadline. Raises ``OSError``. May be cancelled."""
    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_connection(_Unread, host, port, happy_eyeballs_delay=_NEXT_ADDRESS_S)
    sock = transport.get_extra_info("socket").dup()  # without Nagle's algorithm, as asyncio makes them
    transport.abort()  # closes asyncio's own descriptor, not the connection
    return sock if tls is None else await _handshake(sock, tls, host)


class _Unread(asyncio.Protocol):
    """Leaves everything in the socket."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.ReadTransport)  # noqa: S101 - what create_connection makes
        transport.pause_reading()


async def _handshake(sock: Socket, tls: ssl.SSLContext, host: str) -> ssl.SSLSocket:
    secure = tls.wrap_socket(sock, server_hostname=host, do_handshake_on_connect=False)
    try:
        while True:
            try:
                secure.do_handshake()
            except ssl.SSLWantReadError:
                await _ready(secure, write=False)
            except ssl.SSLWantWriteError:
                await _ready(secure, write=True)
            else:
                return secure
    except BaseException:
        secure.close()
        raise


async def _ready(sock: Socket, *, write: bool) -> None:
    """Return when the socket can be read from, or written to."""
    loop = asyncio.get_running_loop()
    add, remove = (loop.add_writer, loop.remove_writer) if write else (loop.add_reader, loop.remove_reader)
    ready = asyncio.Event()
    add(sock, ready.set)
    try:
        await ready.wait()
    finally:
        remove(sock)
