"""The MQTT sink against Mosquitto and its own subscriber: delivery, order, brokers that die, refuse and hang."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sentinel_pipeline.application.event.delivery import DeliverySettings
from sentinel_pipeline.application.event.emitter import EventEmitter
from sentinel_pipeline.application.ports import Batch
from sentinel_pipeline.domain.errors import DeliveryError, PayloadTooLarge, Rejected, SentinelError, Unauthorised
from sentinel_pipeline.domain.events import Event, EventStage
from sentinel_pipeline.domain.system_events import Outage, stream_down, stream_up
from sentinel_pipeline.infrastructure.storage.outbox import SqliteOutbox
from sentinel_pipeline.infrastructure.transport.mqtt_sink import MqttSink
from support.mqtt_peer import Broker, Gate, subscribed
from support.program import wait_until
from support.receivers import self_signed, until

pytestmark = pytest.mark.mosquitto

QUICK = DeliverySettings(max_events=50, max_wait=0.005, base_delay=0.05, max_delay=0.2)
SECRET = "p@ss:w/rd"


def events(count: int, stream: str = "gate", start: int = 0, **details: Any) -> list[Event]:
    return [
        Event("INTRUSION", EventStage.DETECTED, stream, "zone", 1_732_406_400.0 + n, details=details)
        for n in range(start, start + count)
    ]


def batch(sent: list[Event], key: str = "key-1") -> Batch:
    return Batch("mqtt", key, 1, len(sent), tuple(event.encode() for event in sent))


def sink(url: str, **options: Any) -> MqttSink:
    return MqttSink(url, **{"timeout": 3.0, "base_delay": 0.05, "max_delay": 0.2, **options})


def use(made: MqttSink, work: Any) -> None:
    """Run ``work(sink)`` in an event loop of its own, with the sink open; it is closed in any case."""

    async def main() -> None:
        await made.open()
        try:
            await work(made)
        finally:
            async with asyncio.timeout(2.0):
                await made.close()

    asyncio.run(main())


def failure_of(made: MqttSink, sent: Batch) -> Any:
    """Return what one attempt to deliver raises; without the keeper, so that there is exactly one."""

    async def main() -> BaseException | None:
        try:
            await made.send(sent)
        except SentinelError as exc:
            return exc
        finally:
            await made.close()
        return None

    return asyncio.run(main())


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    with Broker(tmp_path) as running:
        yield running


def test_mqtt_batch_is_one_message_with_its_key(broker: Broker) -> None:
    """A batch arrives as one QoS 1 message: a JSON array of wire form 1, with content type and idempotency key."""
    sent = events(7)
    with subscribed(broker) as subscriber:
        use(sink(broker.url), lambda s: s.send(batch(sent, "key-7")))
        subscriber.wait_for(lambda s: s.on("site/a/events"))
        (message,) = subscriber.on("site/a/events")
    assert [Event.from_wire(wire) for wire in message.json] == sent
    assert (message.qos, message.stale, message.content_type) == (1, False, "application/json")
    assert message.properties == "idempotency-key:key-7"


def test_mqtt_status_is_retained_and_the_will_speaks_for_the_dead(broker: Broker, tmp_path: Path) -> None:
    """The status topic says online, offline after a goodbye, and offline by the broker after kill -9."""
    with subscribed(broker) as subscriber:
        use(sink(broker.url), lambda s: until(lambda: s.is_connected))
        subscriber.wait_for(lambda s: len(s.on("site/a/status")) == 2)
        code = (
            "import asyncio, sys\n"
            "from sentinel_pipeline.infrastructure.transport.mqtt_sink import MqttSink\n"
            "async def main():\n"
            "    await MqttSink(sys.argv[1]).open()\n"
            "    await asyncio.sleep(60)\n"
            "asyncio.run(main())\n"
        )
        child = subprocess.Popen([sys.executable, "-c", code, broker.url], stdout=subprocess.DEVNULL)
        try:
            subscriber.wait_for(lambda s: len(s.on("site/a/status")) == 3)
        finally:
            child.kill()
            child.wait(5)
        subscriber.wait_for(lambda s: len(s.on("site/a/status")) == 4)
        said = [message.payload.decode() for message in subscriber.on("site/a/status")]
    assert said == ["online", "offline", "online", "offline"]
    with subscribed(broker) as late:
        late.wait_for(lambda s: s.on("site/a/status"))
        (message,) = late.on("site/a/status")
    assert (message.payload, message.stale) == (b"offline", True)


def test_mqtt_stream_state_is_retained_and_survives_a_broker_that_forgets(broker: Broker) -> None:
    """A lost camera's state is retained for who comes later; a broker that lost all it knew is told again."""
    outage = Outage(1_732_406_400.0, "no route to host")
    down, up = stream_down("gate", outage), stream_up("gate", outage, 1_732_406_460.0)
    yard = stream_down("yard", outage)

    async def work(made: MqttSink) -> None:
        await made.send(batch([down, up, yard]))
        broker.kill()
        await until(lambda: not made.is_connected)
        broker.start()
        await until(lambda: made.is_connected)
        with subscribed(broker) as late:
            await asyncio.to_thread(
                late.wait_for, lambda s: s.on("site/a/streams/gate/state") and s.on("site/a/streams/yard/state")
            )
            (gate,), (lost,) = late.on("site/a/streams/gate/state"), late.on("site/a/streams/yard/state")
        assert (gate.stale, gate.json["state"]) == (True, "UP")
        assert lost.json == {"state": "DOWN", "since": down.to_wire()["ts_iso"], "reason": "no route to host"}

    use(sink(broker.url), work)


