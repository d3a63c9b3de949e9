"""Messages from the server, and reconnecting, against a real server that drops and misbehaves."""

from __future__ import annotations

import asyncio
import itertools
import json
import time
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
import structlog

from sentinel_pipeline.application.ports import Batch
from sentinel_pipeline.domain.errors import DeliveryError, Rejected
from sentinel_pipeline.domain.events import Event, EventStage
from sentinel_pipeline.infrastructure.transport import ws_link
from sentinel_pipeline.infrastructure.transport.ws_client import ConnectionState, WebSocketEventClient
from sentinel_pipeline.infrastructure.transport.ws_sink import WebSocketSink
from sentinel_pipeline.lab.receivers import WebSocketReceiver
from support.receivers import FaultyWebSocketServer, Session, until

EVENTS = [Event("INTRUSION", EventStage.DETECTED, "gate", "rule", 1_732_406_400.0 + i) for i in range(5)]
BATCH = Batch("live", "key-1", 1, 5, tuple(event.encode() for event in EVENTS))
ACKS = Session(hello=True, ack=True)
BASE = 0.05  # seconds before the first reconnect, here

Use = Callable[[WebSocketEventClient], Coroutine[Any, Any, None]]


def _client(url: str, **options: Any) -> WebSocketEventClient:
    return WebSocketEventClient(url, **{"reconnect_interval": BASE, "hello_wait": 0.05, **options})


async def _with_loop(client: WebSocketEventClient, use: Use) -> None:
    """Connect, run ``receive_loop`` in the background, use the client, disconnect."""
    assert await client.connect()
    loop = asyncio.create_task(client.receive_loop())
    try:
        await use(client)
    finally:
        await client.disconnect()
        async with asyncio.timeout(1.0):
            await loop


def test_receiving_goes_on_after_every_reconnect() -> None:
    """The server drops the connection three times; messages arrive each time again, and events can be sent."""
    got: list[dict[str, Any]] = []

    async def use(client: WebSocketEventClient) -> None:
        for turn in range(4):
            await until(lambda: client.is_connected)
            server.push(json.dumps({"type": "restart", "turn": turn}))
            await until(lambda turn=turn: len(got) == turn + 1)
            assert await client.send_event(EVENTS[turn])
            if turn < 3:
                server.drop()
                await until(lambda: not client.is_connected)
                assert client.state is ConnectionState.RECONNECTING

    with FaultyWebSocketServer(then=ACKS) as server, structlog.testing.capture_logs() as logs:
        asyncio.run(_with_loop(_client(server.url, on_message=got.append, healthy_after=0.0), use))
        assert len(server.dialled) == 4
    assert [message["turn"] for message in got] == [0, 1, 2, 3]
    states = [entry["state"] for entry in logs if entry["event"] == "connection"]
    assert states == ["connecting", *["connected", "reconnecting"] * 3, "connected", "closed"]


def test_reconnecting_ends_after_the_configured_number_of_tries() -> None:
    """With ``reconnect_max_retries`` the loop gives up, says so in its state, and ``connect`` begins anew."""

    async def work() -> None:
        client = _client(server.url, reconnect_interval=0.01, reconnect_max_retries=3)
        assert await client.connect()
        async with asyncio.timeout(5.0):
            await client.receive_loop()
        assert client.state is ConnectionState.DISCONNECTED
        assert client.reconnect_count == 4  # the loss, and three failed tries
        assert len(server.dialled) == 1 + 3
        server.then = Session()
        assert await client.connect()
        assert client.reconnect_count == 0
        await client.disconnect()

    with FaultyWebSocketServer(Session(take=0), then=Session(status=503)) as server:
        asyncio.run(work())


