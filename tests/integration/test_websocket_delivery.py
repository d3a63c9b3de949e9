"""Batches over a WebSocket, against a real server that fails on command."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
import structlog

from sentinel_pipeline.application.ports import Batch
from sentinel_pipeline.domain.errors import (
    DeliveryError,
    PayloadTooLarge,
    Rejected,
    SinkGone,
    TransportError,
    Unauthorised,
)
from sentinel_pipeline.domain.events import Event, EventStage
from sentinel_pipeline.infrastructure.transport.ws_client import ConnectionState, WebSocketEventClient
from sentinel_pipeline.infrastructure.transport.ws_sink import WebSocketSink
from support.receivers import FaultyHttpServer, FaultyWebSocketServer, Reply, Session, self_signed, until

EVENTS = [Event("INTRUSION", EventStage.DETECTED, "gate", "rule", 1_732_406_400.0 + i) for i in range(5)]
IDS = [event.event_id for event in EVENTS]
BATCH = Batch("live", "key-1", 1, 5, tuple(event.encode() for event in EVENTS))
ACKS = Session(hello=True, ack=True)

Use = Callable[[WebSocketSink], Coroutine[Any, Any, None]]


def _sink(url: str, **options: Any) -> WebSocketSink:
    return WebSocketSink(url, **{"hello_wait": 0.05, "ack_timeout": 2.0, "healthy_after": 0.0, **options})


def _with_sink(url: str, use: Use, **options: Any) -> None:
    """Open a sink, use it, close it; closing takes at most two seconds."""

    async def work() -> None:
        sink = _sink(url, **options)
        await sink.open()
        try:
            await use(sink)
        finally:
            began = time.monotonic()
            await sink.close()
            assert time.monotonic() - began < 2.0
            assert sink.state is ConnectionState.CLOSED

    asyncio.run(work())


async def _send_once(sink: WebSocketSink) -> None:
    await sink.send(BATCH)


def _ids(batch: list[dict[str, Any]]) -> list[str]:
    return [event["event_id"] for event in batch]


@pytest.mark.parametrize("parts", [1, 3])
def test_an_acknowledging_server_is_waited_for(parts: int) -> None:
    """A batch is delivered when all of its ids are acknowledged, in however many messages."""
    with FaultyWebSocketServer(Session(hello=True, ack=True, parts=parts)) as server:
        _with_sink(server.url, _send_once)
        (message,) = server.messages
    assert message["type"] == "events"
    assert message["ts"] == pytest.approx(time.time(), abs=30)
    assert _ids(message["events"]) == IDS


def test_a_server_that_does_not_acknowledge_is_pinged() -> None:
    """Without acknowledgements a batch is delivered once a ping sent behind it is answered."""
    with FaultyWebSocketServer() as server:
        _with_sink(server.url, _send_once)
        assert [_ids(batch) for batch in server.batches] == [IDS]


def test_an_acknowledgement_is_an_offer() -> None:
    """A server that never said hello but acknowledges a batch is waited for from then on."""

    async def use(sink: WebSocketSink) -> None:
        await sink.send(BATCH)
        link = sink._client._link
        assert link is not None
        await until(lambda: link.acks)
        await sink.send(BATCH)

    with FaultyWebSocketServer(Session(ack=True)) as server:
        _with_sink(server.url, use)
        assert len(server.batches) == 2


def test_a_promised_acknowledgement_that_does_not_come() -> None:
    """The batch is not delivered, the connection is given up, and the next attempt uses a new one."""

    async def use(sink: WebSocketSink) -> None:
        with pytest.raises(DeliveryError, match=r"did not acknowledge a batch within 0\.2 s"):
            await sink.send(BATCH)
        await sink.send(BATCH)

    with FaultyWebSocketServer(Session(hello=True), ACKS) as server:
        _with_sink(server.url, use, ack_timeout=0.2)
        assert [_ids(batch) for batch in server.batches] == [IDS, IDS]
        assert len(server.dialled) == 2


@pytest.mark.parametrize("padding", [0, 4_000_000], ids=["small", "fills-every-buffer"])
def test_a_server_that_never_reads(padding: int) -> None:
    """Neither the send nor the closing waits longer than its deadline."""
    event = Event("INTRUSION", EventStage.DETECTED, "gate", "rule", 1.0, details={"padding": "x" * padding})

    async def use(sink: WebSocketSink) -> None:
        began = time.monotonic()
        with pytest.raises(DeliveryError, match=r"did not take a batch within 0\.3 s"):
            await sink.send(Batch("live", "key-1", 1, 1, (event.encode(),)))
        assert time.monotonic() - began < 1.0

    with FaultyWebSocketServer(Session(reads=False)) as server:
        _with_sink(server.url, use, ack_timeout=0.3)


def test_closing_does_not_wait_for_a_server_that_never_reads() -> None:
    """``close`` on a healthy-looking connection whose peer is stuck takes at most two seconds (``_with_sink``)."""

    async def use(sink: WebSocketSink) -> None:
        await sink._client.ensure_connected()

    with FaultyWebSocketServer(Session(reads=False)) as server:
        _with_sink(server.url, use)


def test_a_connection_dropped_in_mid_batch() -> None:
    """The batch fails, comes again over a new connection with the same ids, and nothing is lost."""

    async def use(sink: WebSocketSink) -> None:
        with pytest.raises(DeliveryError, match="broke"):
            await sink.send(BATCH)
        assert sink.state is ConnectionState.DISCONNECTED
        await sink.send(BATCH)

    with FaultyWebSocketServer(Session(hello=True, ack=True, take=1, code=None), ACKS) as server:
        _with_sink(server.url, use)
        assert [_ids(batch) for batch in server.batches] == [IDS, IDS]


def test_a_connection_lost_while_idle_is_noticed() -> None:
    """The state changes without a send, and the next batch finds a new connection by itself."""

    async def use(sink: WebSocketSink) -> None:
        await sink.send(BATCH)
        server.drop()
        await until(lambda: sink.state is not ConnectionState.CONNECTED)
        await sink.send(BATCH)

    with FaultyWebSocketServer(then=ACKS) as server:
        _with_sink(server.url, use)
        assert len(server.dialled) == 2


@pytest.mark.parametrize(
    ("code", "kind"),
    [(1009, PayloadTooLarge), (1007, Rejected), (1008, Unauthorised), (4401, Unauthorised), (1013, DeliveryError)],
)
def test_the_servers_close_code_judges_the_batch(code: int, kind: type[TransportError]) -> None:
    """A server without acknowledgement messages of its own still says what was wrong."""
    with FaultyWebSocketServer(Session(hello=True, take=1, code=code, reason="because")) as server:
        with pytest.raises(TransportError, match="because") as caught:
            _with_sink(server.url, _send_once)
        assert type(caught.value) is kind


@pytest.mark.parametrize(("code", "kind"), [(1008, Unauthorised), (1009, DeliveryError), (1011, DeliveryError)])
def test_a_close_before_the_batch_does_not_judge_it(code: int, kind: type[TransportError]) -> None:
    """Closing right after accepting may refuse our credentials, but never a batch that was not sent."""
    with FaultyWebSocketServer(Session(take=0, code=code)) as server:
        with pytest.raises(TransportError) as caught:
            _with_sink(server.url, _send_once)
        assert type(caught.value) is kind


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        *[(401, Unauthorised), (403, Unauthorised), (410, SinkGone)],
        *[(status, DeliveryError) for status in (404, 429, 500, 503, 200)],
    ],
)
def test_a_refused_handshake_has_its_class(status: int, kind: type[TransportError]) -> None:
    """One attempt, the answer's status in the message, ``Retry-After`` passed on."""
    with FaultyWebSocketServer(then=Session(status=status, headers={"Retry-After": "7"})) as server:
        with pytest.raises(TransportError, match=f"127.0.0.1:{server.port} answered {status}") as caught:
            _with_sink(server.url, _send_once)
        assert type(caught.value) is kind
        assert len(server.dialled) == 1
    assert caught.value.retry_after_s == 7.0


