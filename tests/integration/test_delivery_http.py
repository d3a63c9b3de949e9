"""Emitter, durable outbox and delivery loop with a real HTTP receiver that fails, while the program is killed."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from pathlib import Path

from sentinel_pipeline.application.event.delivery import DeliverySettings
from sentinel_pipeline.application.event.emitter import EventEmitter
from sentinel_pipeline.domain.events import Event, EventStage
from sentinel_pipeline.infrastructure.storage.outbox import SqliteOutbox
from sentinel_pipeline.infrastructure.transport.http_client import HttpTransport
from sentinel_pipeline.infrastructure.transport.http_sink import HttpSink
from support.program import sentinel, wait_until
from support.receivers import Arrival, FaultyHttpServer, Reply

QUICK = DeliverySettings(max_events=20, max_wait=0.01, base_delay=0.05, max_delay=0.2)

# Emits from two threads while it delivers, and prints each id only after emit returned.
PROGRAM = """
import sys, threading
import structlog
structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))  # standard output carries the ids
from sentinel_pipeline.application.event.delivery import DeliverySettings
from sentinel_pipeline.application.event.emitter import EventEmitter
from sentinel_pipeline.domain.events import Event, EventStage
from sentinel_pipeline.infrastructure.storage.outbox import SqliteOutbox
from sentinel_pipeline.infrastructure.transport.http_sink import HttpSink

path, url, name = sys.argv[1:]
outbox = SqliteOutbox(path)
outbox.open()
settings = DeliverySettings(max_events=20, max_wait=0.01, base_delay=0.05, max_delay=0.2)
emitter = EventEmitter(outbox, {"vms": HttpSink(url, timeout=2)}, {"vms": settings})
emitter.start()
speaking = threading.Lock()

def produce(stream):
    for number in range(100000):
        event = Event("X", EventStage.DETECTED, stream, "rule", ts=float(number))
        emitter.emit(event)
        with speaking:
            print(event.event_id, flush=True)

for stream in ("a", "b"):
    threading.Thread(target=produce, args=(name + stream,)).start()
