"""A whole installation in a test: cameras on a relay, the program as a process, a receiver, and how it must end."""

from __future__ import annotations

import json
import signal
import sqlite3
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from faults.clips import Clips
from faults.models import Trouble, make_onnx
from sentinel_pipeline.domain.events import Event
from sentinel_pipeline.infrastructure.storage.outbox_reader import OutboxReader
from sentinel_pipeline.lab.rtsp_relay import RtspRelay
from support.peers import free_port
from support.program import SentinelProcess, running, wait_until
from support.receivers import FaultyHttpServer
from support.streams import publishing

READ_TIMEOUT = 1.0
NOTICED = READ_TIMEOUT + 0.5  # seconds: the promise
# A decoder shows a picture when the next one begins; garbage that looks like one lets the last good picture out late,
# and the read time-out counts from there.
LATE_PICTURE = 0.5
POLL = 0.12  # seconds that one look at the program's status may add to what is measured here
END = 5.0  # seconds from SIGTERM to the exit: the promise

ZONE = {
    "name": "anybody", "when": "zone", "polygon": [[0, 0], [1, 0], [1, 1], [0, 1]], "event": "PERSON",
    "confirm_after": "0s", "clear_after": "100ms",
}  # fmt: skip
ANALYSE = {"fps": 10, "detect": {"model": "lab"}, "track": {"lost_after": "100ms"}, "rules": [ZONE]}


def lab_model(folder: Path, trouble: Trouble = "none", **settings: Any) -> dict[str, Any]:
    """Return the ``models`` section with the laboratory's model."""
    path = make_onnx(folder / f"{trouble}.onnx", trouble)
    return {"lab": {"path": str(path), "family": "yolov8", "labels": ["person"], "resize": "stretch", **settings}}


def stream(source: str, publish: str | None = None, *, analyse: bool = True, **more: Any) -> dict[str, Any]:
    """Return a stream that notices a loss within a second and tries again every half."""
    made: dict[str, Any] = {
        "source": source,
        "decode": {"open_timeout": "1s", "read_timeout": f"{READ_TIMEOUT}s"},
        "reconnect": {"base_delay": "300ms", "max_delay": "600ms"},
        **more,
    }
    if analyse:
        made["analyse"] = ANALYSE
    if publish:
        made["publish"] = {"url": publish, "fps": 10, "bitrate": "300k"}
    return made