def test_redirects_are_not_followed() -> None:
    """Events and credentials go only where the configuration says."""
    with FaultyWebSocketServer() as other:
        headers = {"Location": other.url}
        with FaultyWebSocketServer(Session(status=307, headers=headers)) as server:
            with pytest.raises(DeliveryError, match=f"points to {other.url}"):
                _with_sink(server.url, _send_once)
            assert other.dialled == []


def test_headers_arrive_and_credentials_stay_secret(caplog: pytest.LogCaptureFixture) -> None:
    """Own headers and the URL's user and password are in the handshake, and in no log at any level."""
    caplog.set_level("DEBUG")
    with FaultyWebSocketServer(ACKS) as server, structlog.testing.capture_logs() as entries:
        url = server.url.replace("//", "//bob:s3cret@") + "?token=t0ken"
        _with_sink(url, _send_once, headers={"X-Site": "4"})
        (handshake,) = server.handshakes
    assert handshake["authorization"] == "Basic Ym9iOnMzY3JldA=="
    assert handshake["x-site"] == "4"
    for text in (caplog.text, str(entries)):
        assert "s3cret" not in text
        assert "t0ken" not in text
        assert "Ym9iOnMzY3JldA==" not in text


def test_nobody_listens() -> None:
    """The error says what and where; the document's ``connect`` answers False."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    url = f"ws://127.0.0.1:{port}/"
    with pytest.raises(DeliveryError, match=f"cannot connect to 127.0.0.1:{port}: Connection refused"):
        _with_sink(url, _send_once)

    async def connect() -> None:
        client = WebSocketEventClient(url)
        assert await client.connect() is False
        assert client.state is ConnectionState.DISCONNECTED
        await client.disconnect()

    asyncio.run(connect())


def test_a_server_that_accepts_and_says_nothing() -> None:
    """The handshake has a deadline."""
    with socket.create_server(("127.0.0.1", 0)) as mute:
        began = time.monotonic()
        with pytest.raises(DeliveryError, match="did not open a connection in time"):
            _with_sink(f"ws://127.0.0.1:{mute.getsockname()[1]}/", _send_once, open_timeout=0.3)
        assert time.monotonic() - began < 1.5


@pytest.mark.parametrize("raw", [b"\x00\xff garbage\r\n\r\n", b"HTTP/1.1 101 Switching Protocols\r\n\r\n", b""])
def test_a_server_that_is_no_websocket(raw: bytes) -> None:
    """Garbage in answer to the handshake is an error that is retried, with a remedy."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(raw)
        writer.close()

    async def work() -> None:
        async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            sink = _sink(f"ws://127.0.0.1:{port}/")
            with pytest.raises(DeliveryError, match=f"127.0.0.1:{port} does not answer like a WebSocket server"):
                await sink.send(BATCH)
            await sink.close()

    asyncio.run(work())


