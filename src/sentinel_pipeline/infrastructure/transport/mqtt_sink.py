"""An MQTT 5 broker as the delivery loop sees it."""

from __future__ import annotations

import asyncio
import hashlib
import socket
import time
from collections.abc import Sequence

import structlog

from sentinel_pipeline.application.ports import Batch
from sentinel_pipeline.domain.backoff import Retry
from sentinel_pipeline.domain.errors import DeliveryError, PayloadTooLarge, Rejected, TransportError, Unauthorised
from sentinel_pipeline.infrastructure.transport.mqtt_address import MqttAddress, parse_address
from sentinel_pipeline.infrastructure.transport.mqtt_link import LinkSettings, MqttLink, open_link
from sentinel_pipeline.infrastructure.transport.mqtt_messages import Board, Message
from sentinel_pipeline.infrastructure.transport.tls import Verify, client_context

log = structlog.get_logger(__name__)

# A broker that ends the connection so many times in a row when it is told of states gets events alone for a while.
_DEAF_AFTER = 2
_MUTE_S = 300.0


class MqttSink:
    """Implements ``EventTransport``: one batch, one message with QoS 1 to ``<prefix>/events``; see ``mqtt_messages``.

    The connection is kept while there is nothing to send, so that the broker's last will tells the truth. Delivered
    means acknowledged by the broker, which then has the batch as safely as it is configured to keep it.

    url: ``mqtt://[user:password@]host[:1883][/topic/prefix]``, ``mqtts://`` with TLS (8883).
    timeout: seconds to connect, and for each acknowledgement.
    discovery: Home Assistant's discovery prefix, or None for none.
    client_id: must be the sink's own in the broker; made from the host's name and the topic prefix by default, so that
        a restarted program takes its old connection's place, whose last will then comes before the new greeting.
    keepalive: seconds; base_delay, max_delay: seconds between tries to connect.
    verify: see ``tls.client_context``. Raises ``ConfigError`` for an unusable URL or CA file.
    """

    def __init__(
        self,
        url: str,
        *,
        timeout: float = 10.0,
        verify: Verify = True,
        discovery: str | None = None,
        client_id: str | None = None,
        keepalive: int = 30,
        base_delay: float = 1.0,
        max_delay: float = 30.0,
    ) -> None:
        address = parse_address(url)
        self._board = Board(address.prefix, discovery)
        self._settings = LinkSettings(
            address,
            client_id or default_client_id(address),
            self._board.status("offline"),
            timeout,
            keepalive,
            client_context(verify) if address.secure else None,
        )
        self._max_delay = max_delay
        self._retry = Retry(base_delay, max_delay)
        self._link: MqttLink | None = None
        self._refused = False
        self._ended_by_telling: list[str] = []  # why the last connections ended, one after the other
        self._mute_until = 0.0  # monotonic seconds; until then nothing but events is published
        self._opening = asyncio.Lock()
        self._keeper: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        return f"<MqttSink {self._settings.address.place} {'connected' if self.is_connected else 'not connected'}>"

    @property
    def is_connected(self) -> bool:
        """Whether the connection is open, as far as this side knows."""
        return self._link is not None and not self._link.ended.done()

    async def open(self) -> None:
        """Begin to connect, in the background."""
        if self._keeper is None:
            self._keeper = asyncio.create_task(self._keep_connected(), name="mqtt keeper")

    async def send(self, batch: Batch) -> None:
        """Deliver one batch under its key, connecting once when there is no connection. Raises a ``TransportError``."""
        link = await self._connected()
        (failure,) = await link.publish([self._board.batch(batch.bodies, batch.key)])
        if failure is not None:
            if len(batch.bodies) == 1 and isinstance(failure, Rejected | PayloadTooLarge):
                self._board.news(batch.bodies)  # a dead letter has happened all the same
            raise failure
        # The broker has the batch: whatever becomes of the rest, it must not come again.
        await self._tell(link, self._board.news(batch.bodies))

    async def close(self) -> None:
        """Say that this program is offline and let go, within a second; may be called more than once."""
        keeper, self._keeper = self._keeper, None
        if keeper is not None:
            keeper.cancel()
            await asyncio.wait({keeper})
        link, self._link = self._link, None
        if link is not None:
            await link.close(self._board.status("offline"))

    async def _connected(self) -> MqttLink:
        """Return an open connection on which the broker has been told all that it should retain."""
        async with self._opening:
            if self._link is None or self._link.ended.done():
                self._link = None
                link = await open_link(self._settings)
                self._board.unsettle()
                if len(self._ended_by_telling) >= _DEAF_AFTER:
                    self._mute_until = time.monotonic() + _MUTE_S
                    log.warning(
                        "the broker ends the connection when it is told of states: it gets events alone for a while",
                        broker=self._settings.address.place,
                        reason=self._ended_by_telling[-1],
                    )
                    self._ended_by_telling.clear()
                try:
                    await self._tell(link, self._board.unsettled())
                    if link.ended.done():
                        raise link.ended.result()
                except BaseException:
                    link.abandon()
                    raise
                self._link = link
                log.info("connected", broker=self._settings.address.place)
            return self._link

    async def _tell(self, link: MqttLink, messages: Sequence[Message]) -> None:
        """Publish what is not events. A broker that refuses it (an access list) has the events all the same.

        What is refused in passing is told again with the next batch. A broker that ends one connection after the other
        for it would get no events: it is told nothing for a while.
        """
        if time.monotonic() < self._mute_until or not messages or link.ended.done():
            return
        answers = await link.publish(messages)
        for message, answer in zip(messages, answers, strict=True):
            if not isinstance(answer, DeliveryError):
                self._board.settle(message)
        refusal = next((answer for answer in answers if answer is not None), None)
        if refusal is not None and link.ended.done():
            if not link.silent:
                self._ended_by_telling.append(link.ended.result().args[0])
            return
        self._ended_by_telling.clear()
        if refusal is not None and not self._refused:
            self._refused = True
            log.warning(
                "the broker takes the events but not their states",
                broker=self._settings.address.place,
                reason=refusal.args[0],  # the remedy is one for events
            )

    async def _keep_connected(self) -> None:
        failing = ""
        while True:
            lived = 0.0
            try:
                link = await self._connected()
                since, failing = time.monotonic(), ""
                failure = await asyncio.shield(link.ended)
                lived = time.monotonic() - since
                log.info("connection lost", broker=self._settings.address.place, reason=str(failure))
            except TransportError as exc:
                failure = exc
                if str(exc) != failing:
                    failing = str(exc)
                    log.info("cannot connect", broker=self._settings.address.place, reason=failing)
            pause = self._retry.failed(lived) or 0.0
            # Brokers ban clients that try a wrong password too often.
            await asyncio.sleep(self._max_delay if isinstance(failure, Unauthorised) else pause)


def default_client_id(address: MqttAddress) -> str:
    """Return an identifier that every broker must accept: at most 23 letters and digits (MQTT 5 section 3.1.3.1)."""
    who = f"{socket.gethostname()}\n{address.place}\n{address.prefix}"
    return "sentinel" + hashlib.sha256(who.encode()).hexdigest()[:15]