def test_mqtt_home_assistant_finds_the_sensors(broker: Broker) -> None:
    """With discovery a confirmed incident makes a retained sensor, on until the last incident is cleared."""
    made = sink(broker.url, discovery="homeassistant")  # before the events, as in the program
    zone = {"type": "INTRUSION", "stream_id": "gate", "module_name": "back/yard +1", "ts": 1_732_406_400.0}
    sent = [
        Event(**zone, stage=EventStage.DETECTED, details={"incident_id": "1"}),
        Event(**zone, stage=EventStage.CONFIRMED, details={"incident_id": "1"}),
        Event(**zone, stage=EventStage.CONFIRMED, details={"incident_id": "2"}),
        Event(**zone, stage=EventStage.CLEARED, details={"incident_id": "1"}),
        Event(**zone, stage=EventStage.CLEARED, details={"incident_id": "2"}),
    ]
    with subscribed(broker) as subscriber:
        use(made, lambda s: s.send(batch(sent)))
        state = "site/a/streams/gate/rules/back%2Fyard%20%2B1"
        subscriber.wait_for(lambda s: len(s.on(state)) == 4)
        assert [message.payload for message in subscriber.on(state)] == [b"ON", b"ON", b"ON", b"OFF"]
    with subscribed(broker) as home:
        home.wait_for(lambda s: s.below("homeassistant/binary_sensor/"))
        (sensor,) = home.below("homeassistant/binary_sensor/")
    assert sensor.stale
    assert sensor.json["state_topic"] == state
    assert (sensor.json["payload_on"], sensor.json["payload_off"]) == ("ON", "OFF")
    assert sensor.json["availability_topic"] == "site/a/status"
    assert sensor.json["device"]["name"] == "gate"


