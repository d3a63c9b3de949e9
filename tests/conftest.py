"""What every test shares: the check that nothing is left behind, and markers for independent peers."""

from __future__ import annotations

import gc
import os
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

KERNEL_LISTS_CHILDREN = Path(f"/proc/self/task/{os.getpid()}/children").exists()
IN_CI = os.environ.get("CI") == "true"


def _threads() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread is not threading.current_thread()}


def _children() -> set[int]:
    if not KERNEL_LISTS_CHILDREN:
        return {child.pid for child in psutil.Process().children(recursive=True)}
    # psutil reads the whole process table for this: 10 ms before and after each of some two thousand tests.
    return {int(pid) for task in Path("/proc/self/task").iterdir() for pid in _born_of(task)}


def _born_of(task: Path) -> list[str]:
    try:
        return (task / "children").read_text().split()
    except OSError:
        return []  # the thread ended in between; its children belong to another one now


def _descriptors() -> dict[int, str]:
    found = {}
    for entry in Path("/proc/self/fd").iterdir():
        try:
            found[int(entry.name)] = os.readlink(entry)
        except OSError:
            continue  # the descriptor of the listing itself
    return found


def _left_behind(threads: set[threading.Thread], children: set[int], descriptors: dict[int, str]) -> list[str]:
    left = [f"thread {thread.name}" for thread in _threads() - threads]
    left += [f"child process {pid}" for pid in _children() - children]
    left += [f"descriptor {fd} -> {name}" for fd, name in _descriptors().items() if descriptors.get(fd) != name]
    return left


@pytest.fixture(autouse=True)
def nothing_left_behind(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail a test that leaves a thread, a child process, a socket or another descriptor behind.

    What ends by itself gets two seconds for it, polled: ending is asynchronous in the C libraries.
    """
    before = (_threads(), _children(), _descriptors())
    yield
    deadline = time.monotonic() + 2.0
    while (left := _left_behind(*before)) and time.monotonic() < deadline:
        gc.collect()
        threading.Event().wait(0.02)
    assert not left, f"{request.node.nodeid} left behind: {', '.join(left)}"


def _has_gstreamer() -> bool:
    probe = "import gi; gi.require_version('GstRtspServer','1.0'); from gi.repository import GstRtspServer"
    try:
        done = subprocess.run(["/usr/bin/python3", "-c", probe], capture_output=True, check=False, timeout=30)
    except OSError:
        return False
    return done.returncode == 0


def _has_korean_font() -> bool:
    try:
        found = subprocess.run(["fc-list", ":charset=ac00"], capture_output=True, check=False, timeout=30).stdout
    except OSError:
        return False
    return bool(found.strip())


def _has_torch() -> bool:
    import importlib.util

    return importlib.util.find_spec("torch") is not None


PEERS = {
    "ffmpeg": (lambda: shutil.which("ffmpeg") is not None, "apt-get install ffmpeg"),
    "ffprobe": (lambda: shutil.which("ffprobe") is not None, "apt-get install ffmpeg"),
    "gstreamer": (_has_gstreamer, "scripts/setup-test-peers as root"),
    "nginx": (
        lambda: Path("/usr/lib/nginx/modules/ngx_rtmp_module.so").exists(),
        "scripts/setup-test-peers as root",
    ),
    "mosquitto": (
        lambda: Path("/usr/sbin/mosquitto").exists() and shutil.which("mosquitto_sub") is not None,
        "scripts/setup-test-peers as root",
    ),
    "korean": (_has_korean_font, "apt-get install fontconfig fonts-nanum"),
    "torch": (_has_torch, "pip install 'sentinel-pipeline[torch]'"),
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip by name the tests whose independent peer is not installed; in CI a missing peer is a failure."""
    missing: dict[str, str] = {}
    for item in items:
        for name, (present, remedy) in PEERS.items():
            if item.get_closest_marker(name) is None:
                continue
            if name not in missing:
                missing[name] = "" if present() else remedy
            if missing[name]:
                reason = f"{name} is not installed: {missing[name]}"
                if IN_CI:
                    pytest.exit(f"CI must have every peer: {reason}", returncode=1)
                item.add_marker(pytest.mark.skip(reason=reason))