def test_a_server_that_accepts_and_closes_is_not_hammered() -> None:
    """Waits keep doubling although every handshake succeeds: with the default of 1 s, over 3 s after the third."""

    async def use(client: WebSocketEventClient) -> None:
        await asyncio.to_thread(server.wait_for, lambda s: len(s.dialled) >= 6)
        assert client.reconnect_count >= 5

    with FaultyWebSocketServer(then=Session(take=0)) as server:
        asyncio.run(_with_loop(_client(server.url), use))
        gaps = [later - earlier for earlier, later in itertools.pairwise(server.dialled)]
    for turn, gap in enumerate(gaps):
        assert gap >= BASE * 2**turn * 0.8, f"attempt {turn + 2} came after {gap:.3f} s"


def test_a_connection_that_lived_resets_the_waits() -> None:
    """After a connection that lived long enough the next wait is the first one again."""

    async def use(client: WebSocketEventClient) -> None:
        await asyncio.to_thread(server.wait_for, lambda s: len(s.dialled) >= 5)
        await until(lambda: client.is_connected)
        await asyncio.sleep(0.3)  # the life that counts as healthy
        server.drop()
        await until(lambda: not client.is_connected)
        assert client.reconnect_count == 1

    with FaultyWebSocketServer(*[Session(take=0)] * 4) as server:
        asyncio.run(_with_loop(_client(server.url, healthy_after=0.25, hello_wait=0.0), use))


def test_the_sink_leaves_such_a_server_alone() -> None:
    """Between attempts ``send`` does not dial; it tells the delivery loop how long to wait."""

    async def work() -> None:
        sink = WebSocketSink(server.url, hello_wait=0.05, reconnect_interval=5.0)
        for _ in range(3):
            with pytest.raises(DeliveryError) as caught:
                await sink.send(BATCH)
        assert caught.value.retry_after_s is not None
        assert 3.0 < caught.value.retry_after_s <= 5.0
        assert len(server.dialled) == 1
        await sink.close()

    with FaultyWebSocketServer(then=Session(take=0)) as server:
        asyncio.run(work())


def test_retry_after_of_a_handshake_is_honoured() -> None:
    """While reconnecting, a server that asks for a second gets a second."""

    async def use(client: WebSocketEventClient) -> None:
        await asyncio.to_thread(server.wait_for, lambda s: len(s.dialled) >= 3)
        await until(lambda: client.is_connected)

    busy = Session(status=503, headers={"Retry-After": "1"})
    with FaultyWebSocketServer(Session(take=0), busy) as server:
        asyncio.run(_with_loop(_client(server.url), use))
        assert server.dialled[2] - server.dialled[1] >= 1.0


def test_retry_after_of_a_handshake_keeps_everybody_away() -> None:
    """What the background connection was told counts for a batch that comes meanwhile as well."""

    async def work() -> None:
        sink = WebSocketSink(server.url, hello_wait=0.05, reconnect_interval=0.05, on_message=lambda _: None)
        await sink.open()
        await asyncio.to_thread(server.wait_for, lambda s: len(s.dialled) == 1)
        with pytest.raises(DeliveryError) as caught:
            await sink.send(BATCH)
        assert caught.value.retry_after_s is not None
        assert 595.0 < caught.value.retry_after_s <= 600.0
        assert len(server.dialled) == 1
        await sink.close()

    with FaultyWebSocketServer(then=Session(status=503, headers={"Retry-After": "600"})) as server:
        asyncio.run(work())


def test_refused_credentials_are_retried_slowly() -> None:
    """A server that begins to refuse us while we reconnect is asked at the longest interval only."""

    async def use(client: WebSocketEventClient) -> None:
        await asyncio.to_thread(server.wait_for, lambda s: len(s.dialled) >= 3)

    with FaultyWebSocketServer(Session(take=0), Session(status=401)) as server:
        asyncio.run(_with_loop(_client(server.url, reconnect_max_interval=0.6), use))
        assert server.dialled[2] - server.dialled[1] >= 0.6


def test_a_sink_that_is_gone_is_not_called_again() -> None:
    """After 410 the loop ends; the state says that there is no connection."""

    async def work() -> None:
        client = _client(server.url)
        assert await client.connect()
        async with asyncio.timeout(5.0):
            await client.receive_loop()
        assert client.state is ConnectionState.DISCONNECTED
        await client.disconnect()

    with FaultyWebSocketServer(Session(take=0), then=Session(status=410)) as server:
        asyncio.run(work())
        assert len(server.dialled) == 2


