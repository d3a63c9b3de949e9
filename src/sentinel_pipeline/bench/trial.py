"""Runs the program on so many cameras, as a process of its own, and reads off what it used."""

from __future__ import annotations

import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import yaml

from sentinel_pipeline.bench.capacity import Usage, Workload, shortfall
from sentinel_pipeline.demo import child, playing
from sentinel_pipeline.domain.errors import SentinelError
from sentinel_pipeline.interface.api.client import ask_status
from sentinel_pipeline.lab.rtsp_relay import RtspRelay

START = 60.0  # seconds within which all streams must run


def try_streams(count: int, wanted: Workload, material: Path, ffmpeg: str, folder: Path, seconds: float) -> Usage:
    """Run ``count`` cameras and return the usage over ``seconds`` of steady state.

    The cameras' server and players run beside the program, not in it, and do not count. Raises ``SentinelError`` when
    the program does not get going.
    """
    with ExitStack() as stack:
        relay = stack.enter_context(RtspRelay())
        for number in range(count):
            stack.enter_context(playing(ffmpeg, material, relay.url(f"camera{number}"), start=number % 5))
        for number in range(count):
            relay.wait_for_publisher(f"camera{number}", START)
        port = _free_port()
        config = folder / f"bench-{count}.yaml"
        config.write_text(yaml.safe_dump(_configuration(count, wanted, relay, port, folder)))
        program = [sys.executable, "-m", "sentinel_pipeline", "run", str(config)]
        stack.enter_context(child(program, patience=10.0))
        before = _settled(port, count)
        started = time.monotonic()
        _wait(seconds)
        after = ask_status("127.0.0.1", port, "")
        took = time.monotonic() - started
    cores = (after["process"]["cpu_s"] - before["process"]["cpu_s"]) / took
    return Usage(count, cores, after["process"]["rss_bytes"], shortfall(before, after, took, wanted))


def _configuration(count: int, wanted: Workload, relay: RtspRelay, port: int, folder: Path) -> dict[str, Any]:
    return {
        "version": 1,
        "streams": {f"camera{n}": _stream(n, wanted, relay) for n in range(count)},
        "outbox": {"path": str(folder / f"bench-{count}.db")},
        "api": {"listen": f"127.0.0.1:{port}"},
        "runtime": {"log": {"level": "error"}},
    }


def _stream(number: int, wanted: Workload, relay: RtspRelay) -> dict[str, Any]:
    stream: dict[str, Any] = {"source": relay.url(f"camera{number}")}
    if wanted.analyse_fps:
        rule = {"name": "bench", "when": "zone", "polygon": [[0, 0], [1, 0], [1, 1], [0, 1]], "event": "BENCH"}
        stream["analyse"] = {"fps": wanted.analyse_fps, "detect": {"model": wanted.model}, "rules": [rule]}
    if wanted.publish:
        stream["publish"] = {"url": relay.url(f"annotated{number}"), "fps": wanted.fps}
    return stream


def _settled(port: int, count: int) -> Mapping[str, Any]:
    """Return the first report in which every stream runs and has analysed and published something."""

    def ready(report: Mapping[str, Any]) -> bool:
        streams = report["streams"].values()
        return len(streams) == count and all(
            s["state"] == "RUNNING" and s["frames_decoded"] > s["fps"] for s in streams
        )

    deadline = time.monotonic() + START
    while time.monotonic() < deadline:
        try:
            if ready(report := ask_status("127.0.0.1", port, "")):
                return report
        except SentinelError:
            pass  # it is still starting
        _wait(0.5)
    raise SentinelError(f"{count} streams did not all start within {START:g} s", remedy="try a smaller workload")


_wait: Callable[[float], object] = threading.Event().wait


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
