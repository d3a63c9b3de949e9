"""The durable outbox against ``kill -9``: what was acknowledged is there, whenever the process dies."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

import pytest

from sentinel_pipeline.domain.errors import OutboxError
from sentinel_pipeline.domain.events import Event
from sentinel_pipeline.infrastructure.storage.outbox import SqliteOutbox
from sentinel_pipeline.infrastructure.storage.outbox_reader import OutboxReader
from support.program import wait_until

# Appends from two threads and prints each id only after append returned; a third thread delivers to sink "quick".
CHILD = """
import sys, threading
from sentinel_pipeline.domain.events import Event, EventStage
from sentinel_pipeline.infrastructure.storage.outbox import SqliteOutbox

outbox = SqliteOutbox(sys.argv[1], keep=0)
outbox.open()
outbox.register(["quick", "slow"])
speaking = threading.Lock()

def produce(stream):
    number = 0
    while True:
        batch = [Event("X", EventStage.DETECTED, stream, "rule", ts=float(number + offset)) for offset in range(3)]
        number += 3
        outbox.append(batch)
        with speaking:
            for event in batch:
                sys.stdout.write(f"{event.stream_id} {event.event_id}\\n")
            sys.stdout.flush()

def consume():
    while True:
        batch = outbox.next_batch("quick", 10)
        if batch is not None:
            outbox.ack(batch)

for work in (lambda: produce(sys.argv[2] + "a"), lambda: produce(sys.argv[2] + "b"), consume):
    threading.Thread(target=work).start()
"""


def run_and_kill(path: Path, name: str, lines: int) -> list[str]:
    """Start a program on the outbox, kill it after ``lines`` acknowledged events; return all it acknowledged."""
    child = subprocess.Popen([sys.executable, "-c", CHILD, str(path), name], stdout=subprocess.PIPE)
    assert child.stdout is not None
    try:
        said = [child.stdout.readline() for _ in range(lines)]
    finally:
        child.kill()
        rest = child.stdout.read()
        child.stdout.close()
        child.wait(10)
    said += rest.splitlines(keepends=True)
    return [line.decode().split()[1] for line in said if line.endswith(b"\n")]


def test_outbox_loses_nothing_acknowledged_to_kill_9(tmp_path: Path) -> None:
    """Ten kills at random points: no acknowledged event is missing, order holds, and the next owner starts at once."""
    path = tmp_path / "outbox.db"
    randomness = random.Random(20261124)
    acknowledged: list[str] = []
    for kill in range(10):
        acknowledged += run_and_kill(path, f"k{kill}", lines=randomness.randrange(1, 250))
        assert OutboxReader(path).list(1)  # readable also straight after the kill, while nothing runs
    stored: list[Event] = []
    with SqliteOutbox(path) as outbox:
        outbox.register(["quick", "slow"])
        while (batch := outbox.next_batch("slow", 500)) is not None:
            stored += [Event.from_wire(body) for body in batch.bodies]
            outbox.ack(batch)
    ids = [event.event_id for event in stored]
    assert len(acknowledged) > 500
    assert not set(acknowledged) - set(ids)
    assert len(ids) == len(set(ids))
    streams: dict[str, list[float]] = {}
    for event in stored:
        streams.setdefault(event.stream_id, []).append(event.ts)
    for stream, numbers in streams.items():
        assert numbers == [float(number) for number in range(len(numbers))], stream


def test_outbox_kill_9_keeps_the_batch_under_way(tmp_path: Path) -> None:
    """A batch handed out before the kill comes again under the same key after it."""
    path = tmp_path / "outbox.db"
    script = CHILD.split("speaking =", maxsplit=1)[0] + (
        'outbox.append([Event("X", EventStage.DETECTED, "gate", "rule", ts=float(n)) for n in range(9)])\n'
        'batch = outbox.next_batch("slow", 4)\n'
        "print(batch.key, batch.first_seq, batch.last_seq, flush=True)\n"
        "threading.Event().wait(60)\n"
    )
    child = subprocess.Popen([sys.executable, "-c", script, str(path)], stdout=subprocess.PIPE)
    assert child.stdout is not None
    try:
        key, first, last = child.stdout.readline().decode().split()
        with pytest.raises(OutboxError, match=f"in use by process {child.pid}"):
            SqliteOutbox(path).open()
    finally:
        child.kill()
        child.stdout.close()
        child.wait(10)
    with SqliteOutbox(path) as outbox:
        batch = outbox.next_batch("slow", 100)
        assert batch is not None
        assert (batch.key, batch.first_seq, batch.last_seq) == (key, int(first), int(last))


def test_outbox_loses_nothing_acknowledged_when_its_files_are_deleted(tmp_path: Path) -> None:
    """Files are deleted again and again under a program at work; ``kill -9`` when they are back: nothing is missing."""
    path = tmp_path / "outbox.db"
    acknowledged: list[str] = []
    randomness = random.Random(20261125)
    places = [Path(f"{path}{part}") for part in ("", "-wal", "-shm")]
    for kill in range(6):
        child = subprocess.Popen([sys.executable, "-c", CHILD, str(path), f"k{kill}"], stdout=subprocess.PIPE)
        assert child.stdout is not None
        said: list[bytes] = []
        try:
            for _ in range(3):
                said += [child.stdout.readline() for _ in range(randomness.randrange(1, 60))]
                for suffix in randomness.sample(["", "-wal", "-shm", ".lock"], randomness.randrange(1, 5)):
                    Path(f"{path}{suffix}").unlink(missing_ok=True)
                wait_until(lambda: all(place.exists() for place in places), 10, "the files")
        finally:
            child.kill()
            said += child.stdout.read().splitlines(keepends=True)
            child.stdout.close()
            child.wait(10)
        whole = [line for line in said if line.endswith(b"\n") and line.startswith(b"k")]  # the log is among them
        acknowledged += [line.decode().split()[1] for line in whole]
    with SqliteOutbox(path) as outbox:
        outbox.register(["quick", "slow"])
        stored: list[Event] = []
        while (batch := outbox.next_batch("slow", 500)) is not None:
            stored += [Event.from_wire(body) for body in batch.bodies]
            outbox.ack(batch)
    assert len(acknowledged) > 500
    assert not set(acknowledged) - {event.event_id for event in stored}
