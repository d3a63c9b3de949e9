"""A VMS over WebSocket that closes, drops, floods, never reads or talks nonsense; the program as a process."""

from __future__ import annotations

import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from faults.clips import Clips
from faults.notebook import Notebook
from faults.site import Site, assert_nothing_lost, end_well, site
from support.program import wait_until
from support.receivers import FaultyHttpServer, FaultyWebSocketServer, Session

pytestmark = [pytest.mark.ffmpeg]

GOOD = Session(hello=True, ack=True)
FAULTS: dict[str, tuple[Session, bool]] = {
    "accepts and closes": (Session(take=0), True),
    "accepts and drops the line": (Session(take=0, code=None), True),
    "drops the line instead of taking a batch": (Session(hello=True, ack=True, take=1, code=None), True),
    "takes batches and never acknowledges what it promised to": (Session(hello=True, ack=False), True),
    "never reads": (Session(hello=True, reads=False), True),
    "sends a frame of 4 MB": (Session(hello=True, ack=True, first=("x" * 4_000_000,)), True),
    "sends garbage": (Session(hello=True, ack=True, first=(b"\x00\xff" * 50, "{", "[]", "null", '{"type": 7}')), False),
    "talks without end": (Session(hello=True, ack=True, first=('{"type": "chatter"}',) * 30_000), False),
    "refuses the handshake (503)": (Session(status=503), True),
    "refuses the handshake (429, Retry-After: 2)": (Session(status=429, headers={"Retry-After": "2"}), True),
    "refuses our credentials (401)": (Session(status=401), True),
}

LONG = {  # the same classes of trouble are met by quicker tests elsewhere
    "accepts and drops the line", "takes batches and never acknowledges what it promised to", "sends a frame of 4 MB",
    "talks without end", "refuses the handshake (503)", "refuses our credentials (401)",
}  # fmt: skip
CHOSEN = [pytest.param(what, marks=[pytest.mark.laboratory] if what in LONG else []) for what in FAULTS]


def delivered(server: FaultyWebSocketServer) -> list[dict[str, Any]]:
    return [event for batch in server.batches for event in batch]


def settled(it: Site, timeout: float = 40.0) -> float:
    """Wait until the sink ``live`` is up with nothing old pending; return the seconds."""
    started = time.monotonic()
    it.program.until(
        lambda s: s["sinks"]["live"]["state"] == "up" and s["sinks"]["live"]["oldest_pending_s"] < 1.0, timeout, "up"
    )
    return time.monotonic() - started


@pytest.mark.parametrize("what", CHOSEN)
def test_a_websocket_that_misbehaves(what: str, tmp_path: Path, clips: Clips, notebook: Notebook) -> None:
    """Nothing is lost, order holds, it is not dialled in a hurry, the HTTP sink never waits, and the end is in time.

    pain 42: reconnecting is weak and events meanwhile are lost; pain 49: one sink slows the other; anchor finding 7:
    thousands of reconnects per second to a server that accepts and closes.
    """
    fault, fails = FAULTS[what]
    with FaultyHttpServer() as http, FaultyWebSocketServer(then=fault) as live:
        sinks = {
            "live": {"type": "websocket", "url": live.url, "timeout": "1s", "batch": {"max_wait": "50ms"}},
            "vms": {"type": "http", "url": http.url, "batch": {"max_wait": "50ms"}},
        }
        with site(tmp_path, clips, sinks=sinks, vms=http, publish=False) as it:
            reason = ""
            if fails:
                status = it.program.until(
                    lambda s: s["sinks"]["live"]["state"] in {"retrying", "paused"}, 15, "the fault is said"
                )
                reason = f"{status['sinks']['live']['state']}: {status['sinks']['live']['reason']}"
                assert status["sinks"]["live"]["reason"]
            started = time.monotonic()
            while time.monotonic() - started < 4:
                it.more_events("good", 2)
            quick = [later - earlier for earlier, later in pairwise(live.dialled[3:])]
            assert all(wait > 0.4 for wait in quick), f"dialled in a hurry: {quick}"
            recovered = None
            live.then = GOOD
            if "401" not in what:
                live.drop()
                recovered = settled(it)
                it.more_events("good", 3)
                wait_until(lambda: len(delivered(live)) > 3, 10, "events over WebSocket")
            live.then = fault
            live.drop()
            it.more_events("good", 2)
            ended = end_well(it.program, it.outbox)
        assert_nothing_lost(it.outbox, delivered(live), "live")
        assert_nothing_lost(it.outbox, list(http.stored), "vms")
    notebook.fault(
        "receiver", f"WebSocket: {what}", seen=f"sink {reason or 'up'}", recovered_s=recovered, ended_s=ended
    )