def test_mqtt_loses_nothing_to_a_broker_that_is_killed_again_and_again(tmp_path: Path) -> None:
    """Through kill -9 of the broker and cut connections in mid-batch all events arrive, in order per stream."""
    (tmp_path / "broker").mkdir()
    broker = Broker(tmp_path / "broker", "allow_anonymous true\nset_tcp_nodelay true")
    emitted: list[Event] = []
    with broker, Gate(broker.port) as gate, SqliteOutbox(tmp_path / "outbox.db") as outbox:
        url = f"mqtt://127.0.0.1:{gate.port}/site/a"
        with (
            subscribed(broker) as subscriber,
            EventEmitter(outbox, {"mqtt": sink(url)}, {"mqtt": QUICK}) as emitter,
        ):

            def emit(count: int) -> None:
                for n in range(count):
                    new = events(1, f"cam{n % 3}", len(emitted))
                    emitter.emit(new)
                    emitted.extend(new)

            for turn in range(4):
                got = len(subscriber.events)
                producer = threading.Thread(target=emit, args=(300,))
                producer.start()
                subscriber.wait_for(lambda s, got=got: len(s.events) > got + 20)
                gate.shut()  # in the middle of the batches
                if turn % 2:
                    broker.kill()
                producer.join(30)
                if turn % 2:
                    broker.start()
                    subscriber.wait_subscribed()  # or the broker has nobody to hand the events to
                assert emitter.snapshot()["mqtt"]["pending"] > 0
                gate.open()
            assert emitter.flush(20)
            snapshot = emitter.snapshot()["mqtt"]
            newest = emitted[-1].event_id
            subscriber.wait_for(lambda s: any(wire["event_id"] == newest for wire in s.events))
            received = subscriber.events
    assert (snapshot["dead"], snapshot["dropped"], snapshot["delivered"]) == (0, 0, len(emitted))
    first_seen = {wire["event_id"]: wire for wire in received}
    assert set(first_seen) == {event.event_id for event in emitted}
    for stream in ("cam0", "cam1", "cam2"):
        times = [wire["ts"] for wire in first_seen.values() if wire["stream_id"] == stream]
        assert times == sorted(times)


def test_mqtt_program_starts_without_a_broker(tmp_path: Path) -> None:
    """Events wait for a broker that is not there at the start (frigate#1966, #1469) and arrive when it comes."""
    broker = Broker(tmp_path)
    with (
        SqliteOutbox(tmp_path / "outbox.db") as outbox,
        EventEmitter(outbox, {"mqtt": sink(broker.url)}, {"mqtt": QUICK}) as emitter,
    ):
        emitter.emit(events(5))
        wait_until(lambda: emitter.snapshot()["mqtt"]["state"] == "retrying", 5, "retrying")
        assert "cannot connect" in emitter.snapshot()["mqtt"]["reason"]
        with broker:
            assert emitter.flush(10)
            assert emitter.snapshot()["mqtt"] | {"reason": ""} == emitter.snapshot()["mqtt"]
            assert emitter.snapshot()["mqtt"]["delivered"] == 5


def test_mqtt_hung_broker_costs_its_deadline_and_no_event(broker: Broker) -> None:
    """A broker that is frozen with the connection open is given up after the time-out; afterwards the batch arrives."""

    async def work(made: MqttSink) -> None:
        await made.send(batch(events(1), "before"))
        broker.freeze()
        started = time.monotonic()
        with pytest.raises(DeliveryError, match=r"did not acknowledge within 0\.5 s"):
            await made.send(batch(events(1), "frozen"))
        assert 0.4 < time.monotonic() - started < 1.5
        broker.thaw()
        await made.send(batch(events(1), "after"))

    use(sink(broker.url, timeout=0.5), work)


def protected(folder: Path) -> Broker:
    """A broker that wants a password and lets the user write below site/ but not below homeassistant/."""
    subprocess.run(["mosquitto_passwd", "-b", "-c", str(folder / "passwords"), "cam", SECRET], check=True, timeout=10)
    (folder / "access").write_text("user cam\ntopic write site/a/#\n")
    return Broker(folder, f"allow_anonymous false\npassword_file {folder}/passwords\nacl_file {folder}/access")


