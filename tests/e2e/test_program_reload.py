"""SIGHUP: the program reads its configuration again and changes what has changed, while everything else goes on."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from sentinel_pipeline.infrastructure.storage.outbox_reader import OutboxReader
from sentinel_pipeline.lab.receivers import HttpReceiver
from sentinel_pipeline.lab.rtsp_relay import RtspRelay
from support.incidents import open_incidents
from support.peers import free_port
from support.program import COMMAND, SentinelProcess, running, wait_until
from support.streams import publishing

pytestmark = [pytest.mark.ffmpeg]


def config(folder: Path, **streams: str) -> dict[str, Any]:
    return {
        "version": 1,
        "streams": {name: {"source": url, "reconnect": {"base_delay": "300ms"}} for name, url in streams.items()},
        "outbox": {"path": str(folder / "outbox.db")},
        "api": {"listen": f"127.0.0.1:{free_port()}"},
    }


def reload(program: SentinelProcess, path: Path, text: str, says: str) -> None:
    """Write the configuration anew, send SIGHUP and wait for the word in the log."""
    before = program.stderr.count(says)
    path.write_text(text)
    program.process.send_signal(signal.SIGHUP)
    wait_until(lambda: program.stderr.count(says) > before, 10, says)


def test_program_reloads_its_streams(tmp_path: Path) -> None:
    """Streams come, change and go, the same one is not touched; a faulty file and other sections change nothing.

    A camera that is down when it is taken out is told to be no longer configured.
    """
    with HttpReceiver() as vms, RtspRelay() as relay, publishing(relay.url("a")), publishing(relay.url("b")):
        for name in "ab":
            relay.wait_for_publisher(name, 10)
        settings = {**config(tmp_path, a=relay.url("a")), "sinks": {"vms": {"type": "http", "url": vms.url}}}
        path = tmp_path / "run" / "sentinel.yaml"
        with running(settings, tmp_path / "run") as program:
            since = program.until_running("a")["streams"]["a"]["since"]
            two = {**settings, "streams": config(tmp_path, a=relay.url("a"), b=relay.url("b"))["streams"]}
            reload(program, path, yaml.safe_dump(two), "streams are applied")
            program.until_running("b")

            reload(program, path, "streams: {a: {sauce: x}}", "nothing is changed")
            assert "sauce" in program.stderr
            assert set((program.status() or {})["streams"]) == {"a", "b"}

            needy = {
                **two,
                "streams": {**two["streams"], "c": {**two["streams"]["a"], "publish": {"url": relay.url("o")}}},
            }
            reload(program, path, yaml.safe_dump(needy), "not loaded: nothing is changed")
            assert set((program.status() or {})["streams"]) == {"a", "b"}

            two["runtime"] = {"log": {"level": "debug"}}
            two["streams"]["b"]["source"] = relay.url("gone")
            reload(program, path, yaml.safe_dump(two), "need a restart")
            program.until(lambda s: s["streams"]["b"]["state"] == "FAILED", 10, "b is another camera now")

            del two["streams"]["b"]
            reload(program, path, yaml.safe_dump(two), "streams are applied")
            status = program.until(lambda s: set(s["streams"]) == {"a"}, 10, "b is gone")
            assert (status["streams"]["a"]["since"], status["streams"]["a"]["reconnects"]) == (since, 0)
            wait_until(lambda: len(vms.events) == 2, 10, "told")
            assert [(e["type"], e["stream_id"]) for e in vms.events] == [
                ("SYSTEM_STREAM_DOWN", "b"),
                ("SYSTEM_STREAM_UP", "b"),
            ]
            assert vms.events[1]["details"]["reason"] == "no longer configured"
            assert program.end()[0] == 0
            assert "Traceback" not in program.stderr


def test_program_closes_the_incidents_of_a_stream_that_ends(tmp_path: Path) -> None:
    """A stream that is changed, and the program's own end, leave no incident open at the receiver."""
    rule = {"name": "anybody", "when": "zone", "polygon": [[0, 0], [1, 0], [1, 1], [0, 1]], "event": "INTRUSION"}
    analyse = {"fps": 5, "detect": {"model": "nanodet-g-416", "classes": ["person"]}, "rules": [rule]}
    with HttpReceiver() as vms, RtspRelay() as relay, publishing(relay.url("a")):
        relay.wait_for_publisher("a", 10)
        settings = {**config(tmp_path, a=relay.url("a")), "sinks": {"vms": {"type": "http", "url": vms.url}}}
        settings["streams"]["a"]["analyse"] = analyse
        path = tmp_path / "run" / "sentinel.yaml"
        with running(settings, tmp_path / "run") as program:
            wait_until(lambda: open_incidents(vms.events), 20, "somebody is inside")
            settings["streams"]["a"]["analyse"] = {**analyse, "fps": 4}
            reload(program, path, yaml.safe_dump(settings), "streams are applied")
            ended = [e["details"]["incident_id"] for e in wait_until(lambda: told_why(vms.events), 10, "closed")]
            wait_until(lambda: open_incidents(vms.events) - {*ended}, 20, "the same people, seen anew")
            assert open_incidents(vms.events).isdisjoint(ended)
            assert program.end()[0] == 0
        report = json.loads(program.report.read_text())
    stored = [json.loads(each.body) for each in reversed(OutboxReader(tmp_path / "outbox.db").list(10_000))]
    assert not open_incidents(stored)
    first_life = max(n for n, event in enumerate(stored, 1) if event["details"]["incident_id"] in ended)
    assert report["streams"]["a"]["events"] == len(stored) - first_life


def told_why(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The events that end an incident because its stream ends."""
    return [event for event in events if event["details"].get("reason") == "the stream has ended"]


def test_program_goes_on_when_its_terminal_is_closed(tmp_path: Path) -> None:
    """The terminal goes away under the live table, with the hang-up that comes with it: cameras and API go on."""
    settings = config(tmp_path, a="rtsp://127.0.0.1:1/a")
    path = tmp_path / "sentinel.yaml"
    path.write_text(yaml.safe_dump(settings))
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [*COMMAND, "run", str(path)], stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True
    )
    program = SentinelProcess(process, tmp_path, f"http://{settings['api']['listen']}", tmp_path / "none")
    try:
        os.close(theirs)
        wait_until(program.status, 20, "the API answers")
        os.close(ours)
        process.send_signal(signal.SIGHUP)
        before = program.status()
        assert before is not None
        wait_until(lambda: (program.status() or before)["time"] > before["time"], 5, "a later answer")
        later = before["process"]["uptime_s"] + 1.5
        wait_until(lambda: (program.status() or before)["process"]["uptime_s"] > later, 10, "it lives")
        assert program.end()[0] == 0
    finally:
        process.kill()
        process.wait(5)
