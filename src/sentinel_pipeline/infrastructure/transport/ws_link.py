"""One open WebSocket: delivers batches, matches acknowledgements, hands other messages on."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Callable, Sequence
from typing import Any

import structlog
from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed

from sentinel_pipeline.domain.errors import DeliveryError, TransportError, Unauthorised
from sentinel_pipeline.infrastructure.transport.failures import RESENT
from sentinel_pipeline.infrastructure.transport.payload import event_ids
from sentinel_pipeline.infrastructure.transport.ws_dial import DialSettings, closed, dial
from sentinel_pipeline.infrastructure.transport.ws_messages import Ack, Hello, events_message, read_message

log = structlog.get_logger(__name__)

# A server that never stops talking must not cost a core: beyond a burst, messages that acknowledge nothing are read no
# more often than this, and TCP holds up the rest.
_BURST = 20_000
_PER_SECOND = 1000

OnMessage = Callable[[dict[str, Any]], None]


class Link:
    """One connection from its handshake to its end. Belongs to one event loop; made by ``open_link``.

    acks: the server acknowledges events: it said so (``hello``), or did so once.
    ended: a task that is done when the connection is; it never fails and must not be cancelled.
    """

    def __init__(
        self, socket: ClientConnection, host: str, on_message: OnMessage | None, mask: Callable[[str], str] = str
    ) -> None:
        self._socket, self._host, self._on_message, self._mask = socket, host, on_message, mask
        self._opened = time.monotonic()
        self._greeted = asyncio.Event()
        self._delivering = asyncio.Lock()
        self._missing: set[str] = set()
        self._acknowledged = asyncio.Event()
        self._given_up = False
        self._said = 0  # length of the longest message beside batches that the server may not have read
        self._chatter = _Chatter()
        self._closed: ConnectionClosed | None = None
        self._lived: float | None = None
        self.acks = False
        self.ignored = 0
        self.ended = asyncio.create_task(self._receive(), name=f"websocket {host}")

    @property
    def lived_s(self) -> float:
        """How long the connection has lived, or did live, in seconds."""
        return time.monotonic() - self._opened if self._lived is None else self._lived

    def failure(self) -> TransportError:
        """Return why the connection ended."""
        if self._closed is None:
            return DeliveryError(f"the connection to {self._host} broke", remedy=RESENT)
        return closed(self._closed, self._host, self._mask)

    async def greeted(self, within_s: float) -> None:
        """Wait for the server's first message, which may offer to acknowledge, for ``within_s`` seconds at most."""
        greeting = asyncio.create_task(self._greeted.wait())
        try:
            await asyncio.wait({greeting, self.ended}, timeout=within_s, return_when=asyncio.FIRST_COMPLETED)
        finally:
            greeting.cancel()

    async def deliver(self, bodies: Sequence[bytes], within_s: float, *, excused: bool = True) -> None:
        """Return when the server has the events: all acknowledged or, where it does not do that, a ping answered.

        A pong says that the server's WebSocket layer has read the batch (frames are read in order), no more than that.
        Raises a ``TransportError``; after ``within_s`` seconds the connection is given up as well.
        excused: where the server may have closed the connection for something else that we said, it is taken for that.
        """
        async with self._delivering:
            if self.ended.done():
                raise self._ended_before()
            message, said = events_message(bodies, time.time()), self._said
            self._said = 0
            self._missing = set(event_ids(bodies))
            self._acknowledged.clear()
            try:
                async with asyncio.timeout(within_s):
                    await self._socket.send(message)
                    await self._taken()
            except ConnectionClosed as exc:
                longest = max(said, self._said) if excused else 0
                raise closed(exc, self._host, self._mask, batch=len(message), answer=longest) from exc
            except TimeoutError as exc:
                await self._abort()
                what = "acknowledge" if self.acks else "take"
                raise DeliveryError(
                    f"{self._host} did not {what} a batch within {within_s:g} s", remedy=RESENT
                ) from exc
            finally:
                self._missing = set()

    async def say(self, text: str, within_s: float) -> None:
        """Send a message that is not a batch; nobody acknowledges it. Raises a ``TransportError``."""
        self._said = max(self._said, len(text))
        try:
            async with asyncio.timeout(within_s):
                await self._socket.send(text)
        except ConnectionClosed as exc:
            raise closed(exc, self._host) from exc
        except TimeoutError as exc:
            raise DeliveryError(f"{self._host} did not take a message within {within_s:g} s", remedy=RESENT) from exc

    async def close(self, within_s: float = 1.5) -> None:
        """Say goodbye, for at most ``within_s`` seconds, and let go; may be called more than once."""
        try:
            async with asyncio.timeout(within_s):
                await self._socket.close()
        except TimeoutError:
            log.debug("the server did not answer the closing handshake", receiver=self._host)
        finally:
            await self._abort()

    async def _abort(self) -> None:
        self._given_up = True  # what has been received already is read without a pause
        self._socket.transport.abort()
        await asyncio.wait({self.ended})

    def _ended_before(self) -> TransportError:
        failure = self.failure()
        if isinstance(failure, Unauthorised):
            return failure
        return DeliveryError(failure.args[0], remedy=RESENT)  # whatever it was, it was not about this batch

    async def _taken(self) -> None:
        if not self.acks:
            pong = await self._socket.ping()
            await pong
        if not self.acks:
            return
        acknowledged = asyncio.create_task(self._acknowledged.wait())
        try:
            await asyncio.wait({acknowledged, self.ended}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            acknowledged.cancel()
        if self._missing:
            raise self._closed or self.failure()

    async def _receive(self) -> None:
        try:
            while True:
                missing = len(self._missing)
                self._take(await self._socket.recv(decode=False))
                self._greeted.set()
                if len(self._missing) == missing and self._chatter.add(time.monotonic()) and not self._given_up:
                    await asyncio.sleep(1 / _PER_SECOND)
        except ConnectionClosed as exc:
            self._closed = exc
        finally:
            self._lived = self.lived_s

    def _take(self, raw: bytes) -> None:
        try:
            message = read_message(raw)
        except ValueError as exc:
            self._ignore(str(exc))
            return
        if isinstance(message, Hello):
            self.acks = message.ack
        elif isinstance(message, Ack):
            self.acks = True
            self._missing -= message.ids
            if not self._missing:
                self._acknowledged.set()
        elif self._on_message is None:
            self._ignore("nothing here handles messages of this kind")
        else:
            self._hand_over(message, self._on_message)

    def _hand_over(self, message: dict[str, Any], on_message: OnMessage) -> None:
        try:
            on_message(message)
        except Exception:
            log.exception("on_message failed", receiver=self._host)

    def _ignore(self, why: str) -> None:
        self.ignored += 1
        if self.ignored == 1:
            log.warning("messages from the server are ignored", receiver=self._host, first=why)


class _Chatter:
    """Counts messages as a bucket that leaks."""

    def __init__(self) -> None:
        self._level, self._at = 0.0, 0.0

    def add(self, now: float) -> bool:
        """Count one; return whether it is too much."""
        self._level = max(0.0, self._level - (now - self._at) * _PER_SECOND) + 1
        self._at = now
        return self._level > _BURST


async def open_link(
    settings: DialSettings, tls: ssl.SSLContext | None, on_message: OnMessage | None, hello_wait: float
) -> Link:
    """Connect once. Raises a ``TransportError``. The caller closes the link."""
    link = Link(await dial(settings, tls), settings.target.host, on_message, settings.mask())
    try:
        await link.greeted(hello_wait)
    except asyncio.CancelledError:
        await link.close()
        raise
    return link