def test_mqtt_wrong_password_and_forbidden_topic_are_told_apart_from_outages(tmp_path: Path) -> None:
    """A wrong password and a forbidden topic are Unauthorised (events kept, sink paused); no message shows a secret."""
    with protected(tmp_path) as broker:
        place = f"127.0.0.1:{broker.port}"
        good = f"mqtt://cam:p%40ss%3Aw%2Frd@{place}/site/a"
        assert failure_of(sink(good), batch(events(2))) is None
        for url in (f"mqtt://cam:wr0ng@{place}/site/a", f"mqtt://{place}/site/a", good.replace("/site/a", "/other")):
            failure = failure_of(sink(url), batch(events(2)))
            assert isinstance(failure, Unauthorised), failure
            assert not any(secret in f"{failure!s} {failure!r} {sink(url)!r}" for secret in ("wr0ng", SECRET, "p%40ss"))
        # What Home Assistant should see is forbidden: the events count all the same.
        made = sink(good, discovery="homeassistant")
        sent = [Event("X", EventStage.CONFIRMED, "gate", "zone", 1.0, details={"incident_id": "1"})]
        assert failure_of(made, batch(sent)) is None


@pytest.mark.parametrize("limit", ["message_size_limit 2000", "max_packet_size 2000"])
def test_mqtt_large_batch_is_split_until_it_fits(limit: str, tmp_path: Path) -> None:
    """A broker with a size limit gets halves, all events arrive; only the event that is too large itself is parked."""
    with (
        Broker(tmp_path, f"allow_anonymous true\n{limit}") as broker,
        subscribed(broker) as subscriber,
        SqliteOutbox(tmp_path / "outbox.db") as outbox,
        EventEmitter(outbox, {"mqtt": sink(broker.url)}, {"mqtt": QUICK}) as emitter,
    ):
        sent = [*events(30), *events(1, start=30, filler="x" * 3000), *events(30, start=31)]
        emitter.emit(sent)
        assert emitter.flush(15)
        newest = sent[-1].event_id
        subscriber.wait_for(lambda s: any(wire["event_id"] == newest for wire in s.events))
        assert emitter.snapshot()["mqtt"]["dead"] == 1
        assert [wire["event_id"] for wire in subscriber.events] == [e.event_id for e in sent if not e.details]


def test_mqtt_huge_batch_goes_through_whole(broker: Broker) -> None:
    """A batch of 4 MiB, which takes many writes, arrives as one message."""
    sent = events(4000, filler="x" * 800)
    with subscribed(broker) as subscriber:
        use(sink(broker.url, timeout=10.0), lambda s: s.send(batch(sent)))
        subscriber.wait_for(lambda s: s.on("site/a/events"))
        assert [wire["event_id"] for wire in subscriber.events] == [event.event_id for event in sent]


def test_mqtt_over_tls_with_a_certificate_that_is_checked(tmp_path: Path) -> None:
    """mqtts delivers to a broker whose certificate is trusted, also a batch of many TLS records, and to no other."""
    tls = self_signed(tmp_path)
    sent = events(2000)
    with Broker(tmp_path, tls=tls) as broker:
        assert failure_of(sink(broker.url, verify=tls[0]), batch(sent)) is None
        assert failure_of(sink(broker.url, verify=False), batch(sent)) is None
        failure = failure_of(sink(broker.url), batch(sent))
        assert isinstance(failure, DeliveryError)
        assert "TLS" in str(failure)


def attempt_at(*answers: bytes, hold: bool = True) -> DeliveryError | Any:
    """Deliver to a server that answers each of what it reads with fixed bytes; return what the attempt raises."""

    async def main() -> BaseException | None:
        writers: list[asyncio.StreamWriter] = []

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writers.append(writer)
            for answer in answers:
                await reader.read(100_000)
                writer.write(answer)
            if hold:
                await reader.read()
            writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        made = sink(f"mqtt://127.0.0.1:{server.sockets[0].getsockname()[1]}", timeout=0.5)
        try:
            await made.send(batch(events(1)))
        except SentinelError as exc:
            return exc
        finally:
            await made.close()
            server.close()
            for writer in writers:
                writer.transport.abort()
            await server.wait_closed()
            await asyncio.sleep(0)
        return None

    started = time.monotonic()
    raised = asyncio.run(main())
    assert time.monotonic() - started < 2.0
    return raised


