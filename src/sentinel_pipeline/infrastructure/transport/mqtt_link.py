"""One connection to an MQTT 5 broker: publishes, waits for the broker's acknowledgement, ends.

paho-mqtt speaks the protocol; the event loop feeds it. A connection is never used again by paho itself: what is not
acknowledged comes again from the outbox, and from nowhere else.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import structlog
from paho.mqtt.client import Client, ConnectFlags, DisconnectFlags
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from sentinel_pipeline.domain.errors import DeliveryError, PayloadTooLarge, TransportError, Unauthorised
from sentinel_pipeline.infrastructure.transport.failures import RESENT, socket_failure
from sentinel_pipeline.infrastructure.transport.mqtt_address import MqttAddress
from sentinel_pipeline.infrastructure.transport.mqtt_dial import Socket, open_socket
from sentinel_pipeline.infrastructure.transport.mqtt_messages import Message
from sentinel_pipeline.infrastructure.transport.mqtt_reasons import TOO_LARGE, judge
from sentinel_pipeline.infrastructure.transport.responses import excerpt

log = structlog.get_logger(__name__)

QOS = 1
_IN_FLIGHT = 16  # messages without an answer at a time; the broker may allow fewer (Receive Maximum)
_FIXED_HEADER = 5  # bytes at most, MQTT 5 section 2.1


@dataclass(frozen=True, slots=True)
class LinkSettings:
    """How to connect. Times in seconds; ``will`` is published by the broker when the connection breaks."""

    address: MqttAddress
    client_id: str
    will: Message
    timeout: float
    keepalive: int
    tls: ssl.SSLContext | None = field(default=None, repr=False)


class _Client(Client):
    """paho's client over a socket that is open already."""

    def __init__(self, sock: Socket, client_id: str) -> None:
        super().__init__(CallbackAPIVersion.VERSION2, client_id, protocol=MQTTProtocolVersion.MQTTv5)
        self._opened = sock
        self.too_large: Callable[[int], None] = lambda _: None

    def _create_socket(self) -> Socket:
        return self._opened

    def _handle_pubackcomp(self, cmd: Literal["PUBACK", "PUBCOMP"]) -> MQTTErrorCode:
        # Mosquitto says "packet too large" in a PUBACK, where section 3.4.2.1 does not have it: paho would end the
        # connection without a reason.
        packet = self._in_packet["packet"]
        if len(packet) > 2 and packet[2] == TOO_LARGE:
            mid = int.from_bytes(packet[:2])
            self._out_messages.pop(mid, None)
            self._inflight_messages -= 1
            self.too_large(mid)
            return MQTTErrorCode.MQTT_ERR_SUCCESS
        return super()._handle_pubackcomp(cmd)


