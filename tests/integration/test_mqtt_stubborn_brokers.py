"""The MQTT sink against brokers that refuse, or end the connection for, what is not events: scripted, on 127.0.0.1."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Any, Self

import pytest
import structlog

from sentinel_pipeline.application.event.delivery import DeliverySettings
from sentinel_pipeline.application.event.emitter import EventEmitter
from sentinel_pipeline.application.ports import Batch
from sentinel_pipeline.domain.errors import DeliveryError
from sentinel_pipeline.domain.events import Event, EventStage
from sentinel_pipeline.domain.system_events import Outage, stream_down, stream_up
from sentinel_pipeline.infrastructure.transport.mqtt_sink import MqttSink
from sentinel_pipeline.lab.loop_thread import LoopThread

QUICK = DeliverySettings(max_events=1, max_wait=0.0, base_delay=0.05, max_delay=0.2)
CONNECT, PUBLISH, DISCONNECT = 1, 3, 14  # packet types, MQTT 5 section 2.1.2
GONE = Outage(1_732_406_400.0, "no route to host")

Judge = Callable[[str, int], int | bytes]
"""From a topic, and how often it was published before, to a reason code for PUBACK, or the last bytes to send."""


class Scripted:
    """A broker that accepts everybody, writes down what is published, and answers as ``judge`` says."""

    def __init__(self, judge: Judge) -> None:
        self._judge = judge
        self._thread = LoopThread("scripted broker")
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self.published: list[tuple[str, bytes]] = []

    @property
    def url(self) -> str:
        assert self._server is not None
        return f"mqtt://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/site"

    @property
    def topics(self) -> list[str]:
        return [topic for topic, _ in self.published]

    @property
    def event_ids(self) -> list[str]:
        """The events of all batches, as often as they came."""
        batches = [json.loads(payload) for topic, payload in self.published if topic == "site/events"]
        return [event["event_id"] for batch in batches for event in batch]

    def __enter__(self) -> Self:
        self._thread.start()
        self._thread.run(self._open)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._thread.run(self._stop)
        finally:
            self._thread.close()

    async def _open(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)

    async def _stop(self) -> None:
        assert self._server is not None
        self._server.close()
        for writer in list(self._writers):
            writer.transport.abort()
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        with suppress(OSError, asyncio.IncompleteReadError):
            while (last := await self._answer(reader, writer)) is None:
                pass
            writer.write(last)
            await writer.drain()
        self._writers.discard(writer)
        writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes | None:
        """Read a packet and answer it; return the last bytes for a connection that ends here."""
        first = (await reader.readexactly(1))[0]
        packet = await reader.readexactly(await length(reader))
        if first >> 4 == DISCONNECT:
            return b""
        if first >> 4 == CONNECT:
            writer.write(b"\x20\x03\x00\x00\x00")
        elif first >> 4 == PUBLISH:
            end = 2 + int.from_bytes(packet[:2])
            topic, identifier = packet[2:end].decode(), packet[end : end + 2]
            verdict = self._judge(topic, self.topics.count(topic))
            self.published.append((topic, packet[end + 3 + packet[end + 2] :]))
            if isinstance(verdict, bytes):
                return verdict
            writer.write(b"\x40\x03" + identifier + bytes([verdict]))
        return None


async def length(reader: asyncio.StreamReader) -> int:
    """Read a variable byte integer (MQTT 5 section 1.5.5)."""
    total = shift = 0
    while True:
        byte = (await reader.readexactly(1))[0]
        total |= (byte & 0x7F) << shift
        if byte < 0x80:
            return total
        shift += 7


def sink(url: str, **options: Any) -> MqttSink:
    return MqttSink(url, **{"timeout": 3.0, "base_delay": 0.05, "max_delay": 0.2, **options})


def batch(*sent: Event) -> Batch:
    return Batch("mqtt", "key", 1, len(sent), tuple(event.encode() for event in sent))


def confirmed(rule: str) -> Event:
    return Event("INTRUSION", EventStage.CONFIRMED, "gate", rule, 1.0, details={"incident_id": rule})


@pytest.mark.parametrize("last", [b"\xe0\x02\x95\x00", b"\xe0\x02\x99\x00", b""], ids=["0x95", "0x99", "close"])
@pytest.mark.parametrize("place", ["site/status", "site/streams/gate/state"])
def test_mqtt_broker_that_ends_the_connection_for_a_state_gets_each_event_once(place: str, last: bytes) -> None:
    """What the broker thinks of a state is no judgement of events: all are delivered, none twice, none is parked."""
    sent = [
        stream_down("gate", GONE),
        *(Event("X", EventStage.DETECTED, "gate", "zone", float(n)) for n in range(3)),
        stream_up("gate", GONE, GONE.since + 60),
    ]
    with (
        Scripted(lambda topic, _: last if topic == place else 0) as broker,
        structlog.testing.capture_logs() as logs,
        EventEmitter(None, {"mqtt": sink(broker.url)}, {"mqtt": QUICK}) as emitter,
    ):
        emitter.emit(sent)
        assert emitter.flush(15)
        snapshot = emitter.snapshot()["mqtt"]
        assert broker.event_ids == [event.event_id for event in sent]
    assert (snapshot["dead"], snapshot["delivered"]) == (0, len(sent))
    assert any("gets events alone" in entry["event"] for entry in logs)


def test_mqtt_what_comes_behind_a_refused_sensor_is_published() -> None:
    """One refusal costs no other message, and what was refused in passing comes once more with the next batch."""
    rules = [f"rule{n}" for n in range(20)]  # 40 messages: several rounds
    sensor = "ha/binary_sensor/sentinel_site_gate/rule_rule0/config"

    async def main() -> None:
        made = sink(broker.url, discovery="ha")
        await made.send(batch(*map(confirmed, rules)))
        assert set(broker.topics) > {f"site/streams/gate/rules/{rule}" for rule in rules}
        assert broker.topics.count(sensor) == 1
        for _ in range(2):
            await made.send(batch(Event("X", EventStage.DETECTED, "gate", "zone", 1.0)))
            assert broker.topics.count(sensor) == 2
        await made.close()

    with Scripted(lambda topic, before: 0x97 if topic == sensor and not before else 0) as broker:
        asyncio.run(main())


def test_mqtt_sensor_is_announced_by_the_batch_that_is_delivered() -> None:
    """A batch that was refused has announced nothing: its next try, over the same connection, does."""
    sensor, state = "ha/binary_sensor/sentinel_site_gate/rule_zone/config", "site/streams/gate/rules/zone"

    async def main() -> None:
        made = sink(broker.url, discovery="ha")
        again = batch(confirmed("zone"))
        with pytest.raises(DeliveryError, match="0x97"):
            await made.send(again)
        await made.send(again)
        await made.close()

    with Scripted(lambda topic, before: 0x97 if topic == "site/events" and not before else 0) as broker:
        asyncio.run(main())
    assert broker.topics == ["site/status", "site/events", "site/events", sensor, state, "site/status"]
