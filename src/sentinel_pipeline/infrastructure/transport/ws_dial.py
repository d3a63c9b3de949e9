"""Opens one WebSocket, and says what it means when that fails."""

from __future__ import annotations

import logging
import ssl
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidProxyStatus, InvalidStatus, WebSocketException

from sentinel_pipeline.domain.errors import DeliveryError, PayloadTooLarge, Rejected, TransportError, Unauthorised
from sentinel_pipeline.infrastructure.transport.failures import RESENT, socket_failure
from sentinel_pipeline.infrastructure.transport.responses import excerpt, refusal
from sentinel_pipeline.infrastructure.transport.target import Mask, Target

# The library logs request headers, credentials included, at DEBUG, and tracebacks for connections that merely ended.
# What it has to say reaches us as exceptions.
_SILENT = logging.Logger("websockets.client", logging.CRITICAL + 1)

# RFC 6455 section 7.4.1; IANA has registered 3000 and 3003; 4401 and 4403 are a wide-spread private use.
_TOO_BIG = 1009
_CREDENTIALS = frozenset({1008, 3000, 3003, 4401, 4403})
_NEVER = frozenset({1003, 1007})


@dataclass(frozen=True, slots=True)
class DialSettings:
    """How to open and keep a connection. Times in seconds; ``max_size``: bytes of one message from the server."""

    target: Target
    headers: Mapping[str, str] = field(repr=False)
    proxy: str | None = field(repr=False)
    open_timeout: float
    ping_interval: float | None
    ping_timeout: float | None
    max_size: int
    close_timeout: float = 1.0

    def mask(self) -> Mask:
        """Return what hides the credentials that a server may quote."""
        return Mask(self.target, self.headers)


class _Connect(connect):
    def process_redirect(self, exc: Exception) -> Exception | str:
        # Redirects are not followed: they would carry events and credentials to a host that nobody configured.
        return exc


async def dial(settings: DialSettings, tls: ssl.SSLContext | None) -> ClientConnection:
    """Return an open connection. Raises a ``TransportError`` within ``open_timeout``, never ``Rejected``."""
    host = settings.target.host
    try:
        return await _Connect(
            settings.target.url,
            additional_headers=dict(settings.headers),
            user_agent_header="sentinel-pipeline",
            proxy=settings.proxy,
            compression=None,  # events are small; a compressor per connection costs more memory than it saves traffic
            open_timeout=settings.open_timeout,
            ping_interval=settings.ping_interval,
            ping_timeout=settings.ping_timeout,
            close_timeout=settings.close_timeout,
            max_size=settings.max_size,
            logger=_SILENT,
            ssl=tls,
            happy_eyeballs_delay=0.25,  # RFC 8305 section 8: an address that does not answer holds up no other
        )
    except (InvalidStatus, InvalidProxyStatus) as exc:
        raise _refused(exc, host, settings.mask()) from exc
    except OSError as exc:  # TimeoutError and ssl.SSLError are
        raise socket_failure(exc, host) from exc
    except WebSocketException as exc:
        raise DeliveryError(
            f"{host} does not answer like a WebSocket server: {excerpt(str(exc))}",
            remedy="check that the URL names a WebSocket",
        ) from exc


class AnswerNotTaken(DeliveryError):
    """The connection was closed, perhaps because of an answer to one of the server's commands, not of the batch."""


def closed(
    exc: ConnectionClosed, host: str, mask: Callable[[str], str] = str, *, batch: int = 0, answer: int = 0
) -> TransportError:
    """Return what it means for a batch under way that the connection was closed. ``mask`` cleans the server's words.

    batch: its length. answer: length of the longest answer to a command that the server may have meant instead, else 0.
    """
    theirs = exc.rcvd if exc.rcvd is not None and exc.rcvd_then_sent is not False else None
    if theirs is None:
        ours = exc.sent
        why = f": {excerpt(ours.reason)}" if ours is not None and ours.reason else " without saying why"
        return DeliveryError(f"the connection to {host} broke{why}", remedy=RESENT)
    said = f"{host} closed the connection with {theirs.code}" + (
        f": {excerpt(mask(theirs.reason))}" if theirs.reason else ""
    )
    if answer and (theirs.code in _NEVER or (theirs.code == _TOO_BIG and answer >= batch)):
        remedy = "the server takes no answers to its commands, or none as large as a snapshot: see allow_commands"
        return AnswerNotTaken(said, remedy=remedy)
    if theirs.code == _TOO_BIG:
        return PayloadTooLarge(said, remedy="the batch is sent again in halves; lower batch.max_events")
    if theirs.code in _CREDENTIALS:
        return Unauthorised(said, remedy="correct the sink's credentials; events are kept meanwhile")
    if theirs.code in _NEVER:
        return Rejected(said, remedy="these events are in the dead-letter table: `sentinel events dead`")
    return DeliveryError(said, remedy=RESENT)


def _refused(exc: InvalidStatus | InvalidProxyStatus, host: str, mask: Mask) -> TransportError:
    response = exc.response
    through = f"the proxy in front of {host}" if isinstance(exc, InvalidProxyStatus) else host
    headers = {name.lower(): ", ".join(response.headers.get_all(name)) for name in response.headers}
    detail = mask(bytes(response.body or b"")[:1024].decode("utf-8", "replace"))
    return refusal(response.status_code, headers, time.time(), host=through, detail=detail)