"""


def event(number: int) -> Event:
    return Event("X", EventStage.DETECTED, "gate", "rule", ts=float(number))


def bodies_by_key(requests: list[Arrival]) -> dict[str, set[bytes]]:
    by_key: dict[str, set[bytes]] = {}
    for request in requests:
        by_key.setdefault(request.key, set()).add(request.body)
    return by_key


def test_delivery_loses_nothing_while_both_ends_fail(tmp_path: Path) -> None:
    """Five kill -9 and a receiver that fails in many ways: all accepted events arrive, in order, copies by key only."""
    randomness = random.Random(7)
    accepted: list[str] = []
    path = tmp_path / "outbox.db"
    with FaultyHttpServer() as server:
        for kill in range(5):
            server.say(Reply(503), Reply(silent=True, stored=True), Reply(cut=3), Reply(429, {"Retry-After": "0"}))
            child = subprocess.Popen(
                [sys.executable, "-c", PROGRAM, str(path), server.url, f"k{kill}"],
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
            )
            assert child.stdout is not None
            try:
                lines = [child.stdout.readline() for _ in range(randomness.randrange(20, 120))]
            finally:
                child.kill()
                lines += child.stdout.read().splitlines(keepends=True)
                child.stdout.close()
                child.wait(10)
            accepted += [line.decode().strip() for line in lines if line.endswith(b"\n")]
        with (
            SqliteOutbox(path) as outbox,
            EventEmitter(outbox, {"vms": HttpSink(server.url)}, {"vms": QUICK}) as emitter,
        ):
            assert emitter.flush(20)
            assert emitter.snapshot()["vms"]["dead"] == 0
        received = list(server.stored)
        requests = list(server.requests)
    first_seen = {wire["event_id"]: wire for wire in received}
    assert len(accepted) >= 100
    assert not set(accepted) - set(first_seen)
    assert {len(bodies) for bodies in bodies_by_key(requests).values()} == {1}
    keys_of: dict[str, set[str]] = {}
    for request in requests:
        for wire in request.json:
            keys_of.setdefault(wire["event_id"], set()).add(request.key)
    assert {len(keys) for keys in keys_of.values()} == {1}
    streams: dict[str, list[float]] = {}
    for wire in first_seen.values():
        streams.setdefault(wire["stream_id"], []).append(wire["ts"])
    for stream, numbers in streams.items():
        assert numbers == [float(number) for number in range(len(numbers))], stream


def test_delivery_outlives_an_outage_and_a_restart(tmp_path: Path) -> None:
    """The receiver fails, the program ends and starts again, the receiver recovers: one key, one delivery, in order."""
    with FaultyHttpServer(then=Reply(503)) as server:
        with SqliteOutbox(tmp_path / "outbox.db") as outbox:
            sinks = {"vms": HttpSink(server.url)}
            with EventEmitter(outbox, sinks, {"vms": QUICK}) as emitter:
                emitter.emit([event(number) for number in range(5)])
                server.wait_for(lambda seen: len(seen.requests) >= 3)
                begun = time.monotonic()
            assert time.monotonic() - begun < 2.0
        assert server.stored == []
        server.then = Reply(200)
        with (
            SqliteOutbox(tmp_path / "outbox.db") as outbox,
            EventEmitter(outbox, {"vms": HttpSink(server.url)}, {"vms": QUICK}) as emitter,
        ):
            emitter.emit(event(5))
            assert emitter.flush(10)
        assert [wire["ts"] for wire in server.stored] == [0, 1, 2, 3, 4, 5]
        assert len(bodies_by_key(server.requests[:-1])) == 1
        assert {len(bodies) for bodies in bodies_by_key(server.requests).values()} == {1}


def test_delivery_tells_of_the_first_failed_try() -> None:
    """A sink is ``retrying``, with the reason, after one request: nothing is tried again behind its back."""
    with (
        FaultyHttpServer(then=Reply(503, {"Retry-After": "2"})) as server,
        EventEmitter(transports={"vms": HttpSink(server.url)}, settings={"vms": QUICK}) as emitter,
    ):
        emitter.emit(event(1))
        server.wait_for(lambda seen: seen.requests)
        wait_until(lambda: emitter.snapshot()["vms"]["state"] == "retrying", 1.5, "the sink says that it retries")
        report = emitter.snapshot()["vms"]
        assert (report["circuit"], "503" in report["reason"]) == ("open", True)
        assert len(server.requests) == 1


def test_delivery_takes_up_what_the_operator_replays(tmp_path: Path) -> None:
    """Dead letters that ``sentinel events replay --dead`` queues are delivered by the running program in seconds."""
    from sentinel_pipeline.infrastructure.storage.outbox_reader import OutboxReader

    path = tmp_path / "outbox.db"
    with (
        FaultyHttpServer(Reply(422)) as server,
        SqliteOutbox(path) as outbox,
        EventEmitter(outbox, {"vms": HttpSink(server.url)}, {"vms": QUICK}) as emitter,
    ):
        emitter.emit(event(1))
        assert emitter.flush(10)
        assert emitter.snapshot()["vms"]["dead"] == 1
        config = tmp_path / "sentinel.yaml"
        config.write_text(f"version: 1\nstreams: {{a: {{source: 'test:64x64@5'}}}}\noutbox: {{path: '{path}'}}\n")
        told = sentinel("events", "replay", "--dead", "--sink", "vms", "--json", "--config", config)
        assert (told.returncode, json.loads(told.stdout)) == (0, {"replayed": 1}), told.stderr
        server.wait_for(lambda seen: len(seen.stored) == 1, timeout=8)
        assert emitter.flush(10)
        assert OutboxReader(path).dead() == []


def test_delivery_by_the_documents_callable() -> None:
    """The infrastructure document's own usage, with its ``HttpTransport``, delivers through the same loop."""
    with FaultyHttpServer(Reply(503)) as server:
        emitter = EventEmitter()
        with HttpTransport(base_url=server.base_url) as transport:
            emitter.set_sync_transport(transport)
            emitter.emit([event(1), event(2)])
            assert emitter.flush(15)
        emitter.close()
        assert [wire["ts"] for wire in server.stored] == [1, 2]


def test_delivery_program_that_forgets_to_close_still_ends() -> None:
    """A script that hands over a callable and just ends is not kept alive by the delivery thread."""
    script = (
        "from sentinel_pipeline.application.event.emitter import EventEmitter\n"
        "from sentinel_pipeline.domain.events import Event, EventStage\n"
        "emitter = EventEmitter()\n"
        "emitter.set_sync_transport(lambda events: print(len(events), flush=True) is None)\n"
        "emitter.emit(Event('X', EventStage.DETECTED, 'gate', 'rule', ts=1.0))\n"
        "emitter.flush()\n"
    )
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, check=False, timeout=15)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, b"1\n", b"")
