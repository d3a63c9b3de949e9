"""``kill -9`` at random points under load, with receivers that fail in every way at the same time."""

from __future__ import annotations

import hashlib
import json
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from faults.clips import Clips
from faults.notebook import Notebook
from faults.scale import scaled
from faults.site import assert_consistent, configuration, end_well, kill, stream
from sentinel_pipeline.infrastructure.storage.outbox_reader import OutboxReader
from sentinel_pipeline.lab.rtsp_relay import RtspRelay
from support.program import running, wait_until
from support.receivers import Arrival, FaultyHttpServer, FaultyWebSocketServer, Reply, Session
from support.streams import publishing

CHILD = Path(__file__).with_name("event_child.py")
RETRY_AFTER = 1


class Ledger(FaultyHttpServer):
    """A receiver that fails at random and keeps the books instead of the bodies. ``calm``: fail no more."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.calm = False
        self.ids: list[str] = []  # in order of arrival, copies included
        self.keys: dict[str, set[str]] = {}  # of the stored requests that an event came in
        self.bytes_of: dict[str, set[bytes]] = {}  # digests of the bodies of a key
        self.streams: dict[str, list[float]] = {}  # time stamps of first arrivals
        self.early = 0  # requests before their Retry-After
        self.faults = 0
        self._chance = random.Random(seed)
        self._asked_at = 0.0  # when it last asked for patience
        self._quiet_until = 0.0
        self._seen: set[str] = set()
        self._stored_keys: set[str] = set()

    def arrived(self, request: Arrival) -> Reply:
        with self._changed:
            reply = Reply() if self.calm or self._chance.random() < 0.5 else self._fault()
            if reply.status == 413 and request.key in self._stored_keys:
                reply = Reply(500)  # who has stored a batch does not find it too large afterwards
            self.faults += reply.status != 200 or reply.silent or reply.raw is not None or bool(reply.delay)
            self.early += request.at < self._quiet_until - 0.02
            if "Retry-After" in reply.headers:
                self._asked_at = time.monotonic()
                self._quiet_until = self._asked_at + RETRY_AFTER
            self.bytes_of.setdefault(request.key, set()).add(hashlib.sha256(request.body).digest())
            if reply.stored is True or (reply.stored is None and reply.status == 200):
                self._stored_keys.add(request.key)
                for event in request.json:
                    self._store(event, request.key)
            self._changed.notify_all()
        return reply

    def excuse(self, killed_at: float) -> None:
        """Forgive a program that was killed before it can have written down what this receiver had just asked for."""
        with self._changed:
            if killed_at - self._asked_at < 0.2:
                self._quiet_until = 0.0

    def _store(self, event: dict[str, Any], key: str) -> None:
        self.ids.append(event["event_id"])
        self.keys.setdefault(event["event_id"], set()).add(key)
        if event["event_id"] not in self._seen:
            self._seen.add(event["event_id"])
            self.streams.setdefault(event["stream_id"], []).append(event["ts"])

    def _fault(self) -> Reply:
        return self._chance.choice(
            [
                Reply(500),
                Reply(503),
                Reply(408),
                Reply(413),
                Reply(silent=True, stored=True),
                Reply(silent=True, stored=False),
                Reply(cut=3),
                Reply(raw=b"\x00\xff\r\n\r\n", stored=True),
                Reply(delay=1.2 if self._chance.random() < 0.1 else 0.05),
                Reply(429, {"Retry-After": str(RETRY_AFTER)}) if self._chance.random() < 0.2 else Reply(502),
            ]
        )


def live_a_life(arguments: list[str], lines: int) -> tuple[list[str], float]:
    """Run the child, kill it after so many accepted events; return the ids of all that it has accepted, and when."""
    child = subprocess.Popen(
        [sys.executable, str(CHILD), *arguments], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    assert child.stdout is not None
    try:
        said = [child.stdout.readline() for _ in range(lines)]
    finally:
        killed_at = time.monotonic()
        child.kill()
        said += child.stdout.read().splitlines(keepends=True)
        child.stdout.close()
        child.wait(10)
    assert child.returncode == -signal.SIGKILL
    return [line.decode().split()[0] for line in said if line.endswith(b"\n")], killed_at


@pytest.mark.timeout(1800)
def test_no_accepted_event_is_lost_to_any_number_of_kills(tmp_path: Path, notebook: Notebook) -> None:
    """Two receivers that fail half of the time, a kill after each few thousand events: every accepted event arrives.

    pain 41: everything is replayed after a reconnect; pain 44, 45: a durable queue that loses; pain 47, 48.
    """
    chance = random.Random(20261124)
    kills, per_life = scaled(5, 52), 2000
    path = tmp_path / "outbox.db"
    accepted: list[str] = []
    broken = [Session(take=0), Session(hello=True, ack=True, take=2, code=None), Session(status=503)]
    good = Session(hello=True, ack=True)
    with Ledger(seed=7) as http, FaultyWebSocketServer(then=good) as live:
        for life in range(kills):
            live._script.extend(chance.choices([*broken, good], k=4))
            arguments = [str(path), http.url, live.url, f"k{life}", "1000000"]
            ids, killed_at = live_a_life(arguments, lines=chance.randrange(per_life // 2, per_life * 3 // 2))
            accepted += ids
            http.excuse(killed_at)
            live.drop()
            assert_consistent(path)
        http.calm = True
        live._script.clear()
        last = [sys.executable, str(CHILD), str(path), http.url, live.url, "last", "0"]
        done = subprocess.run(last, capture_output=True, text=True, timeout=600, check=False)
        assert done.returncode == 0, done.stdout + done.stderr[-2000:]
        over_ws = [event["event_id"] for batch in live.batches for event in batch]
    wanted = set(accepted)
    assert len(accepted) >= kills * per_life // 2
    assert len(wanted) == len(accepted)
    assert not wanted - set(http.ids), "lost on the way to the HTTP receiver"
    assert not wanted - set(over_ws), "lost on the way to the WebSocket receiver"
    assert {len(keys) for keys in http.keys.values()} == {1}, "a copy came under another key"
    assert {len(bodies) for bodies in http.bytes_of.values()} == {1}, "one key, two bodies"
    assert http.early == 0
    for name, times in http.streams.items():
        assert times == sorted(times), name
    copies = len(http.ids) - len(set(http.ids))
    assert OutboxReader(path).dead(10) == []
    lost = len(wanted - set(http.ids)) + len(wanted - set(over_ws))
    notebook.figure(
        f"events lost over {len(accepted):,} accepted, {kills} `kill -9`, {http.faults:,} failed HTTP answers,"
        f" {len(live.dialled):,} WebSocket connections",
        "0", str(lost),
    )  # fmt: skip
    notebook.figure(
        "duplicates after removing equal ids (copies under the same key, as promised)", "0", f"0 ({copies:,})"
    )
    notebook.figure("requests before their `Retry-After`, across the lives of the program", "0", str(http.early))


@pytest.mark.ffmpeg
@pytest.mark.timeout(900)
def test_the_program_survives_kills_at_random_points(tmp_path: Path, clips: Clips, notebook: Notebook) -> None:
    """Cameras, analysis, publishing and delivery at work; killed anywhere, also in its start; the next run goes on."""
    chance = random.Random(11)
    kills = scaled(3, 50)
    stored: set[str] = set()
    with (
        RtspRelay(allow_takeover=True) as relay,
        publishing(relay.url("a"), clip=clips.blink),
        FaultyHttpServer() as vms,
    ):
        relay.wait_for_publisher("a", 10)
        sinks = {"vms": {"type": "http", "url": vms.url, "timeout": "1s", "batch": {"max_wait": "50ms"}}}
        settings = configuration(tmp_path, {"a": stream(relay.url("a"), relay.url("a-out"))}, sinks)
        outbox = tmp_path / "outbox.db"
        for life in range(kills):
            vms.say(*chance.choices([Reply(503), Reply(silent=True, stored=True), Reply(cut=2), Reply()], k=2))
            with running(settings, tmp_path / f"run{life}") as program:
                threading.Event().wait(chance.uniform(0.2, 4.0))  # a random point, anywhere in its life
                kill(program)
                assert "Traceback" not in program.stderr
            if outbox.exists():
                assert_consistent(outbox)
                stored |= {json.loads(each.body)["event_id"] for each in OutboxReader(outbox).list(100_000)}
        with running(settings, tmp_path / "last") as program:
            program.until(lambda s: s["streams"], 20, "it is up")
            program.until_running("a")
            program.until(lambda s: s["sinks"]["vms"]["delivered"] > 3, 20, "delivered")
            wait_until(lambda: stored <= {event["event_id"] for event in vms.stored}, 20, "all that was stored")
            took = end_well(program, outbox)
    assert stored
    notebook.fault(
        "disk", f"the program is killed (-9) {kills} times at random points, the VMS failing", ended_s=took,
        seen=f"delivery resumes at each start: {len(stored)} events stored, 0 lost",
    )  # fmt: skip
