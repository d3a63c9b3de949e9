"""The result of ``sentinel bench`` as text for a person."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def bench_text(result: Mapping[str, Any]) -> str:
    """Return a few lines: the answer, whether it was tried, what a camera costs and what the hardware asks for."""
    machine, workload, floors, answer = (result[key] for key in ("machine", "workload", "floors", "estimate"))
    width, height = workload["size"]
    work = f"{width}x{height} at {workload['fps']:g} fps"
    work += (
        f", {workload['analyse_fps']:g} analysed per second ({workload['model']})" if workload["analyse_fps"] else ""
    )
    work += ", published" if workload["publish"] else ""
    per_stream = answer["cores_per_stream"]
    ratio = per_stream / floors["cores_per_stream"]
    lines = [
        f"{work}",
        f"  this machine: {machine['cores']} cores, {machine['memory_bytes'] / 2**30:.0f} GiB, load {machine['load']}",
        f"  carries {answer['streams']} cameras; {_LIMITS[answer['limit']]} runs out first",
        f"  tried: {_tried(result)}",
        f"  a camera costs {per_stream * 100:.1f} % of a core and {answer['bytes_per_stream'] / 2**20:.0f} MiB",
        f"  the floor in C is {floors['cores_per_stream'] * 100:.1f} % (x {ratio:.2f})",
    ]
    return "\n".join(lines)


_LIMITS = {"cpu": "processor time", "memory": "memory"}


def _tried(result: Mapping[str, Any]) -> str:
    verified = result.get("verified")
    if verified is None:
        return "no"
    if verified:
        return f"{verified} cameras got every frame they asked for"
    return f"the streams did not get what they asked for: {result['trials'][-1]['shortfall']}"
