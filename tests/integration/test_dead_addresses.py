"""Receivers of which one address does not answer: the next address is tried beside it, in time."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from sentinel_pipeline.application.ports import Batch
from sentinel_pipeline.domain.errors import DeliveryError
from sentinel_pipeline.domain.events import Event, EventStage
from sentinel_pipeline.infrastructure.transport.mqtt_dial import open_socket
from sentinel_pipeline.infrastructure.transport.mqtt_sink import MqttSink
from sentinel_pipeline.infrastructure.transport.ws_sink import WebSocketSink
from support.receivers import FaultyWebSocketServer, Session

NAME = "receiver.test"  # RFC 6761: no resolver knows it
Place = tuple[str, int]


@pytest.fixture
def silent() -> Iterator[Place]:
    """An address that takes no connection and refuses none: its queue of one is full, and Linux drops what comes."""
    with socket.create_server(("127.0.0.2", 0), backlog=0) as server:
        place = server.getsockname()
        with socket.create_connection(place), socket.socket() as probe:
            probe.settimeout(0.1)
            with pytest.raises(TimeoutError):
                probe.connect(place)
            yield place


def resolve(monkeypatch: pytest.MonkeyPatch, *places: Place) -> None:
    """Let the name have these addresses, in this order."""
    real = socket.getaddrinfo

    def answer(host: Any, *rest: Any, **options: Any) -> Any:
        if host != NAME:
            return real(host, *rest, **options)
        return [(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", place) for place in places]

    monkeypatch.setattr(socket, "getaddrinfo", answer)


def test_a_dead_address_does_not_keep_mqtt_from_the_next(silent: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """The socket is the second address's, non-blocking and without Nagle's algorithm, and nothing is lost on it."""

    async def main(server: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(3.0):
            sock = await open_socket(NAME, 1883, None)
        with sock:
            assert (sock.getpeername(), sock.gettimeout()) == (server.getsockname(), 0.0)
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
            peer, _ = server.accept()
            with peer:
                peer.sendall(b"hello")
                assert await loop.sock_recv(sock, 100) == b"hello"
                await loop.sock_sendall(sock, b"you")
                assert peer.recv(100) == b"you"

    with socket.create_server(("127.0.0.1", 0)) as server:
        resolve(monkeypatch, silent, server.getsockname())
        asyncio.run(main(server))


def test_a_dead_address_does_not_keep_a_websocket_from_the_next(silent: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch is delivered within the time in which one address alone would have been waited for."""
    sent = Event("X", EventStage.DETECTED, "gate", "zone", 1.0)

    async def main() -> None:
        sink = WebSocketSink(f"ws://{NAME}/", open_timeout=3.0, hello_wait=0.05)
        await sink.send(Batch("live", "key", 1, 1, (sent.encode(),)))
        await sink.close()

    with FaultyWebSocketServer(Session(hello=True, ack=True)) as server:
        resolve(monkeypatch, silent, ("127.0.0.1", server.port))
        asyncio.run(main())
        assert len(server.batches) == 1


def test_addresses_that_all_refuse_are_named_in_the_systems_own_words(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two addresses, as every dual-stack name has, and one plain reason."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    resolve(monkeypatch, ("127.0.0.1", port), ("127.0.0.2", port))
    sink = MqttSink(f"mqtt://{NAME}:{port}", timeout=3.0)
    event = Event("X", EventStage.DETECTED, "gate", "zone", 1.0)
    with pytest.raises(DeliveryError, match=rf"^cannot connect to {NAME}:{port}: Connection refused \("):
        asyncio.run(sink.send(Batch("mqtt", "key", 1, 1, (event.encode(),))))
