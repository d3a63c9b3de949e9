"""Foreign errors become ours."""

from __future__ import annotations

import errno
import socket
import ssl

import httpx
import pytest
from websockets.exceptions import ConnectionClosedError
from websockets.frames import Close

from sentinel_pipeline.domain.errors import DeliveryError, PayloadTooLarge, Rejected, TransportError, Unauthorised
from sentinel_pipeline.infrastructure.transport.failures import http_failure, socket_failure
from sentinel_pipeline.infrastructure.transport.ws_dial import closed


def _concrete(kind: type[httpx.TransportError]) -> list[type[httpx.TransportError]]:
    return [kind, *(deep for sub in kind.__subclasses__() for deep in _concrete(sub))]


@pytest.mark.parametrize("kind", _concrete(httpx.TransportError), ids=lambda kind: kind.__name__)
def test_every_httpx_transport_error_is_retried(kind: type[httpx.TransportError]) -> None:
    """All of httpx's tree is covered, with the host and a remedy and without credentials."""
    failure = http_failure(kind("at https://bob:s3cret@vms/in"), "vms:443")
    assert type(failure) is DeliveryError
    assert "vms:443" in str(failure)
    assert failure.remedy
    assert "s3cret" not in str(failure)


def test_tls_failures_are_named_as_such() -> None:
    """A certificate problem deep in the chain of causes is what the operator reads about."""
    cause = ssl.SSLCertVerificationError(1, "certificate verify failed")
    cause.verify_message = "self-signed certificate"
    outer = httpx.ConnectError("something vague")
    outer.__cause__ = cause
    assert "TLS with vms:443 failed: self-signed certificate" in str(http_failure(outer, "vms:443"))
    assert "TLS with vms:443 failed" in str(socket_failure(ssl.SSLError(1, "wrong version number"), "vms:443"))


@pytest.mark.parametrize(
    ("exc", "text"),
    [
        (ConnectionRefusedError(errno.ECONNREFUSED, "Connect call failed ('127.0.0.1', 1)"), "Connection refused"),
        (socket.gaierror(socket.EAI_NONAME, "Name or service not known"), "Name or service not known"),
        (TimeoutError("timed out during opening handshake"), "did not open a connection in time"),
        (OSError("Multiple exceptions: a, b"), "Multiple exceptions"),
    ],
)
def test_socket_errors_say_what_the_system_said(exc: OSError, text: str) -> None:
    """Refused, unknown host and time-out read differently."""
    failure = socket_failure(exc, "vms:80")
    assert text in str(failure)
    assert "vms:80" in str(failure)


def test_an_error_group_is_looked_into() -> None:
    """When several addresses were tried the reason of the first one is shown."""
    refused = ConnectionRefusedError(errno.ECONNREFUSED, "x")
    outer = httpx.ConnectError("All connection attempts failed")
    outer.__cause__ = ExceptionGroup("several", [refused, refused])
    assert "Connection refused" in str(http_failure(outer, "vms:80"))


@pytest.mark.parametrize(
    ("code", "kind"),
    [(1000, DeliveryError), (1001, DeliveryError), (1011, DeliveryError), (1013, DeliveryError), (4000, DeliveryError)]
    + [(1009, PayloadTooLarge), (1003, Rejected), (1007, Rejected)]
    + [(code, Unauthorised) for code in (1008, 3000, 3003, 4401, 4403)],
)
def test_the_servers_close_code_decides(code: int, kind: type[TransportError]) -> None:
    """A close frame that the server sent first says what happens to the batch."""
    exc = ConnectionClosedError(Close(code, "because"), Close(code, ""), rcvd_then_sent=True)
    failure = closed(exc, "vms:80")
    assert type(failure) is kind
    assert "because" in str(failure)


def test_our_own_close_code_does_not() -> None:
    """We close with 1009 when the server's message is too big; its echo is no verdict about our batch."""
    exc = ConnectionClosedError(Close(1009, ""), Close(1009, "frame too long"), rcvd_then_sent=False)
    failure = closed(exc, "vms:80")
    assert type(failure) is DeliveryError
    assert "frame too long" in str(failure)
    assert type(closed(ConnectionClosedError(None, None), "vms:80")) is DeliveryError
