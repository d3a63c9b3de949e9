"""What a person sees on a terminal."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import subprocess
import time
from contextlib import suppress
from pathlib import Path

import pytest
import yaml

from sentinel_pipeline.lab.rtsp_relay import RtspRelay
from support.peers import free_port
from support.program import COMMAND, sentinel
from support.program import running as running_program
from support.streams import publishing

pytestmark = pytest.mark.ffmpeg


def on_a_terminal(*arguments: str | Path, timeout: float = 60) -> tuple[int, str]:
    """Run a command with a pseudo-terminal of 160 columns; return its exit code and what was shown, without colours."""
    ours, theirs = pty.openpty()
    environment = {**os.environ, "COLUMNS": "160", "LINES": "40", "TERM": "xterm-256color"}
    command = [*COMMAND, *map(str, arguments)]
    shown = b""
    with subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment) as process:
        os.close(theirs)
        deadline = time.monotonic() + timeout
        with suppress(OSError):  # EIO: the other side has closed its end
            while select.select([ours], [], [], max(0.0, deadline - time.monotonic()))[0]:
                shown += os.read(ours, 65536)
        os.close(ours)
        if process.poll() is None and time.monotonic() >= deadline:
            process.kill()
        code = process.wait(10)
    return code, re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown.decode(errors="replace"))


def configuration(folder: Path, source: str) -> Path:
    path = folder / "sentinel.yaml"
    rule = {"name": "anybody", "when": "zone", "polygon": [[0, 0], [1, 0], [1, 1], [0, 1]], "event": "INTRUSION"}
    stream = {"source": source, "analyse": {"detect": {"model": "nanodet-g-416"}, "rules": [rule]}}
    sinks = {"vms": {"type": "http", "url": f"http://127.0.0.1:{free_port()}/events"}}
    outbox, api = {"path": str(folder / "outbox.db")}, {"listen": f"127.0.0.1:{free_port()}"}
    path.write_text(
        yaml.safe_dump({"version": 1, "streams": {"gate": stream}, "sinks": sinks, "outbox": outbox, "api": api})
    )
    return path


def test_terminal_shows_a_live_table_and_status(tmp_path: Path) -> None:
    """``run`` shows streams and sinks in a table with their reasons; ``status`` shows the same of a running program."""
    with RtspRelay() as relay, publishing(relay.url("gate")):
        relay.wait_for_publisher("gate", 10)
        config = configuration(tmp_path, relay.url("gate"))
        code, shown = on_a_terminal("run", config, "--duration", "8s")
        assert code == 0
        assert re.search(r"gate\s+RUNNING\s+10\.\d", shown)
        assert re.search(r"vms\s+retrying\s+.*refused", shown)
        assert "CPUExecutionProvider" in shown
        with running_program(config.read_text(), tmp_path / "again") as program:
            program.until_running("gate")
            code, shown = on_a_terminal("status", "--config", tmp_path / "again" / "sentinel.yaml")
            assert code == 0
            assert re.search(r"gate\s+RUNNING", shown)


def test_terminal_gets_text_and_pipes_get_json(tmp_path: Path) -> None:
    """Short commands print text for a person, and JSON lines into a pipe."""
    code, shown = on_a_terminal("version")
    assert (code, shown.startswith("sentinel ")) == (0, True)
    config = configuration(tmp_path, "rtsp://127.0.0.1:1/nobody")
    code, shown = on_a_terminal("check", config)
    assert (code, "is fine: 1 streams" in shown) == (0, True)
    code, shown = on_a_terminal("run", config, "--duration", "3s")
    assert code == 0
    assert re.search(r"gate\s+RECONNECTING", shown)
    assert "refused" in shown


def test_terminal_bench_measures_small_cameras(tmp_path: Path) -> None:
    """``bench`` gives the floors, the cost of a camera and an answer for small cameras."""
    report = tmp_path / "bench.json"
    work = ["--size", "160x120", "--fps", "5", "--analyse-fps", "1", "--duration", "2s", "--no-verify"]
    done = sentinel("bench", *work, "--report", report, timeout=100)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result == json.loads(report.read_text())
    assert set(result["floors"]) == {"decode_ms", "transcode_ms", "infer_ms", "cores_per_stream"}
    assert [trial["shortfall"] for trial in result["trials"]] == ["", ""]
    assert result["estimate"]["streams"] > 1
