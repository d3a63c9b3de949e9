"""The report of design section 7: what the streams, sinks, models and the process are doing."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orjson
import psutil

from sentinel_pipeline.domain.errors import ConfigError, SentinelError
from sentinel_pipeline.domain.events import iso

Section = Mapping[str, Mapping[str, Any]]


def make_report(
    *, streams: Section, sinks: Section, models: Section, outbox: Mapping[str, Any], started: float
) -> dict[str, Any]:
    """Return the report. ``started``: monotonic time at which the program began."""
    return {
        "time": iso(time.time()),
        "streams": dict(streams),
        "sinks": dict(sinks),
        "outbox": dict(outbox),
        "models": dict(models),
        "process": process_report(started),
    }


def process_report(started: float) -> dict[str, Any]:
    """Return CPU seconds of this process and its FFmpeg children, and its own resident bytes, threads, descriptors."""
    process = psutil.Process()
    with process.oneshot():
        own = process.cpu_times()
        cpu = own.user + own.system + own.children_user + own.children_system
        usage = {"rss_bytes": process.memory_info().rss, "threads": process.num_threads(), "fds": process.num_fds()}
    for child in process.children(recursive=True):
        try:
            times = child.cpu_times()
        except psutil.NoSuchProcess:
            continue  # it ended between the listing and the question; its time is in children_user by now
        cpu += times.user + times.system
    return {"cpu_s": round(cpu, 2), **usage, "uptime_s": round(time.monotonic() - started, 2)}


def ensure_writable(path: Path) -> None:
    """Raise ``ConfigError`` when a report could not be written to ``path``: better before the run than after it."""
    try:
        with path.open("ab"):
            pass
    except OSError as exc:
        raise ConfigError(
            f"the report cannot be written to {path}: {exc.strerror}", remedy="name a file in a directory you may write"
        ) from exc


def write_report(path: Path, report: Mapping[str, Any]) -> None:
    """Write the report as indented JSON. Raises ``SentinelError`` when the disk refuses."""
    try:
        path.write_bytes(orjson.dumps(report, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))
    except OSError as exc:
        raise SentinelError(
            f"the report cannot be written to {path}: {exc.strerror}", remedy="free space there, or name another file"
        ) from exc
