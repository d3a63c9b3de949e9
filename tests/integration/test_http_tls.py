"""HTTPS to a server whose certificate nobody trusts, and to one that does not speak TLS."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from pathlib import Path

import pytest

from sentinel_pipeline.domain.errors import DeliveryError
from sentinel_pipeline.infrastructure.transport.http_client import HttpEventClient
from sentinel_pipeline.infrastructure.transport.tls import Verify
from support.receivers import FaultyHttpServer, self_signed


def _from_a_thread(url: str, verify: Verify) -> None:
    client = HttpEventClient(url, verify=verify, retry_base=0.01)
    client.start()
    try:
        client.post([b"{}"], "key-1")
    finally:
        client.stop()


def _from_asyncio(url: str, verify: Verify) -> None:
    async def work() -> None:
        client = HttpEventClient(url, verify=verify, retry_base=0.01)
        await client.start_async()
        try:
            await client.post_async([b"{}"], "key-1")
        finally:
            await client.stop_async()

    asyncio.run(work())


both_ways = pytest.mark.parametrize("post", [_from_a_thread, _from_asyncio], ids=["sync", "async"])


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A self-signed certificate and its key."""
    return self_signed(tmp_path_factory.mktemp("tls"))


@both_ways
def test_an_untrusted_certificate_is_named(post: Callable[[str, Verify], None], certificate: tuple[Path, Path]) -> None:
    """The error says TLS, why, and what to do; nothing reaches the server."""
    with FaultyHttpServer(tls=certificate) as server:
        with pytest.raises(DeliveryError, match=f"TLS with 127.0.0.1:{server.port} failed: self-signed") as caught:
            post(server.url, True)
        assert "certificate store" in caught.value.remedy
        assert "SSL_CERT_FILE" in caught.value.remedy
        assert server.requests == []


@both_ways
def test_what_the_remedy_names_is_trusted(
    post: Callable[[str, Verify], None], certificate: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a setting of its own, the client trusts the file in SSL_CERT_FILE: what the remedy says is one."""
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate[0]))
    with FaultyHttpServer(tls=certificate) as server:
        post(server.url, True)
        assert len(server.requests) == 1


@both_ways
def test_a_given_ca_file_is_trusted(post: Callable[[str, Verify], None], certificate: tuple[Path, Path]) -> None:
    """A path, a context made from it, and no verification at all: the batch arrives each time."""
    with FaultyHttpServer(tls=certificate) as server:
        post(server.url, certificate[0])
        post(server.url, ssl.create_default_context(cafile=certificate[0]))
        post(server.url, False)
        assert len(server.requests) == 3


@both_ways
def test_a_server_without_tls_is_named(post: Callable[[str, Verify], None]) -> None:
    """``https://`` to a plain port is a quarrel about TLS, and the error says so."""
    with FaultyHttpServer() as server, pytest.raises(DeliveryError, match=r"TLS with .* failed") as caught:
        post(server.url.replace("http:", "https:"), True)
    assert "speaks TLS" in caught.value.remedy
