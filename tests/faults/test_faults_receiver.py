"""A VMS over HTTP that is down, slow, rude or wrong, beside one that works; the program as a process."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from email.utils import formatdate
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from faults.clips import Clips
from faults.notebook import Notebook
from faults.site import Site, assert_in_order, assert_nothing_lost, end_well, kill, site
from sentinel_pipeline.infrastructure.storage.outbox_reader import OutboxReader
from sentinel_pipeline.lab.receivers import HttpReceiver
from support.peers import free_port
from support.program import running, wait_until
from support.receivers import Arrival, FaultyHttpServer, Reply, self_signed

pytestmark = [pytest.mark.ffmpeg]

TIMEOUT = 1.0  # seconds that the program waits for an answer
RETRY_AFTER = 3


def _soon() -> str:
    """Return the HTTP date in ``RETRY_AFTER`` whole seconds at least."""
    return formatdate(int(time.time()) + RETRY_AFTER + 1, usegmt=True)


FAULTS: dict[str, tuple[Callable[[], Reply], str, str]] = {
    "answers 500": (lambda: Reply(500), "retrying", "500"),
    "answers 503 with Retry-After: 3": (lambda: Reply(503, {"Retry-After": "3"}), "retrying", "503"),
    "answers 429 with Retry-After: 3": (lambda: Reply(429, {"Retry-After": "3"}), "retrying", "429"),
    "answers 429 with Retry-After: a date": (lambda: Reply(429, {"Retry-After": _soon()}), "retrying", "429"),
    "answers garbage": (lambda: Reply(raw=b"\x00\xff garbage \r\n\r\n" * 20), "retrying", ""),
    "closes without an answer, the batch stored": (lambda: Reply(silent=True, stored=True), "retrying", ""),
    "closes in mid-body": (lambda: Reply(cut=3), "retrying", ""),
    "answers after our time-out, the batch stored": (lambda: Reply(delay=TIMEOUT * 1.5), "retrying", "in time"),
    "drips its answer": (lambda: Reply(raw=b"HTTP/1.1 200 OK\r\nX-Slow: " + b"x" * 500, drip=0.2), "retrying", ""),
    "redirects to itself for ever": (lambda: Reply(302, {"Location": "/events"}), "retrying", "redirects"),
    "refuses our credentials (401)": (lambda: Reply(401), "paused", "401"),
}


LONG = {  # the same classes of answer are met by quicker tests elsewhere
    "answers 500", "answers 503 with Retry-After: 3", "answers garbage", "closes in mid-body", "drips its answer",
}  # fmt: skip
CHOSEN = [pytest.param(what, marks=[pytest.mark.laboratory] if what in LONG else []) for what in FAULTS]


class Moody(FaultyHttpServer):
    """A receiver whose bad answers are made anew for each request: a date in them lies in the future each time."""

    mood: Callable[[], Reply] | None = None

    def arrived(self, request: Arrival) -> Reply:
        self.then = self.mood() if self.mood else Reply()
        return super().arrived(request)


@contextmanager
def vms_site(folder: Path, clips: Clips, url: str, other: FaultyHttpServer, **sink: Any) -> Iterator[Site]:
    """Run a site with the sink ``vms`` at ``url`` and the sink ``other`` that works; nothing is published."""
    batch = {"max_wait": "50ms", "max_events": 5}
    sinks = {
        "vms": {"type": "http", "url": url, "timeout": f"{TIMEOUT}s", "batch": batch, **sink},
        "other": {"type": "http", "url": other.url, "batch": batch},
    }
    with site(folder, clips, sinks=sinks, vms=other, publish=False) as it:
        yield it


def sink_state(it: Site, state: str, words: str, timeout: float = 15.0) -> dict[str, Any]:
    """Wait until the sink ``vms`` says so."""
    status = it.program.until(
        lambda s: s["sinks"]["vms"]["state"] == state and words in s["sinks"]["vms"]["reason"],
        timeout,
        f"vms is {state}: {words}",
    )
    return dict(status["sinks"]["vms"])


def drained(it: Site, timeout: float = 30.0) -> float:
    """Wait until the sink ``vms`` is up with nothing old pending; return the seconds."""
    started = time.monotonic()
    it.program.until(
        lambda s: s["sinks"]["vms"]["state"] == "up" and s["sinks"]["vms"]["oldest_pending_s"] < 1.0, timeout, "drained"
    )
    return time.monotonic() - started


def assert_keys(requests: list[Arrival]) -> None:
    """Assert that a key always carries the same bytes, and an event never comes under two keys."""
    bodies: dict[str, set[bytes]] = {}
    keys: dict[str, set[str]] = {}
    for request in requests:
        bodies.setdefault(request.key, set()).add(request.body)
        for event in request.json:
            keys.setdefault(event["event_id"], set()).add(request.key)
    assert {len(each) for each in bodies.values()} <= {1}
    assert {len(each) for each in keys.values()} <= {1}


def assert_patience(requests: list[Arrival], since: int, seconds: float) -> None:
    """Assert that no request came sooner than ``seconds`` after each of those from number ``since`` on."""
    for asked, came in pairwise(requests[since:]):
        assert came.at - asked.at >= seconds - 0.05, "a request before its Retry-After"


@pytest.mark.parametrize("what", CHOSEN)
def test_a_receiver_that_misbehaves(what: str, tmp_path: Path, clips: Clips, notebook: Notebook) -> None:
    """The state says why; nothing is lost; order per stream; copies only under one key; the other sink never waits.

    pain 43: "server disconnected" is not retried; pain 44, 45: a queue that loses events when the target is down;
    pain 46: the wrong class of error drops data; pain 47, 48: a poison batch; pain 49: one sink slows the other.
    """
    make, state, words = FAULTS[what]
    with Moody() as vms, FaultyHttpServer() as other, vms_site(tmp_path, clips, vms.url, other) as it:
        vms.wait_for(lambda server: len(server.stored) > 3, 10)
        vms.mood = make
        since = len(vms.requests)
        started = time.monotonic()
        said = sink_state(it, state, words)
        noticed = time.monotonic() - started
        assert noticed < 3 * TIMEOUT + 1.0, "the first failed try is told, not the third"
        for _ in range(3):
            it.more_events("good", 3)  # at the sink `other`, meanwhile
        recovered = None
        if state != "paused":  # refused credentials are tried again after half a minute at the earliest
            wait_until(lambda: len(vms.requests) >= since + 2, 15, "a second try")
            patience = RETRY_AFTER if "Retry-After" in make().headers else 0.0
            asked = len(vms.requests)
            vms.mood = None
            recovered = drained(it)
            assert_patience(vms.requests[: asked + 1], since, patience)
        vms.mood = make
        it.more_events("good", 3)
        ended = end_well(it.program, it.outbox)
        received, requests = list(vms.stored), list(vms.requests)
        assert_nothing_lost(it.outbox, received, "vms")
        assert_nothing_lost(it.outbox, list(other.stored), "other")
        assert_in_order(received)
        assert_keys(requests)
        assert OutboxReader(it.outbox).dead(10) == []
    notebook.fault(
        "receiver", f"HTTP: {what}", seen=f"sink {said['state']}: {said['reason']}", noticed_s=noticed,
        recovered_s=recovered, ended_s=ended,
    )  # fmt: skip


def test_a_retry_after_that_outlives_the_program(tmp_path: Path, clips: Clips, notebook: Notebook) -> None:
    """Killed and started again while a receiver wants to be left alone: no request before its time, and nothing lost.

    pain 46: the receiver's wish is lost with the process.
    """
    patience = 6.0
    with Moody() as vms, FaultyHttpServer() as other, vms_site(tmp_path, clips, vms.url, other) as it:
        vms.wait_for(lambda server: len(server.stored) > 1, 10)
        vms.mood = lambda: Reply(503, {"Retry-After": str(int(patience))})
        said = sink_state(it, "retrying", "503")
        asked = vms.requests[-1].at
        since = len(vms.requests)
        kill(it.program)
        vms.mood = None
        with running(it.settings, tmp_path / "again") as again:
            again.until(lambda s: "left alone" in s["sinks"]["vms"]["reason"], 5, "the sink says what it waits for")
            again.until(lambda s: s["sinks"]["vms"]["state"] == "up", 15, "the sink is up")
            ended = end_well(again, it.outbox)
        assert vms.requests[since].at - asked >= patience - 0.05
        assert_nothing_lost(it.outbox, list(vms.stored), "vms")
        assert_keys(vms.requests)
    notebook.fault(
        "receiver", "HTTP: the program is killed (-9) while it keeps a Retry-After", ended_s=ended,
        seen=f"sink {said['state']}: {said['reason']}; the next life waits for the rest",
    )  # fmt: skip


def test_a_receiver_that_is_down_for_a_while(tmp_path: Path, clips: Clips, notebook: Notebook) -> None:
    """Nobody listens at the VMS's port; everything is there when it comes, in order, once.

    pain 40: will not start without a receiver; pain 41: a reconnect replays what was there already; pain 45.
    """
    port = free_port()
    with FaultyHttpServer() as other:
        with vms_site(tmp_path, clips, f"http://127.0.0.1:{port}/events", other) as it:
            said = sink_state(it, "retrying", "")
            it.more_events("good", 20, timeout=20)
            with HttpReceiver(port) as vms:
                recovered = drained(it)
                it.more_events("good", 3)
                drained(it)
                ended = end_well(it.program, it.outbox)
                received = list(vms.events)
        assert_nothing_lost(it.outbox, received, "vms")
        assert len(received) == len({event["event_id"] for event in received})
    notebook.fault(
        "receiver", "HTTP: nobody listens, then somebody does", seen=f"sink {said['state']}: {said['reason']}",
        recovered_s=recovered, ended_s=ended,
    )  # fmt: skip


@pytest.mark.parametrize("what", ["413 for more than two events", "422 for one event of a batch"])
def test_a_receiver_that_refuses_some(what: str, tmp_path: Path, clips: Clips, notebook: Notebook) -> None:
    """Too large is halved until it fits; the one event that is refused for good is parked and named, no other.

    pain 47: a poison batch is retried for ever or dropped; pain 46: permanent and retryable mixed up.
    """
    poison: list[str] = []

    class Picky(FaultyHttpServer):
        def arrived(self, request: Arrival) -> Reply:
            events = request.json
            if what.startswith("413"):
                reply = Reply(413) if len(events) > 2 else Reply()
            else:
                if not poison:
                    poison.append(events[0]["event_id"])
                reply = Reply(422) if any(event["event_id"] in poison for event in events) else Reply()
            self.say(reply)
            return super().arrived(request)

    with Picky() as vms, FaultyHttpServer() as other, vms_site(tmp_path, clips, vms.url, other) as it:
        vms.wait_for(lambda server: len(server.stored) > 15, 20)
        it.more_events("good", 3)
        status = it.program.status()
        ended = end_well(it.program, it.outbox)
        dead = [json.loads(letter.body)["event_id"] for letter in OutboxReader(it.outbox).dead(10)]
        assert dead == poison
        received = list(vms.stored)
        assert_in_order(received)
        arrived = {event["event_id"] for event in received}
        for stored in OutboxReader(it.outbox).list(10_000):
            body = json.loads(stored.body)
            assert body["event_id"] in arrived or "vms" in stored.pending_for or body["event_id"] in poison
    assert status is not None
    notebook.fault(
        "receiver", f"HTTP: {what}", seen=f"sink {status['sinks']['vms']['state']}, {len(dead)} dead letters",
        ended_s=ended,
    )  # fmt: skip


def test_a_receiver_whose_certificate_nobody_trusts(tmp_path: Path, clips: Clips, notebook: Notebook) -> None:
    """TLS that does not verify is named, nothing is sent to it, and the events wait."""
    tls = self_signed(tmp_path)
    with FaultyHttpServer(tls=tls) as vms, FaultyHttpServer() as other, vms_site(tmp_path, clips, vms.url, other) as it:
        said = sink_state(it, "retrying", "ertificate")
        it.more_events("good", 3)
        ended = end_well(it.program, it.outbox)
        assert vms.requests == []
        assert_nothing_lost(it.outbox, [], "vms")
    notebook.fault(
        "receiver", "HTTPS: a certificate that nobody trusts", seen=f"sink {said['state']}: {said['reason']}",
        ended_s=ended,
    )  # fmt: skip


def test_a_receiver_that_says_gone(tmp_path: Path, clips: Clips, notebook: Notebook) -> None:
    """410 stops this sink and no other; its events are kept for the day when the address is repaired."""
    with FaultyHttpServer() as vms, FaultyHttpServer() as other, vms_site(tmp_path, clips, vms.url, other) as it:
        vms.then = Reply(410)
        said = sink_state(it, "stopped", "410")
        requests = len(vms.requests)
        it.more_events("good", 6)
        assert len(vms.requests) == requests
        ended = end_well(it.program, it.outbox)
        assert_nothing_lost(it.outbox, list(vms.stored), "vms")
    notebook.fault("receiver", "HTTP: answers 410 Gone", seen=f"sink {said['state']}: {said['reason']}", ended_s=ended)
