"""Lives of the clients, as far as no network is needed."""

from __future__ import annotations

import asyncio
import importlib.util
import itertools
from pathlib import Path

import httpx
import pytest

from sentinel_pipeline.domain.errors import ConfigError, DeliveryError
from sentinel_pipeline.infrastructure.transport.http_client import HttpEventClient, HttpTransport, create_http_transport
from sentinel_pipeline.infrastructure.transport.http_sink import HttpSink
from sentinel_pipeline.infrastructure.transport.tls import client_context
from sentinel_pipeline.infrastructure.transport.ws_client import ConnectionState, WebSocketEventClient
from sentinel_pipeline.infrastructure.transport.ws_sink import WebSocketSink
from sentinel_pipeline.infrastructure.transport.ws_state import MOVES, move


@pytest.fixture
def clients(monkeypatch: pytest.MonkeyPatch) -> list[httpx.Client]:
    """Every httpx client that is made, to see that it is closed."""
    made: list[httpx.Client] = []
    original = httpx.Client.__init__

    def remember(self: httpx.Client, **settings: object) -> None:
        original(self, **settings)
        made.append(self)

    monkeypatch.setattr(httpx.Client, "__init__", remember)
    return made


def test_start_and_stop_may_be_called_in_any_order(clients: list[httpx.Client]) -> None:
    """Stop before start, start twice and stop twice leave exactly one client, closed."""
    client = HttpEventClient("http://127.0.0.1:1")
    client.stop()
    client.start()
    client.start()
    assert "started" in repr(client)
    client.stop()
    client.stop()
    assert [c.is_closed for c in clients] == [True]


def test_async_start_and_stop_may_be_called_in_any_order() -> None:
    """The asynchronous side has the same life: usable again after a stop, closed in the end."""

    async def live() -> None:
        client = HttpEventClient("http://127.0.0.1:1")
        await client.stop_async()
        await client.start_async()
        inner = client._client
        await client.start_async()
        assert client._client is inner
        await client.stop_async()
        await client.stop_async()
        assert inner is not None
        assert inner.is_closed

    asyncio.run(live())


def test_sending_before_start_is_a_mistake_of_the_caller() -> None:
    """It raises at once instead of answering False for ever."""
    with pytest.raises(RuntimeError, match="start"):
        HttpEventClient("http://127.0.0.1:1").send_events([])
    with pytest.raises(RuntimeError, match="start_async"):
        asyncio.run(HttpEventClient("http://127.0.0.1:1").send_events_async([]))


def test_transport_closes_its_client(clients: list[httpx.Client]) -> None:
    """Leaving the with block closes, also by an exception; a constructor that fails has opened nothing."""

    def fail(transport: HttpTransport) -> None:
        with transport:
            raise KeyError

    with pytest.raises(KeyError):
        fail(create_http_transport("http://127.0.0.1:1"))
    with pytest.raises(ConfigError):
        HttpTransport("https://127.0.0.1:1", verify="/no/such/file")
    assert [c.is_closed for c in clients] == [True]


def test_no_repr_shows_a_password() -> None:
    """Whatever is printed while debugging carries neither password nor token."""
    for thing in (
        HttpEventClient("http://bob:s3cret@vms/in?token=s3cret", headers={"X-Token": "s3cret"}),
        HttpSink("http://bob:s3cret@vms/in?token=s3cret"),
        WebSocketEventClient("ws://bob:s3cret@vms/in?token=s3cret", headers={"X-Token": "s3cret"}),
        WebSocketSink("ws://bob:s3cret@vms/in?token=s3cret"),
    ):
        assert "s3cret" not in repr(thing)
        assert "vms:80" in repr(thing)
    settings = WebSocketEventClient("ws://bob:s3cret@vms/in?token=s3cret")._settings
    assert "s3cret" not in repr(settings)


def test_unreadable_ca_file_is_a_configuration_error(tmp_path: Path) -> None:
    """Missing and malformed files are named."""
    broken = tmp_path / "ca.pem"
    broken.write_text("no certificate")
    for place in (broken, tmp_path / "missing.pem"):
        with pytest.raises(ConfigError, match=place.name):
            client_context(place)


def test_websocket_states_are_the_documents() -> None:
    """Five states with the document's values; each is a string."""
    assert [s.value for s in ConnectionState] == ["disconnected", "connecting", "connected", "reconnecting", "closed"]
    assert all(isinstance(s, str) for s in ConnectionState)


def test_only_moves_in_the_table_are_allowed() -> None:
    """Every pair of states is either in the table, the same state, or an error."""
    assert set(MOVES) == set(ConnectionState)
    for old, new in itertools.product(ConnectionState, repeat=2):
        if new in MOVES[old] or new is old:
            assert move(old, new) is new
        else:
            with pytest.raises(RuntimeError, match=new.value):
                move(old, new)


def test_websocket_client_that_never_connected() -> None:
    """Disconnecting, looping and sending before connecting neither block nor raise out of the document's surface."""

    async def live() -> None:
        client = WebSocketEventClient("ws://127.0.0.1:1")
        assert client.state is ConnectionState.DISCONNECTED
        assert not client.is_connected
        assert client.reconnect_count == 0
        assert not await client.send_events([])
        with pytest.raises(DeliveryError, match="no connection"):
            await client.post([])
        await client.receive_loop()
        await client.disconnect()
        await client.disconnect()
        assert client.state is ConnectionState.CLOSED

    asyncio.run(live())


def test_httpcore_finds_sniffio() -> None:
    """What httpcore imports anew at every request is there: looking for it on the disk took a third of the CPU."""
    assert importlib.util.find_spec("sniffio") is not None
