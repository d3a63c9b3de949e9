"""Foreign errors of a connection, turned into ours: one sentence that names the host, and the remedy."""

from __future__ import annotations

import os
import re
import ssl
from collections.abc import Iterator

import httpx

from sentinel_pipeline.domain.errors import DeliveryError
from sentinel_pipeline.infrastructure.transport.responses import excerpt

RESENT = "events stay in the outbox and are sent again"
_JUST_ENDED = (ssl.SSLEOFError, ssl.SSLZeroReturnError)  # a connection that broke, not a quarrel about TLS
_UNREACHABLE = "check that the receiver runs, its address, and the firewall"
_UNTRUSTED = (
    "add the receiver's CA file to this system's certificate store, or name the file in SSL_CERT_FILE and start again;"
    " or repair the receiver's certificate"
)
_UNKNOWN_OUTCOME = "the batch may have arrived: it is sent again under the same key"

# asyncio's words when none of several addresses can be reached; the first one speaks for all.
_SEVERAL = re.compile(r"Multiple exceptions: \[Errno (\d+)\]")

# The first class that fits wins.
_HTTP: tuple[tuple[type[httpx.TransportError], str, str], ...] = (
    (httpx.ConnectTimeout, "{host} did not accept a connection in time", _UNREACHABLE),
    (httpx.PoolTimeout, "no connection to {host} became free in time", RESENT),
    (httpx.WriteTimeout, "{host} stopped taking the request", RESENT),
    (httpx.TimeoutException, "{host} did not answer in time", _UNKNOWN_OUTCOME),
    (httpx.ConnectError, "cannot connect to {host}{why}", _UNREACHABLE),
    (
        httpx.ProxyError,
        "the proxy in front of {host} failed{why}",
        "check the address of the proxy, and that it lets us through to the receiver",
    ),
    (httpx.NetworkError, "the connection to {host} broke{why}", _UNKNOWN_OUTCOME),
    (
        httpx.RemoteProtocolError,
        "{host} closed the connection or answered something that is not HTTP{why}",
        _UNKNOWN_OUTCOME,
    ),
    (httpx.TransportError, "the request to {host} failed{why}", RESENT),
)


def http_failure(exc: httpx.TransportError, host: str) -> DeliveryError:
    """Return what a failed HTTP request means: the batch may be sent again, whatever happened on the way."""
    broken_tls = _tls_failure(exc, host)
    if broken_tls is not None:
        return broken_tls
    text, remedy = next((text, remedy) for kind, text, remedy in _HTTP if isinstance(exc, kind))
    return DeliveryError(text.format(host=host, why=_why(exc)), remedy=remedy)


def socket_failure(exc: OSError, host: str) -> DeliveryError:
    """Return what a connection means that could not be opened: resolver, network, TLS or time-out."""
    broken_tls = _tls_failure(exc, host)
    if broken_tls is not None:
        return broken_tls
    if isinstance(exc, TimeoutError) and exc.errno is None:
        return DeliveryError(f"{host} did not open a connection in time", remedy=_UNREACHABLE)
    return DeliveryError(f"cannot connect to {host}{_why(exc)}", remedy=_UNREACHABLE)


def too_slow(host: str, seconds: float) -> DeliveryError:
    """Return the error for an attempt that ran into its deadline of ``seconds``."""
    return DeliveryError(f"{host} did not finish answering within {seconds:g} s", remedy=_UNKNOWN_OUTCOME)


def _tls_failure(exc: BaseException, host: str) -> DeliveryError | None:
    broken = next((e for e in _chain(exc) if isinstance(e, ssl.SSLError) and not isinstance(e, _JUST_ENDED)), None)
    if broken is None:
        return None
    # OpenSSL's own errors have these attributes, those that Python's ssl module makes up do not.
    why = getattr(broken, "verify_message", None) or getattr(broken, "reason", None) or str(broken)
    if isinstance(broken, ssl.SSLCertVerificationError):
        remedy = _UNTRUSTED
    else:
        remedy = "check that the receiver speaks TLS on this port"
    return DeliveryError(f"TLS with {host} failed: {excerpt(why)}", remedy=remedy)


def _why(exc: BaseException) -> str:
    # What the operating system said is clearer than what three libraries made of it.
    system = [_errno_text(e) for e in _chain(exc) if isinstance(e, OSError) and e.errno]
    if not system and (several := _SEVERAL.match(str(exc))):
        system = [os.strerror(int(several[1]))]
    text = excerpt(system[-1] if system else str(exc))
    return f": {text}" if text else ""


def _errno_text(exc: OSError) -> str:
    # asyncio writes addresses into strerror; the resolver's errors (EAI_*) are negative and have their own text.
    return os.strerror(exc.errno) if exc.errno is not None and exc.errno > 0 else str(exc.strerror)


def _chain(exc: BaseException | None) -> Iterator[BaseException]:
    """Yield an exception and what led to it; of a group (several addresses were tried) the first member."""
    seen = 0
    while exc is not None and seen < 20:
        yield exc
        seen += 1
        inner = exc.exceptions[0] if isinstance(exc, BaseExceptionGroup) else None
        exc = inner or exc.__cause__ or exc.__context__