def test_tls_failure_is_named_and_a_ca_file_helps(tmp_path: Path) -> None:
    """A self-signed certificate is refused by name; with its file given the batch arrives."""
    certificate = self_signed(tmp_path)
    with FaultyWebSocketServer(then=ACKS, tls=certificate) as server:
        with pytest.raises(DeliveryError, match=f"TLS with 127.0.0.1:{server.port} failed: self-signed") as caught:
            _with_sink(server.url, _send_once)
        assert "CA file" in caught.value.remedy
        _with_sink(server.url, _send_once, verify=certificate[0])
        assert len(server.batches) == 1


def test_an_http_proxy_is_used_only_when_configured(monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment's proxy is ignored; the configured one is asked, and its refusal is about credentials."""
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    with FaultyWebSocketServer(ACKS) as server:
        _with_sink(server.url, _send_once)

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append((await reader.readuntil(b"\r\n\r\n")).split(b"\r\n")[0])
        writer.write(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")
        writer.close()

    async def work() -> None:
        async with await asyncio.start_server(refuse, "127.0.0.1", 0) as proxy:
            sink = _sink("ws://vms.invalid/", proxy=f"http://127.0.0.1:{proxy.sockets[0].getsockname()[1]}")
            with pytest.raises(Unauthorised, match=r"proxy in front of vms\.invalid:80 answered 407"):
                await sink.send(BATCH)
            await sink.close()

    asked: list[bytes] = []
    asyncio.run(work())
    assert asked == [b"CONNECT vms.invalid:80 HTTP/1.1"]


@pytest.mark.parametrize("step", ["handshake", "acknowledgement"])
def test_a_cancelled_send_leaves_nothing_behind(step: str) -> None:
    """Cancelled while connecting or while waiting: it ends at once and the sink still closes."""

    async def use(sink: WebSocketSink) -> None:
        sending = asyncio.create_task(sink.send(BATCH))
        if step == "acknowledgement":
            await asyncio.to_thread(server.wait_for, lambda s: s.batches)
        else:
            await asyncio.sleep(0.05)  # the greeting is waited for
        sending.cancel()
        with pytest.raises(asyncio.CancelledError):
            await sending

    with FaultyWebSocketServer(Session(hello=True) if step == "acknowledgement" else Session()) as server:
        _with_sink(server.url, use, ack_timeout=30.0, hello_wait=0.05 if step == "acknowledgement" else 30.0)


def test_concurrent_sends_do_not_mix() -> None:
    """Several tasks use one client: each gets its own acknowledgement, one connection serves them all."""

    async def work(url: str) -> None:
        client = WebSocketEventClient(url, hello_wait=0.05)
        assert await client.connect()
        assert all(await asyncio.gather(*(client.send_event(event) for event in EVENTS)))
        await client.disconnect()

    with FaultyWebSocketServer(ACKS) as server:
        asyncio.run(work(server.url))
        assert [_ids(batch) for batch in server.batches] == [[i] for i in IDS]
        assert len(server.dialled) == 1


def test_an_http_server_at_the_address() -> None:
    """A plain web server answers the handshake with an error page: retried, with its status."""
    with FaultyHttpServer(then=Reply(404)) as server, pytest.raises(DeliveryError, match="answered 501"):
        _with_sink(server.url.replace("http", "ws"), _send_once)


@pytest.mark.parametrize("take", [0, 1])
def test_a_server_that_quotes_our_credentials_does_not_leak_them(take: int) -> None:
    """The closing reason is shown, without the password and the query's token."""
    session = Session(hello=True, ack=True, take=take, code=1011, reason="user:p@ss-word and sig-abcdef refused")
    with FaultyWebSocketServer(then=session) as server, structlog.testing.capture_logs() as logs:
        url = server.url.replace("ws://", "ws://user:p%40ss-word@") + "?sig=sig-abcdef"

        async def use(sink: WebSocketSink) -> None:
            with pytest.raises(TransportError) as caught:
                await _send_once(sink)
            said.append(str(caught.value))

        said: list[str] = []
        _with_sink(url, use)
    shown = said[0] + str(logs)
    assert "**** and **** refused" in shown
    assert not any(secret in shown for secret in ("p@ss-word", "sig-abcdef"))
