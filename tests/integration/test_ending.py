"""The end of the process: asked by real signals, in time whatever hangs. Each test runs a process of its own."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time

import pytest

# A C library that holds the main thread for minutes, without the interpreter's lock: as models do while they load.
IN_A_LIBRARY = """
import sqlite3
count = "with recursive r(x) as (select 1 union all select x + 1 from r) select count(*) from r"
with Ending(within=1.0):
    print("ready", flush=True)
    sqlite3.connect(":memory:").execute(count)
"""
THREAD_HANGS = """
import threading
with Ending(within=1.0) as ending:
    threading.Thread(target=threading.Event().wait).start()
    print("ready", flush=True)
    ending.asked.wait()
"""
FAILS_AND_HANGS = """
import threading
with Ending(within=0.5) as ending:
    threading.Thread(target=threading.Event().wait).start()
    print("ready", flush=True)
    raise SystemExit(3)
"""
THREAD_ENDS_LATE = """
import threading
with Ending(within=20.0) as ending:
    threading.Thread(target=threading.Event().wait, args=(0.5,)).start()
    print("ready", flush=True)
    ending.asked.wait()
"""
RELOADS = """
with Ending(reloads=True) as ending:
    print("ready", flush=True)
    while not ending.asked.is_set():
        print(ending.heard(5.0), flush=True)
"""
LEAVES_NOTHING = """
import os, signal, threading
def state():
    handlers = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGHUP), signal.set_wakeup_fd(-1)
    return handlers, os.listdir("/proc/self/fd"), threading.enumerate()
print("ready", flush=True)
before = state()
with Ending() as ending:
    os.kill(os.getpid(), signal.SIGTERM)
    assert ending.asked.wait(5)
print("the same" if state() == before else f"{before} became {state()}")
"""


def start(script: str) -> subprocess.Popen[str]:
    """Start ``script`` and wait until it says that it is ready."""
    code = f"from sentinel_pipeline.interface.ending import Ending\n{script}"
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


@pytest.mark.parametrize(
    ("script", "signals", "code"),
    [
        pytest.param(IN_A_LIBRARY, [signal.SIGTERM], 0, id="the main thread is inside a library"),
        pytest.param(IN_A_LIBRARY, [signal.SIGINT, signal.SIGINT], 130, id="second Ctrl-C inside a library"),
        pytest.param(THREAD_HANGS, [signal.SIGTERM], 0, id="a thread never ends"),
        pytest.param(THREAD_HANGS, [signal.SIGTERM, signal.SIGTERM], 0, id="a second SIGTERM changes nothing"),
        pytest.param(FAILS_AND_HANGS, [], 1, id="an error, and a thread never ends"),
        pytest.param(THREAD_HANGS, [signal.SIGHUP], 0, id="the terminal is closed"),
        pytest.param(THREAD_ENDS_LATE, [signal.SIGINT], 0, id="a thread ends a little later"),
    ],
)
def test_ending_is_in_time(script: str, signals: list[signal.Signals], code: int) -> None:
    """Whatever hangs, the process ends within its time, with the code that says how it came to that."""
    process = start(script)
    started = time.monotonic()
    try:
        for number in signals:
            process.send_signal(number)
            threading.Event().wait(0.2)  # two signals at once are one to the kernel
        _, said = process.communicate(timeout=5)
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == code
    assert time.monotonic() - started < 4.0
    assert ("left behind" in said) == (code != 130 and script is not THREAD_ENDS_LATE)


def test_ending_takes_sighup_for_a_wish_to_reload() -> None:
    """Where it is asked for, each SIGHUP is told once and ends nothing; SIGTERM ends as ever."""
    process = start(RELOADS)
    assert process.stdout is not None
    for _ in range(2):
        process.send_signal(signal.SIGHUP)
        assert process.stdout.readline() == "True\n"
    process.send_signal(signal.SIGTERM)
    said, failure = process.communicate(timeout=10)
    assert (process.returncode, failure) == (0, "")
    assert "True" not in said


def test_ending_leaves_the_process_as_it_was() -> None:
    """After the block the process has the signal handlers, descriptors and threads that it had before it."""
    with start(LEAVES_NOTHING) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        said = process.stdout.read()  # not ``communicate``: it misses what came together with "ready"
        failure = process.stderr.read()
    assert (process.returncode, said, failure) == (0, "the same\n", "")
