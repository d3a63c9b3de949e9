"""The flow of ``sentinel bench``: material, floors, two small trials, an answer, and the trial of the answer."""

from __future__ import annotations

import os
import platform
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import psutil

from sentinel_pipeline.bench import floors
from sentinel_pipeline.bench.capacity import Usage, Workload, estimate
from sentinel_pipeline.bench.material import make_material
from sentinel_pipeline.bench.trial import try_streams
from sentinel_pipeline.domain.models import ModelSpec
from sentinel_pipeline.infrastructure.inference.detector import open_detector
from sentinel_pipeline.infrastructure.video.ffmpeg_binary import ffmpeg_version, find_ffmpeg
from sentinel_pipeline.interface.logs import configure_logging
from sentinel_pipeline.interface.report import ensure_writable, write_report

MATERIAL_S = 20.0
BITRATE = 2_000_000


def bench(wanted: Workload, *, seconds: float, verify: bool, report: Path | None) -> dict[str, Any]:
    """Measure this machine and return the result; progress goes to standard error."""
    configure_logging("auto", "error")
    if report is not None:
        ensure_writable(report)
    ffmpeg = find_ffmpeg(None)
    with tempfile.TemporaryDirectory(prefix="sentinel-bench-") as name:
        folder = Path(name)
        result = {"machine": _machine(ffmpeg), "workload": asdict(wanted)}
        say(f"making footage: {wanted.size[0]}x{wanted.size[1]} at {wanted.fps:g} fps")
        material = folder / "camera.mp4"
        make_material(material, wanted.size, wanted.fps, MATERIAL_S)
        result["floors"] = _floors(wanted, material, ffmpeg)
        result |= _trials(wanted, material, ffmpeg, folder, seconds, verify=verify)
    if report is not None:
        write_report(report, result)
    return result


def _machine(ffmpeg: str) -> dict[str, Any]:
    return {
        "cores": cores(),
        "memory_bytes": psutil.virtual_memory().total,
        "cpu": platform.processor() or platform.machine(),
        "python": platform.python_version(),
        "ffmpeg": ffmpeg_version(ffmpeg),
        "load": round(os.getloadavg()[0], 2),
    }


def cores() -> int:
    """Return the cores that this process may use."""
    return len(os.sched_getaffinity(0))


def _floors(wanted: Workload, material: Path, ffmpeg: str) -> dict[str, float]:
    say("measuring the floors: decoding, transcoding, the model")
    found = {"decode_ms": floors.decode_ms(material), "transcode_ms": floors.transcode_ms(ffmpeg, material, BITRATE)}
    if wanted.analyse_fps:
        with open_detector(ModelSpec(id="bench", builtin=wanted.model)) as detector:
            found["infer_ms"] = floors.infer_ms(detector, material)
    per_frame = found["transcode_ms"] if wanted.publish else found["decode_ms"]
    found["cores_per_stream"] = (per_frame * wanted.fps + found.get("infer_ms", 0.0) * wanted.analyse_fps) / 1000
    return {name: round(value, 4) for name, value in found.items()}


def _trials(
    wanted: Workload, material: Path, ffmpeg: str, folder: Path, seconds: float, *, verify: bool
) -> dict[str, Any]:
    usages: list[Usage] = []

    def trial(count: int) -> Usage:
        say(f"running {count} camera{'s' if count > 1 else ''} for {seconds:g} s")
        usages.append(try_streams(count, wanted, material, ffmpeg, folder, seconds))
        return usages[-1]

    one, two = trial(1), trial(2)
    answer = estimate(one, two, cores=cores(), memory=psutil.virtual_memory().total)
    result: dict[str, Any] = {"estimate": asdict(answer)}
    if verify and not one.shortfall:
        result["verified"] = _verify(answer.streams, trial)
    result["trials"] = [asdict(usage) for usage in usages]
    return result


def _verify(count: int, trial: Any) -> int:
    """Return the greatest number of cameras that was seen to get what they ask for, near the estimate."""
    for candidate in range(count, max(count - 3, 0), -1):
        usage = trial(candidate)
        if not usage.shortfall:
            return candidate
        say(f"too many: {usage.shortfall}")
    return 0


def say(text: str) -> None:
    """Tell a person what is going on."""
    sys.stderr.write(f"bench: {text}\n")
    sys.stderr.flush()
