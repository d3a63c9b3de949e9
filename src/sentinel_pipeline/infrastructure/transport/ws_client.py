"""Delivers events over a WebSocket that reconnects by itself."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from functools import partial

import structlog

from sentinel_pipeline.domain.backoff import Retry
from sentinel_pipeline.domain.errors import (
    DeliveryError,
    PayloadTooLarge,
    Rejected,
    SinkGone,
    TransportError,
    Unauthorised,
)
from sentinel_pipeline.domain.events import Event
from sentinel_pipeline.infrastructure.transport.failures import RESENT
from sentinel_pipeline.infrastructure.transport.target import checked_proxy, parse_target, request_headers
from sentinel_pipeline.infrastructure.transport.tls import Verify, client_context
from sentinel_pipeline.infrastructure.transport.ws_dial import AnswerNotTaken, DialSettings
from sentinel_pipeline.infrastructure.transport.ws_link import Link, OnMessage, open_link
from sentinel_pipeline.infrastructure.transport.ws_state import ConnectionState, move

__all__ = ["ConnectionState", "WebSocketEventClient"]

log = structlog.get_logger(__name__)

_EXCUSES = 3


class WebSocketEventClient:
    """Sends batches over one WebSocket, receives messages, and reconnects. Belongs to one event loop.

    ``connect``, then ``send_events``; ``receive_loop`` in a task keeps the connection. The document's methods answer
    True or False; ``ensure_connected`` and ``post`` raise a ``TransportError`` instead.

    reconnect_interval, reconnect_max_interval: seconds before the first new attempt (then doubled), and at most, with
        jitter. They start over only after a connection has lived ``healthy_after`` seconds: a server that accepts and
        closes at once is not hammered.
    reconnect_max_retries: failures in a row after which ``receive_loop`` gives up; None never does.
    on_message: called in the event loop with each JSON object from the server that is not part of the delivery
        protocol (``ws_messages``); must return quickly. An exception in it is logged.
    ack_timeout: seconds for a batch to be acknowledged, or taken. hello_wait: seconds given to the server after
        connecting to say that it acknowledges.
    max_size: bytes of one message from the server; a longer one ends the connection.
    proxy: URL of an HTTP proxy; the environment's proxy variables are ignored, the configuration alone decides.
    verify: see ``tls.client_context``. Raises ``ConfigError`` for an unusable URL, header or CA file.
    """

    def __init__(
        self,
        url: str,
        reconnect_interval: float = 1.0,
        reconnect_max_interval: float = 30.0,
        reconnect_max_retries: int | None = None,
        on_message: OnMessage | None = None,
        *,
        headers: Mapping[str, str] | None = None,
        verify: Verify = True,
        proxy: str | None = None,
        open_timeout: float = 10.0,
        ack_timeout: float = 10.0,
        hello_wait: float = 0.5,
        ping_interval: float | None = 20.0,
        ping_timeout: float | None = 20.0,
        max_size: int = 1024 * 1024,
        healthy_after: float = 5.0,
    ) -> None:
        target = parse_target(url, ("ws", "wss"))
        self._settings = DialSettings(
            target,
            request_headers(target, headers),
            checked_proxy(proxy),
            open_timeout,
            ping_interval,
            ping_timeout,
            max_size,
        )
        self._tls = client_context(verify) if target.secure else None
        self._on_message = on_message
        self._ack_timeout, self._hello_wait = ack_timeout, hello_wait
        self._healthy_after, self._longest_wait = healthy_after, reconnect_max_interval
        self._new_retry = partial(
            Retry, reconnect_interval, reconnect_max_interval, reconnect_max_retries, healthy_after=healthy_after
        )
        self._retry = self._new_retry()
        self._state = ConnectionState.DISCONNECTED
        self._running = self._keeping = self._failing = False
        self._life = 0  # counts calls of disconnect: a connection that was begun before one is not wanted after it
        self._dialling = asyncio.Lock()
        self._wake = asyncio.Event()
        self._link: Link | None = None
        self._excused = 0  # times that the batch under way was not held responsible for the end of its connection
        self._pause: float | None = 0.0  # before the next attempt of receive_loop; None: it gives up
        self._not_before, self._asked = 0.0, ""  # monotonic; until then the server is left alone, and why

    def __repr__(self) -> str:
        return f"<WebSocketEventClient {self._settings.target.host} {self._state.value}>"

    @property
    def host(self) -> str:
        """The server's ``host:port``."""
        return self._settings.target.host

    @property
    def state(self) -> ConnectionState:
        """Where the connection is in its life."""
        return self._state

    @property
    def is_connected(self) -> bool:
        """Whether the connection is open, as far as this side knows."""
        return self._state is ConnectionState.CONNECTED

    @property
    def reconnect_count(self) -> int:
        """Failures in a row: lost connections and failed attempts since the last one that lived long enough."""
        if self._link is not None and self._link.lived_s >= self._healthy_after:
            return 0
        return self._retry.attempts

    async def connect(self) -> bool:
        """Connect, in one attempt; True when the connection is open. Does nothing when it is already."""
        if self._link is None and not self._keeping:
            self._retry, self._pause = self._new_retry(), 0.0
        self._running = True
        try:
            await self._dial()
        except TransportError as exc:
            return self._noted(exc)
        return True

    async def disconnect(self) -> None:
        """Close the connection within two seconds; may be called at any time. ``connect`` may follow."""
        self._running = False
        self._life += 1
        self._wake.set()
        link, self._link = self._link, None
        self._move(ConnectionState.CLOSED)
        if link is not None:
            await link.close()

    async def send_event(self, event: Event) -> bool:
        """Deliver one event; True when the server has it."""
        return await self.send_events([event])

    async def send_events(self, events: Sequence[Event]) -> bool:
        """Deliver events in one message; True when the server has all of them. Does not connect."""
        try:
            await self.post([event.encode() for event in events])
        except TransportError as exc:
            return self._noted(exc)
        return self._noted(None)

    async def post(self, bodies: Sequence[bytes]) -> None:
        """Deliver encoded events in one message over the open connection. Raises a ``TransportError``.

        Delivered means acknowledged by a server that acknowledges, else read by its WebSocket layer (``Link.deliver``).
        """
        if self._link is None:
            raise DeliveryError(f"there is no connection to {self._settings.target.host}", remedy=RESENT)
        if not bodies:
            return
        try:
            await self._link.deliver(bodies, self._ack_timeout, excused=self._excused < _EXCUSES)
        except AnswerNotTaken:
            self._excused += 1
            raise
        except (Rejected, PayloadTooLarge):
            self._excused = 0
            raise
        self._excused = 0

    async def say(self, text: str) -> None:
        """Send a message that is not a batch of events. Raises a ``TransportError``."""
        if self._link is None:
            async with self._dialling:  # a server may ask before it is known whether it acknowledges
                pass
        if self._link is None:
            raise DeliveryError(f"there is no connection to {self._settings.target.host}", remedy=RESENT)
        await self._link.say(text, self._ack_timeout)

    async def ensure_connected(self) -> None:
        """Connect when there is no connection, in one attempt. Raises a ``TransportError``.

        Does not even try while the server is being left alone, because it accepts and closes, or has refused a
        connection with ``Retry-After``: ``DeliveryError`` says how long.
        """
        async with self._dialling:  # an attempt under way may end in a connection, or in the wish to be left alone
            pass
        if self._current() is not None:
            return
        wait = self._not_before - time.monotonic()
        if wait > 0:
            raise DeliveryError(f"{self._settings.target.host} {self._asked}", remedy=RESENT, retry_after_s=wait)
        self._running = True
        await self._dial()

    async def receive_loop(self) -> None:
        """Keep the connection until ``disconnect``, or until reconnecting is given up.

        Returns at once before ``connect``. Messages are received and acknowledgements matched whether or not this runs:
        this brings the connection back.
        """
        if self._running:
            await self.keep_connected()

    async def keep_connected(self) -> None:
        """Connect, and reconnect after every loss, until ``disconnect``, cancellation, or giving up."""
        self._running = self._keeping = True
        try:
            while self._running:
                if self._link is not None:
                    await asyncio.wait({self._link.ended})
                    await asyncio.sleep(0)  # the done-callback, which takes the link away, comes first
                elif not await self._reconnect():
                    return
        finally:
            self._keeping = False
            if self._running and self._link is None:
                self._move(ConnectionState.DISCONNECTED)

    async def _reconnect(self) -> bool:
        """Try until there is a connection; False when there will be none."""
        while self._running and self._link is None:
            if self._pause is None:
                log.error(
                    "reconnecting is given up", receiver=self._settings.target.host, failures=self.reconnect_count
                )
                return False
            pause = max(self._pause, self._not_before - time.monotonic())
            if pause > 0:
                self._move(ConnectionState.RECONNECTING)
                await self._sleep(pause)
            if not self._running or self._link is not None:
                break
            try:
                await self._dial()
            except SinkGone as exc:
                self._noted(exc)
                return False
            except TransportError as exc:
                self._noted(exc)
                self._pause = self._after(exc)
        return self._link is not None

    def _after(self, failure: TransportError) -> float | None:
        """Return the seconds to wait after a failed attempt, or None to give up."""
        wait = self._retry.failed(0.0)
        if wait is None:
            return None
        if isinstance(failure, Unauthorised):
            wait = self._longest_wait  # many servers lock an account that tries too often
        return max(wait, failure.retry_after_s or 0.0)

    async def _sleep(self, seconds: float) -> None:
        """Wait, or until somebody connects or disconnects."""
        self._wake.clear()
        try:
            async with asyncio.timeout(seconds):
                await self._wake.wait()
        except TimeoutError:
            return

    async def _dial(self) -> None:
        async with self._dialling:
            if self._current() is not None:
                return
            life = self._life
            if self._state is not ConnectionState.RECONNECTING:
                self._move(ConnectionState.CONNECTING)
            try:
                link = await open_link(self._settings, self._tls, self._on_message, self._hello_wait)
            except BaseException as exc:
                if isinstance(exc, TransportError) and exc.retry_after_s:
                    self._leave_alone(exc.retry_after_s, "asked to be left alone for a while")
                if self._state is ConnectionState.CONNECTING and life == self._life:
                    self._move(ConnectionState.DISCONNECTED)
                raise
            if life != self._life:
                await link.close()
                raise DeliveryError(f"the connection to {self._settings.target.host} was not wanted any more")
            self._link, self._not_before = link, 0.0
            self._move(ConnectionState.CONNECTED)
            self._wake.set()
            link.ended.add_done_callback(lambda _: self._lost(link))

    def _current(self) -> Link | None:
        """Return the open connection; one that has just ended is gone, even before its done-callback has run."""
        if self._link is not None and self._link.ended.done():
            self._lost(self._link)
        return self._link

    def _lost(self, link: Link) -> None:
        """The connection has ended: decide when to try again."""
        if self._link is not link:
            return  # closed by disconnect
        self._link = None
        self._pause = self._retry.failed(link.lived_s)
        if link.lived_s < self._healthy_after:
            self._leave_alone(
                self._longest_wait if self._pause is None else self._pause, "accepts connections and closes them"
            )
        log.info("connection lost", receiver=self._settings.target.host, reason=str(link.failure()))
        self._move(ConnectionState.RECONNECTING if self._keeping else ConnectionState.DISCONNECTED)

    def _leave_alone(self, seconds: float, why: str) -> None:
        self._not_before, self._asked = time.monotonic() + seconds, why

    def _move(self, new: ConnectionState) -> None:
        old, self._state = self._state, move(self._state, new)
        if new is not old:
            log.info("connection", receiver=self._settings.target.host, state=new.value)

    def _noted(self, failure: TransportError | None) -> bool:
        """Log when delivery begins to fail and when it works again, nothing in between."""
        if failure is not None and not self._failing:
            log.warning("events cannot be delivered", receiver=self._settings.target.host, error=str(failure))
        elif failure is None and self._failing:
            log.info("events are delivered again", receiver=self._settings.target.host)
        self._failing = failure is not None
        return failure is None
