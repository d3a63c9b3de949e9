"""What the figures were measured on."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

PACKAGES = ("sentinel-pipeline", "av", "numpy", "onnxruntime", "opencv-python-headless")


def describe() -> dict[str, Any]:
    """Return the machine, the versions and the load of the last minute."""
    return {
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "ffmpeg": _ffmpeg_version(),
        "packages": {name: _version(name) for name in PACKAGES},
        "load_1min": round(os.getloadavg()[0], 2),
    }


def summary(machine: dict[str, Any]) -> str:
    """Return one line for people."""
    packages = machine["packages"]
    return (
        f"{machine['cores']} cores {machine['cpu']}, Linux {machine['kernel']}, Python {machine['python']}, "
        f"ffmpeg {machine['ffmpeg']}, PyAV {packages['av']}, ONNX Runtime {packages['onnxruntime']}, "
        f"load {machine['load_1min']}"
    )


def busy_jiffies() -> tuple[int, int]:
    """Return (busy, all) clock ticks of all cores since boot."""
    values = [int(value) for value in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
    return sum(values) - values[3] - values[4], sum(values)


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _ffmpeg_version() -> str:
    binary = shutil.which("ffmpeg")
    if binary is None:
        return "none"
    answer = subprocess.run([binary, "-version"], capture_output=True, text=True, check=False).stdout
    return answer.split()[2] if answer else "unknown"


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "none"