GARBAGE = [
    b"HTTP/1.1 400 Bad Request\r\n\r\n",
    bytes(range(256)) * 10,
    b"\x20\x02\x00\x01",  # a refusal by MQTT 3.1.1
    b"\x20\xff\xff\xff\xff",
    b"\x20\x03\x00\x00\x05",
    b"\x20\x06\x00\x00\x03\x99\x00\x01",
    b"\x40\x02\x00\x01",
    b"\x30\x05abc",
]


@pytest.mark.parametrize("answer", GARBAGE)
def test_mqtt_what_is_no_broker_is_a_failed_delivery(answer: bytes) -> None:
    """Garbage instead of an answer is a delivery error within the time-out, never a crash, and no socket stays."""
    assert type(attempt_at(answer)) is DeliveryError


def test_mqtt_silence_and_an_early_close_are_named() -> None:
    """A server that never answers runs into the time-out; one that closes is a broken connection."""
    assert "in time" in str(attempt_at(b""))
    assert "broke" in str(attempt_at(b"", hold=False))


ACCEPTED = b"\x20\x03\x00\x00\x00"
ONLINE = b"\x40\x02\x00\x01"  # the acknowledgement of the status, which comes first


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        ((b"\x20\x03\x00\x86\x00",), Unauthorised),
        ((b"\x20\x03\x00\x97\x00",), DeliveryError),
        ((b"\x20\x03\x00\x9d\x00",), DeliveryError),
        ((b"\x20\x05\x00\x00\x02\x24\x00",), DeliveryError),  # no QoS 1
        ((ACCEPTED, ONLINE, b"\x40\x04\x00\x02\x97\x00"), DeliveryError),
        ((ACCEPTED, ONLINE, b"\x40\x04\x00\x02\x87\x00"), Unauthorised),
        ((ACCEPTED, ONLINE, b"\x40\x04\x00\x02\x95\x00"), PayloadTooLarge),
        ((ACCEPTED, ONLINE, b"\x40\x04\x00\x02\x99\x00"), Rejected),
        ((ACCEPTED, ONLINE, b"\xe0\x02\x95\x00"), PayloadTooLarge),
        ((ACCEPTED, ONLINE, b"\xe0\x02\x8e\x00"), DeliveryError),
        ((ACCEPTED, b"\xe0\x02\x87\x00"), Unauthorised),
        ((ACCEPTED, b"\xe0\x02\x95\x00"), DeliveryError),  # the status is too large, or no text: no event was sent
        ((ACCEPTED, b"\xe0\x02\x99\x00"), DeliveryError),
        ((ACCEPTED, ONLINE, b"\x40\x04\x00\x02\x10\x00"), type(None)),  # delivered, nobody listens
    ],
)
def test_mqtt_reason_codes_mean_what_they_say(answers: tuple[bytes, ...], expected: type) -> None:
    """Refusals of the connection, of the batch, and goodbyes in mid-batch are what the delivery loop acts upon."""
    raised = attempt_at(*answers)
    assert type(raised) is expected
    if raised is not None:
        assert "127.0.0.1" in str(raised)


def test_mqtt_two_programs_with_the_same_identity_go_on(broker: Broker) -> None:
    """When another client takes over the connection, the next batch makes a new one."""

    async def main() -> None:
        first, second = sink(broker.url, client_id="same"), sink(broker.url, client_id="same")
        await first.send(batch(events(1)))
        await second.send(batch(events(1)))
        await until(lambda: not first.is_connected)
        await first.send(batch(events(1)))
        await until(lambda: not second.is_connected)
        await first.close()
        await second.close()

    asyncio.run(main())


def test_mqtt_oversized_single_batch_raises_before_sending(tmp_path: Path) -> None:
    """The limit that the broker announces is kept without trying it: the connection survives."""

    async def work(made: MqttSink) -> None:
        await until(lambda: made.is_connected)
        with pytest.raises(PayloadTooLarge, match="2000 bytes"):
            await made.send(batch(events(30)))
        assert made.is_connected
        await made.send(batch(events(3)))

    with Broker(tmp_path, "allow_anonymous true\nmax_packet_size 2000") as broker:
        use(sink(broker.url), work)
