"""What befalls the process itself: closed pipes, a machine that sleeps, too few descriptors, signals at odd moments."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from faults.clips import Clips
from faults.notebook import Notebook
from faults.site import END, assert_consistent, configuration, end_well, site, stream
from sentinel_pipeline.lab.rtsp_relay import RtspRelay
from support.program import COMMAND, SentinelProcess, running, wait_until
from support.receivers import FaultyHttpServer
from support.streams import publishing

pytestmark = [pytest.mark.ffmpeg]


@contextmanager
def full_pipe() -> Iterator[tuple[int, int]]:
    """A pipe that takes not one byte more: reading end, writing end."""
    reader, writer = os.pipe()
    try:
        os.set_blocking(writer, False)
        with suppress(BlockingIOError):
            while True:
                os.write(writer, b"x" * 4096)
        os.set_blocking(writer, True)  # as a program finds it
        yield reader, writer
    finally:
        os.close(reader)
        os.close(writer)


@contextmanager
def piped(settings: dict[str, Any], folder: Path, *, gone: bool) -> Iterator[SentinelProcess]:
    """Run the program with its output in a pipe whose reader is gone, or reads nothing."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "sentinel.yaml"
    path.write_text(json.dumps(settings))
    for name in ("stdout", "stderr"):
        (folder / name).touch()
    with full_pipe() as (reader, writer):
        process = subprocess.Popen([*COMMAND, "run", str(path)], stdin=subprocess.DEVNULL, stdout=writer, stderr=writer)
        try:
            program = SentinelProcess(process, folder, f"http://{settings['api']['listen']}", folder / "report.json")
            program.until(lambda s: s["streams"], 20, "it is up")
            if gone:
                with open(os.devnull, "rb") as nothing:
                    os.dup2(nothing.fileno(), reader, inheritable=False)
            yield program
        finally:
            if process.poll() is None:
                process.kill()
            process.wait(5)


@pytest.mark.timeout(180)
@pytest.mark.parametrize("what", ["goes away", "stops reading"])
def test_a_log_collector_that_fails(what: str, tmp_path: Path, clips: Clips, notebook: Notebook) -> None:
    """Nobody takes what the program prints, or the pipe breaks: cameras and events go on, SIGTERM ends it with 0.

    pain 29: a full pipe bricks the stream.
    """
    with RtspRelay() as relay, publishing(relay.url("a"), clip=clips.blink), FaultyHttpServer() as vms:
        relay.wait_for_publisher("a", 10)
        sinks = {"vms": {"type": "http", "url": vms.url}}
        streams = {"a": stream(relay.url("a"), decode={"open_timeout": "1s", "read_timeout": "1s"})}
        settings = configuration(tmp_path, streams, sinks, runtime={"log": {"level": "debug"}})
        with piped(settings, tmp_path / "run", gone=what == "goes away") as program:
            program.until_running("a")
            for _ in range(3):
                before = len(vms.stored)
                relay.faults("a").close_readers()  # something to log
                wait_until(lambda before=before: len(vms.stored) > before + 6, 20, "events")
            threading.Event().wait(11.0)  # a report line comes every ten seconds
            before = len(vms.stored)
            wait_until(lambda: len(vms.stored) > before + 3, 10, "events after the next report line")
            code, took = program.end(timeout=15)
            assert (code, took < END) == (0, True)
            assert_consistent(tmp_path / "outbox.db")
    notebook.fault("process", f"the reader of its output {what}", seen="everything goes on", ended_s=took)


def test_a_machine_that_sleeps(tmp_path: Path, clips: Clips, notebook: Notebook) -> None:
    """The whole program is stopped for longer than every time-out and goes on: both cameras are back within seconds."""
    with site(tmp_path, clips) as it:
        process = psutil.Process(it.program.process.pid)
        everybody = [process, *process.children(recursive=True)]
        for each in everybody:
            each.suspend()
        threading.Event().wait(6.0)
        for each in everybody:
            each.resume()
        started = time.monotonic()
        for name in ("good", "bad"):
            it.more_events(name, timeout=15)
            assert it.back(name) < 5
        recovered = time.monotonic() - started
        wait_until(lambda: it.stream("good")["fps"] > 22, 10, "the full rate")
        wait_until(lambda: it.stream("good")["publish"]["state"] == "running", 15, "the output runs")
        ended = it.end()
    notebook.fault(
        "process", "the machine sleeps for 6 s (SIGSTOP)", seen="RUNNING again", recovered_s=recovered, ended_s=ended
    )


def test_too_few_descriptors(tmp_path: Path, clips: Clips, notebook: Notebook) -> None:
    """When the system gives no more descriptors, what works goes on, the rest says why, and recovers with the limit."""
    with site(tmp_path, clips) as it:
        pid = it.program.process.pid
        used = psutil.Process(pid).num_fds()
        soft, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (used - 5, hard))
        it.relay.faults("bad").close_readers()
        threading.Event().wait(3.0)  # tries that find no descriptor
        assert it.program.process.poll() is None
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (soft, hard))
        recovered = it.back("bad", 15)
        it.more_events("bad")
        it.more_events("good")
        ended = it.end()
    notebook.fault(
        "process", "no more file descriptors for 3 s", seen="what works goes on", recovered_s=recovered, ended_s=ended
    )


@pytest.mark.parametrize("delay", [0.0, 0.05, 0.3, 0.6, 0.9, 1.2])
def test_sigterm_while_it_starts(delay: float, tmp_path: Path) -> None:
    """SIGTERM at any moment of the start ends it in time, with code 0 or by the signal's default, and no traceback."""
    settings = configuration(tmp_path, {"off": stream("rtsp://127.0.0.1:1/x")}, {})
    with running(settings, tmp_path / "run") as program:
        threading.Event().wait(delay)
        started = time.monotonic()
        program.process.send_signal(signal.SIGTERM)
        code = program.process.wait(10)
        assert time.monotonic() - started < END
        assert code in {0, -signal.SIGTERM}
        assert "Traceback" not in program.stderr


def test_impatient_operators(tmp_path: Path, clips: Clips, notebook: Notebook) -> None:
    """SIGTERM ten times in a row ends it once, in order; a second Ctrl-C ends it at once."""
    with site(tmp_path / "term", clips) as it:
        for _ in range(9):
            it.program.process.send_signal(signal.SIGTERM)
        ended = it.end()
    with site(tmp_path / "int", clips) as it:
        it.program.process.send_signal(signal.SIGINT)
        it.program.process.send_signal(signal.SIGINT)
        assert it.program.process.wait(5) in {0, 130}
        assert_consistent(it.outbox)
    notebook.fault("process", "ten times SIGTERM; Ctrl-C twice", seen="one orderly end; an end at once", ended_s=ended)


def test_two_programs_on_one_outbox(tmp_path: Path, clips: Clips, notebook: Notebook) -> None:
    """The second one refuses to start, in one sentence, and the first one notices nothing."""
    with site(tmp_path, clips, publish=False) as it:
        other = dict(it.settings) | {"api": {"listen": "127.0.0.1:0"}}
        path = tmp_path / "second.yaml"
        path.write_text(json.dumps(other))
        done = subprocess.run(
            [sys.executable, "-m", "sentinel_pipeline", "run", str(path)],
            capture_output=True, text=True, timeout=30, check=False,
        )  # fmt: skip
        assert done.returncode == 1
        assert f"in use by process {it.program.process.pid}" in done.stderr
        assert "Traceback" not in done.stderr
        it.more_events("good")
        ended = end_well(it.program, it.outbox)
    notebook.fault("process", "a second program on the same outbox", seen="refused with the owner's pid", ended_s=ended)