class MqttLink:
    """One connection from CONNECT to its end. Belongs to one event loop; made by ``open_link``.

    ended: a future with the reason, done when the connection is; it must not be cancelled.
    silent: whether it ended because the broker answered nothing.
    """

    def __init__(self, sock: Socket, settings: LinkSettings) -> None:
        self._sock, self._place, self._timeout = sock, settings.address.place, settings.timeout
        self._loop = asyncio.get_running_loop()
        self._client = _Client(sock, settings.client_id)
        self._accepted: asyncio.Future[None] = self._loop.create_future()
        self._waiting: dict[int, tuple[Message, asyncio.Future[TransportError | None]]] = {}
        self._in_flight, self._largest = _IN_FLIGHT, 0  # bytes of a packet; 0: no limit
        self._ticking: asyncio.Task[None] | None = None
        self.ended: asyncio.Future[TransportError] = self._loop.create_future()
        self.silent = False
        self._prepare(settings)

    async def connect(self, keepalive: int) -> None:
        """Introduce ourselves. Raises a ``TransportError``; the caller sets the deadline and closes."""
        self._loop.add_reader(self._sock, self._readable)
        # Clean start and no session: a session in the broker would promise what only the outbox can keep.
        self._client.connect(self._place, 1, keepalive, clean_start=True)
        self._ticking = asyncio.create_task(self._tick(), name=f"mqtt keepalive {self._place}")
        await self._accepted

    async def publish(self, messages: Sequence[Message]) -> list[TransportError | None]:
        """Publish the messages in this order; return for each why the broker has not taken it, or None.

        After ``timeout`` seconds without an answer the connection is given up; all that has none fails then.
        """
        answers = []
        for start in range(0, len(messages), self._in_flight):
            sent = [self._send(message) for message in messages[start : start + self._in_flight]]
            _, late = await asyncio.wait(sent, timeout=self._timeout)
            if late:
                self.silent = True
                self._end(DeliveryError(f"{self._place} did not acknowledge within {self._timeout:g} s", remedy=RESENT))
            answers += sent
        return [answer.result() for answer in answers]

    async def close(self, farewell: Message, within_s: float = 0.8) -> None:
        """Publish ``farewell``, say goodbye and let go; may be called more than once."""
        try:
            if not self.ended.done() and self._accepted.done():
                async with asyncio.timeout(within_s):
                    (refusal,) = await self.publish([farewell])
                if self.ended.done():
                    log.debug("the broker was left without a goodbye", broker=self._place, reason=str(refusal))
                else:
                    self._client.disconnect()
                    self._client.loop_write()
        except TimeoutError:
            log.debug("the broker was left without a goodbye", broker=self._place, reason="it does not answer")
        finally:
            self._end(DeliveryError(f"the connection to {self._place} was closed", remedy=RESENT))
            if self._ticking is not None:
                await asyncio.wait({self._ticking})

    def abandon(self) -> None:
        """Let go at once, without a goodbye."""
        self._end(DeliveryError(f"the connection to {self._place} was given up", remedy=RESENT))

    def _prepare(self, settings: LinkSettings) -> None:
        client, address = self._client, settings.address
        if address.user is not None:
            client.username_pw_set(address.user, address.password)
        will = settings.will
        client.will_set(will.topic, will.payload, QOS, will.retain)
        client.on_connect, client.on_disconnect, client.on_publish = self._on_connect, self._on_disconnect, self._on_ack
        client.on_socket_register_write = lambda *_: self._loop.add_writer(self._sock, self._writable)
        client.on_socket_unregister_write = self._on_written
        client.on_socket_close = self._on_close
        client.too_large = self._on_too_large

    def _send(self, message: Message) -> asyncio.Future[TransportError | None]:
        """Begin to publish; the future has the broker's answer: None, or why not."""
        answer: asyncio.Future[TransportError | None] = self._loop.create_future()
        properties = _properties(message)
        if self.ended.done():
            answer.set_result(self._ended_before())
        elif self._largest and _packet_size(message, properties) > self._largest:
            answer.set_result(
                PayloadTooLarge(
                    f"{self._place} takes packets of {self._largest} bytes at most",
                    remedy="the batch is sent again in halves; lower batch.max_events",
                )
            )
        else:
            sent = self._client.publish(message.topic, message.payload, QOS, message.retain, properties)
            self._waiting[sent.mid] = message, answer
            if self.ended.done():  # by the attempt to write
                self._answered(sent.mid, self._ended_before())
        return answer

    def _readable(self) -> None:
        self._fed(self._client.loop_read)
        # What TLS has decrypted already makes no socket readable any more.
        while isinstance(self._sock, ssl.SSLSocket) and not self.ended.done() and self._sock.pending():
            self._fed(self._client.loop_read)

    def _writable(self) -> None:
        self._fed(self._client.loop_write)

    async def _tick(self) -> None:
        """Keep the connection alive, and notice when the broker does not answer that."""
        while not self.ended.done():
            await asyncio.wait({self.ended}, timeout=1.0)
            if not self.ended.done():
                self._fed(self._client.loop_misc)

    def _fed(self, step: Any) -> None:
        try:
            code = step()
        except Exception as exc:  # noqa: BLE001
            # Whatever the parser stumbles over in what a broker sends: those who wait are told, nothing is lost.
            self._end(DeliveryError(f"{self._place} does not speak MQTT 5: {excerpt(repr(exc))}", remedy=RESENT))
            return
        if code is MQTTErrorCode.MQTT_ERR_PROTOCOL:
            self._end(DeliveryError(f"{self._place} does not speak MQTT 5", remedy="check the sink's host and port"))

    def _on_connect(
        self, _: Client, __: object, ___: ConnectFlags, reason: ReasonCode, offers: Properties | None
    ) -> None:
        if reason.is_failure:
            self._end(judge(reason.value, reason.getName(), self._place, about_batch=False))
            return
        if getattr(offers, "MaximumQoS", QOS) < QOS:
            self._end(judge(0x9B, "QoS not supported", self._place, about_batch=False))
            return
        self._in_flight = min(_IN_FLIGHT, getattr(offers, "ReceiveMaximum", _IN_FLIGHT))
        self._largest = getattr(offers, "MaximumPacketSize", 0)
        if not self._accepted.done():
            self._accepted.set_result(None)

    def _on_ack(self, _: Client, __: object, mid: int, reason: ReasonCode, ___: Properties | None) -> None:
        failed = reason.is_failure
        self._answered(mid, judge(reason.value, reason.getName(), self._place, about_batch=True) if failed else None)

    def _on_too_large(self, mid: int) -> None:
        self._answered(mid, judge(TOO_LARGE, "packet too large", self._place, about_batch=True))

    def _answered(self, mid: int, failure: TransportError | None) -> None:
        _, answer = self._waiting.pop(mid, (None, None))
        if answer is not None and not answer.done():
            answer.set_result(failure)

    def _on_disconnect(
        self, _: Client, __: object, flags: DisconnectFlags, reason: ReasonCode, ___: Properties | None
    ) -> None:
        if flags.is_disconnect_packet_from_server and reason.is_failure:
            about_batch = any(message.key for message, _ in self._waiting.values())
            self._end(judge(reason.value, reason.getName(), self._place, about_batch=about_batch))
        else:
            self._end(DeliveryError(f"the connection to {self._place} broke", remedy=RESENT))

    def _on_written(self, *_: object) -> None:
        if self._sock.fileno() >= 0:
            self._loop.remove_writer(self._sock)

    def _on_close(self, *_: object) -> None:
        self._let_go()

    def _ended_before(self) -> TransportError:
        failure = self.ended.result()
        if isinstance(failure, Unauthorised):
            return failure
        return DeliveryError(failure.args[0], remedy=RESENT)  # whatever it was, it was not about this batch

    def _end(self, failure: TransportError) -> None:
        """Let go of the socket and tell everybody who waits; only the first reason counts."""
        if self.ended.done():
            return
        self.ended.set_result(failure)
        self._let_go()
        self._sock.close()
        if not self._accepted.done():
            self._accepted.set_exception(failure)
            self._accepted.exception()  # seen: asyncio would complain where nobody waits
        for _, answer in self._waiting.values():
            if not answer.done():
                answer.set_result(failure)
        self._waiting.clear()

    def _let_go(self) -> None:
        if self._sock.fileno() >= 0:
            self._loop.remove_reader(self._sock)
            self._loop.remove_writer(self._sock)


async def open_link(settings: LinkSettings) -> MqttLink:
    """Connect once, within ``timeout`` seconds. Raises a ``TransportError``. The caller closes the link."""
    address = settings.address
    link: MqttLink | None = None
    try:
        async with asyncio.timeout(settings.timeout):
            link = MqttLink(await open_socket(address.host, address.port, settings.tls), settings)
            await link.connect(settings.keepalive)
    except BaseException as exc:
        if link is not None:
            link.abandon()
        if isinstance(exc, OSError):  # TimeoutError and ssl.SSLError are
            raise socket_failure(exc, address.place) from exc
        raise
    return link


def _properties(message: Message) -> Properties:
    properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
    properties.PayloadFormatIndicator = 1  # UTF-8
    if message.json:
        properties.ContentType = "application/json"
    if message.key:
        properties.UserProperty = ("idempotency-key", message.key)
    return properties


def _packet_size(message: Message, properties: Properties) -> int:
    """Return the bytes of the PUBLISH packet, a little more at most (MQTT 5 section 3.3)."""
    extra = len(properties.pack())  # type: ignore[no-untyped-call]
    return _FIXED_HEADER + 2 + len(message.topic.encode()) + 2 + extra + len(message.payload)