def test_a_connection_begun_before_disconnect_is_not_used_after_it() -> None:
    """Connecting, disconnecting and connecting again in a hurry leaves exactly one connection, the second."""

    async def work() -> None:
        client = _client(server.url, hello_wait=0.3)
        hurried = asyncio.create_task(client.connect())
        await asyncio.to_thread(server.wait_for, lambda s: s.dialled)
        await client.disconnect()
        assert await client.connect() is True
        assert await hurried is False
        assert await client.send_events(EVENTS)
        assert client.state is ConnectionState.CONNECTED
        await client.disconnect()

    with FaultyWebSocketServer() as server:
        asyncio.run(work())
        assert (len(server.dialled), len(server.batches)) == (2, 1)


def test_disconnect_interrupts_a_long_wait() -> None:
    """The loop sleeps half a minute before its next try; disconnecting ends it at once."""

    async def use(client: WebSocketEventClient) -> None:
        await until(lambda: client.state is ConnectionState.RECONNECTING)

    with FaultyWebSocketServer(Session(take=0)) as server:
        began = time.monotonic()
        asyncio.run(_with_loop(_client(server.url, reconnect_interval=30.0), use))
        assert time.monotonic() - began < 2.0


GARBAGE = ("nonsense", b"\xff\xfe\x00", "[1,2]", "[" * 50_000, '{"type":"ack"}', '{"type":"ack","ids":[7]}', "")


def test_garbage_is_ignored_and_counted() -> None:
    """Whatever is no JSON object costs nothing but a count and one log line; delivery goes on."""

    async def work() -> None:
        client = _client(server.url)
        assert await client.connect()
        assert await client.send_events(EVENTS)
        link = client._link
        assert link is not None
        assert link.ignored == len(GARBAGE)
        await client.disconnect()

    with FaultyWebSocketServer(Session(hello=True, ack=True, first=GARBAGE)) as server:
        with structlog.testing.capture_logs() as logs:
            asyncio.run(work())
        assert len(server.batches) == 1
    assert sum("ignored" in entry["event"] for entry in logs) == 1


def test_unknown_messages_without_a_handler_are_ignored() -> None:
    """A message kind that nobody here handles is counted, not an error."""

    async def work() -> None:
        client = _client(server.url)
        assert await client.connect()
        assert await client.send_events(EVENTS)
        assert client._link is not None
        assert client._link.ignored == 1
        await client.disconnect()

    with FaultyWebSocketServer(Session(hello=True, ack=True, first=('{"type":"news"}',))) as server:
        asyncio.run(work())


def test_a_handler_that_raises_does_not_end_the_connection() -> None:
    """The user's mistake is logged; the messages behind it still arrive, and so do acknowledgements."""
    got: list[dict[str, Any]] = []

    def handle(message: dict[str, Any]) -> None:
        got.append(message)
        raise KeyError("mine")

    async def use(client: WebSocketEventClient) -> None:
        assert await client.send_events(EVENTS)
        await until(lambda: len(got) == 2)

    first = ('{"type":"a"}', '{"type":"b"}')
    with FaultyWebSocketServer(Session(hello=True, ack=True, first=first)) as server:
        with structlog.testing.capture_logs() as logs:
            asyncio.run(_with_loop(_client(server.url, on_message=handle), use))
        assert len(server.dialled) == 1
    assert [entry["event"] for entry in logs].count("on_message failed") == 2


def test_a_huge_message_ends_the_connection_not_the_client() -> None:
    """A message beyond ``max_size`` is not read; the client reconnects, and its batch is not blamed for it."""

    async def use(client: WebSocketEventClient) -> None:
        await asyncio.to_thread(server.wait_for, lambda s: len(s.dialled) == 2)
        await until(lambda: client.is_connected)
        assert await client.send_events(EVENTS)

    huge = Session(first=("x" * 2_000_000,))
    with FaultyWebSocketServer(huge, ACKS) as server, structlog.testing.capture_logs() as logs:
        asyncio.run(_with_loop(_client(server.url, max_size=65_536), use))
    (lost,) = [entry["reason"] for entry in logs if entry["event"] == "connection lost"]
    assert "broke" in lost


