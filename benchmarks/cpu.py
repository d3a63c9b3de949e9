"""CPU time (user + system) of a process and everything it has started."""

from __future__ import annotations

import os
import resource
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil


@dataclass(frozen=True, slots=True)
class Used:
    """CPU and wall seconds of something that has ended, and what it wrote to stdout."""

    cpu_s: float
    wall_s: float
    output: str


class ProcessFailed(RuntimeError):
    """A measured process ended with an error."""


def run(command: Sequence[str | Path], env: Mapping[str, str] | None = None) -> Used:
    """Run a command to its end and return what it and its reaped descendants used. Raises ``ProcessFailed``.

    The figure is the kernel's, from wait4(2).
    """
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        started = time.monotonic()
        process = subprocess.Popen(
            [str(part) for part in command],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            env={**os.environ, **(env or {})},
        )
        try:
            _, status, usage = os.wait4(process.pid, 0)
        except BaseException:
            process.kill()
            process.wait()
            raise
        process.returncode = os.waitstatus_to_exitcode(status)
        wall = time.monotonic() - started
        out.seek(0)
        err.seek(0)
        if process.returncode != 0:
            tail = err.read()[-2000:].decode(errors="replace")
            raise ProcessFailed(f"{command[0]} ended with {process.returncode}: {tail}")
        return Used(usage.ru_utime + usage.ru_stime, wall, out.read().decode())


def of_self() -> float:
    """Return the CPU seconds of this process and its reaped children."""
    return sum(
        usage.ru_utime + usage.ru_stime
        for usage in (resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN))
    )


def of_children() -> float:
    """Return the CPU seconds of this process's reaped children."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def of_tree(pid: int) -> float:
    """Return the CPU seconds so far of a running process and all its descendants, ended and running."""
    process = psutil.Process(pid)
    total = 0.0
    for one in [process, *process.children(recursive=True)]:
        try:
            times = one.cpu_times()
        except psutil.NoSuchProcess:
            continue  # ended since the listing: by now its time is in its parent's children_*
        total += times.user + times.system + times.children_user + times.children_system
    return total


def of_threads() -> dict[int, float]:
    """Return the CPU seconds of this process's live threads by native id (clock ticks of 10 ms)."""
    return {thread.id: thread.user_time + thread.system_time for thread in psutil.Process().threads()}
