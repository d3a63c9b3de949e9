"""Opens the socket of an MQTT connection.

paho-mqtt would open it by a call that blocks, without a deadline over TLS, through whatever proxy the environment
names, and with Nagle's algorithm, which holds small packets back until the broker's delayed acknowledgement.
"""

from __future__ import annotations

import asyncio
import socket
import ssl

Socket = socket.socket  # ssl.SSLSocket is one


async def open_socket(host: str, port: int, tls: ssl.SSLContext | None) -> Socket:
    """Return a connected, non-blocking socket; the caller sets the deadline. Raises ``OSError``. May be cancelled."""
    loop = asyncio.get_running_loop()
    places = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    failure: OSError = OSError(f"{host} has no address")
    for family, kind, protocol, _, address in places:
        sock = socket.socket(family, kind, protocol)
        try:
            sock.settimeout(0)  # non-blocking
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            await loop.sock_connect(sock, address)
            return sock if tls is None else await _handshake(sock, tls, host)
        except OSError as exc:
            sock.close()
            failure = exc
        except BaseException:
            sock.close()
            raise
    raise failure


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