def configuration(folder: Path, streams: Mapping[str, Any], sinks: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    """Return a configuration with the laboratory's model, an outbox in ``folder`` and an API on a free port."""
    settings: dict[str, Any] = {
        "version": 1,
        "streams": dict(streams),
        "sinks": dict(sinks),
        "outbox": {"path": str(folder / "outbox.db")},
        "api": {"listen": f"127.0.0.1:{free_port()}"},
        **more,
    }
    if any("analyse" in each for each in streams.values()) and "models" not in settings:
        settings["models"] = lab_model(folder)
    return settings


@dataclass
class Site:
    """Two cameras, ``good`` and ``bad``; both are analysed and published, and their events go to ``vms``."""

    relay: RtspRelay
    vms: FaultyHttpServer
    folder: Path
    settings: dict[str, Any]
    program: SentinelProcess
    cameras: dict[str, Any] = field(default_factory=dict)

    @property
    def outbox(self) -> Path:
        return Path(self.settings["outbox"]["path"])

    def stream(self, name: str) -> dict[str, Any]:
        """Return what the program says of a stream now."""
        status = wait_until(self.program.status, 5, "an answer of the API")
        return dict(status["streams"][name])

    def events(self, name: str) -> int:
        """Return how many events of a stream the receiver has."""
        return sum(event["stream_id"] == name for event in list(self.vms.stored))

    def more_events(self, name: str = "good", count: int = 3, timeout: float = 10.0) -> None:
        """Wait until the receiver has ``count`` further events of a stream: analysis and delivery go on."""
        before = self.events(name)
        wait_until(lambda: self.events(name) >= before + count, timeout, f"{count} more events of {name}")

    def told(self, kind: str, timeout: float) -> list[dict[str, Any]]:
        """Wait until the receiver has events of a type, and return them."""
        return list(
            wait_until(lambda: [event for event in list(self.vms.stored) if event["type"] == kind], timeout, kind)
        )

    def left(self, name: str, timeout: float = 10.0) -> tuple[dict[str, Any], float]:
        """Wait until a stream is RUNNING no more; return what it says, and how long that took."""
        started = time.monotonic()
        status = self.program.until(lambda s: s["streams"][name]["state"] != "RUNNING", timeout, f"{name} is lost")
        return dict(status["streams"][name]), time.monotonic() - started

    def back(self, name: str, timeout: float = 10.0) -> float:
        """Wait until a stream is RUNNING; return how long that took."""
        started = time.monotonic()
        self.program.until(lambda s: s["streams"][name]["state"] == "RUNNING", timeout, f"{name} is back")
        return time.monotonic() - started

    def unharmed(self, name: str = "good") -> None:
        """Assert that a stream has its frame rate, has never been away, and gets its events through."""
        self.more_events(name)
        now = self.stream(name)
        assert now["state"] == "RUNNING"
        assert now["reconnects"] == 0
        assert now["fps"] > 22, now

    def end(self) -> float:
        """Send SIGTERM and assert a good end: in time, code 0, no orphan, the outbox whole and nothing lost."""
        took = end_well(self.program, self.outbox)
        assert_nothing_lost(self.outbox, self.vms.stored)
        return took


def end_well(program: SentinelProcess, outbox: Path) -> float:
    """Send SIGTERM; assert exit within 5 s, code 0, no orphan, no traceback, a whole outbox. Return the seconds."""
    code, took = program.end(timeout=15)
    assert code == 0, program.stderr[-3000:]
    assert took < END, f"{took:.2f} s\n{program.stderr[-3000:]}"
    assert "Traceback" not in program.stderr, program.stderr
    assert_consistent(outbox)
    return took


def assert_consistent(outbox: Path) -> None:
    """Assert that SQLite finds nothing wrong with the file and that the operator's reader can read it."""
    with closing(sqlite3.connect(outbox)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    OutboxReader(outbox).list(10)


def assert_nothing_lost(outbox: Path, received: list[dict[str, Any]], sink: str = "vms") -> None:
    """Assert that every event in the outbox is received or still pending, and that what came is in order per stream."""
    arrived = {event["event_id"] for event in received}
    for stored in OutboxReader(outbox).list(100_000):
        body = json.loads(stored.body)
        assert body["event_id"] in arrived or sink in stored.pending_for, f"lost: {body}"
    assert_in_order(received)


def assert_in_order(received: list[dict[str, Any]]) -> None:
    """Assert that each event's first arrival comes in the order of its stream."""
    first: dict[str, Event] = {}
    for wire in received:
        event = Event.from_wire(wire)
        first.setdefault(event.event_id, event)
    for name in {event.stream_id for event in first.values()}:
        times = [event.ts for event in first.values() if event.stream_id == name]
        assert times == sorted(times), name


def kill(program: SentinelProcess) -> None:
    """``kill -9`` it, and reap the FFmpeg children that see the end of their input."""
    children = psutil.Process(program.process.pid).children(recursive=True)
    program.process.send_signal(signal.SIGKILL)
    program.process.wait(5)
    _, alive = psutil.wait_procs(children, timeout=5)
    assert not alive, f"orphans after kill -9: {alive}"


@contextmanager
def site(
    folder: Path,
    clips: Clips,
    *,
    bad: Mapping[str, Any] | None = None,
    overlay: bool = True,
    publish: bool = True,
    ready: bool = True,
    env: Mapping[str, str] | None = None,
    vms: FaultyHttpServer | None = None,
    **more: Any,
) -> Iterator[Site]:
    """Run an installation.

    bad: settings of the bad camera's stream. overlay: whether its output has one. publish: whether there are outputs.
    ready: wait until both cameras work and events arrive. more: sections of the configuration.
    """
    with ExitStack() as stack:
        folder.mkdir(parents=True, exist_ok=True)
        relay = stack.enter_context(RtspRelay(allow_takeover=True))
        vms = stack.enter_context(FaultyHttpServer()) if vms is None else vms
        cameras = {name: stack.enter_context(publishing(relay.url(name), clip=clips.blink)) for name in ("good", "bad")}
        for name in cameras:
            relay.wait_for_publisher(name, 10)
        streams = {name: stream(relay.url(name), relay.url(f"{name}-out")) for name in cameras}
        streams["bad"]["publish"]["overlay"] = overlay
        if not publish:
            streams = {name: {k: v for k, v in each.items() if k != "publish"} for name, each in streams.items()}
        streams["bad"] |= bad or {}
        sinks = more.pop("sinks", {"vms": {"type": "http", "url": vms.url, "batch": {"max_wait": "50ms"}}})
        settings = configuration(folder, streams, sinks, **more)
        program = stack.enter_context(running(settings, folder / "run", env=env))
        made = Site(relay, vms, folder, settings, program, cameras)
        program.until(lambda s: s["streams"], 20, "the API knows its streams")
        if ready:
            for name in cameras:
                key = "frames_published" if publish else "frames_analysed"
                program.until(lambda s, name=name, key=key: s["streams"][name][key] > 5, 20, f"{name}'s {key}")
            made.more_events("good", 1)
        yield made