def test_a_sink_that_listens_is_connected_while_idle() -> None:
    """With ``on_message`` commands arrive before anything was sent, and again after a drop."""
    got: list[dict[str, Any]] = []

    async def work() -> None:
        sink = WebSocketSink(server.url, on_message=got.append, hello_wait=0.05, reconnect_interval=BASE)
        await sink.open()
        await until(lambda: sink.state is ConnectionState.CONNECTED)
        server.push('{"type":"first"}')
        await until(lambda: len(got) == 1)
        server.drop()
        await asyncio.to_thread(server.wait_for, lambda s: len(s.dialled) == 2)
        await until(lambda: sink.state is ConnectionState.CONNECTED)
        server.push('{"type":"second"}')
        await until(lambda: len(got) == 2)
        await sink.send(BATCH)
        await sink.close()
        await sink.close()

    with FaultyWebSocketServer(then=ACKS) as server:
        asyncio.run(work())
        assert (len(server.dialled), len(server.batches)) == (2, 1)


def test_a_server_that_never_stops_talking_costs_next_to_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond a burst, at most a thousand messages a second are read, and what has piled up delays no ending."""
    monkeypatch.setattr(ws_link, "_BURST", 500)

    async def work() -> None:
        sink = WebSocketSink(server.url, hello_wait=0.05, reconnect_interval=BASE)
        begun = time.monotonic()
        await sink._client.ensure_connected()
        link = sink._client._link
        assert link is not None
        await until(lambda: link.ignored >= 800)
        assert time.monotonic() - begun > 0.25, "300 beyond the burst take 0.3 s"
        begun = time.monotonic()
        await sink.close()
        assert time.monotonic() - begun < 2.0

    with FaultyWebSocketServer(then=Session(first=('{"type":"chatter"}',) * 20_000)) as server:
        asyncio.run(work())


def test_a_sink_that_listens_closes_while_it_cannot_connect() -> None:
    """Closing in the middle of reconnecting takes no time."""

    async def work() -> None:
        sink = WebSocketSink(server.url, on_message=print, reconnect_interval=30.0)
        await sink.open()
        await asyncio.to_thread(server.wait_for, lambda s: s.dialled)
        await until(lambda: sink.state is ConnectionState.RECONNECTING)
        began = time.monotonic()
        await sink.close()
        assert time.monotonic() - began < 1.0
        assert sink.state is ConnectionState.CLOSED

    with FaultyWebSocketServer(then=Session(status=503)) as server:
        asyncio.run(work())


def test_the_labs_receiver_counts_each_event_once_and_acknowledges() -> None:
    """The demo's receiver checks, acknowledges, recognises duplicates, refuses what is no event, sends commands."""
    got: list[dict[str, Any]] = []

    async def work(receiver: WebSocketReceiver) -> None:
        sink = WebSocketSink(receiver.url, on_message=got.append, reconnect_interval=BASE, healthy_after=0.0)
        await sink.open()
        await sink.send(BATCH)
        assert sink._client._link is not None
        assert sink._client._link.acks
        await sink.send(BATCH)
        await asyncio.to_thread(receiver.send, {"type": "restart"})
        await until(lambda: got)
        with pytest.raises(Rejected, match="schema must be 1"):
            await sink.send(Batch("live", "key-2", 6, 6, (b'{"event_id":"x","schema":2}',)))
        await sink.close()

    with WebSocketReceiver() as receiver:
        asyncio.run(work(receiver))
        assert (receiver.count, receiver.intake.duplicates, receiver.intake.invalid) == (5, 5, 1)
        assert [event["event_id"] for event in receiver.events] == [event.event_id for event in EVENTS]
    receiver.close()
    assert got == [{"type": "restart"}]
