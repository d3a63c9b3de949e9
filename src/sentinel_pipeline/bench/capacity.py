"""From what one stream costs to how many fit, and whether a trial has shown it. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Workload:
    """What each camera asks for. ``size`` in pixels; ``analyse_fps`` 0 means no analysis."""

    size: tuple[int, int]
    fps: float
    analyse_fps: float
    model: str
    publish: bool


@dataclass(frozen=True, slots=True)
class Usage:
    """What the program used in a steady state.

    cores: CPU seconds per second of this process and its FFmpeg children. rss: resident bytes of the process.
    shortfall: why the streams did not get what they ask for, empty when they did.
    """

    streams: int
    cores: float
    rss: int
    shortfall: str


@dataclass(frozen=True, slots=True)
class Capacity:
    """The answer. ``limit``: what runs out first, ``cpu`` or ``memory``."""

    streams: int
    limit: str
    cores_per_stream: float
    bytes_per_stream: float


# Above this share of the cores streams begin to wait for one another, and a machine has other things to do.
USABLE_CORES = 0.85
USABLE_MEMORY = 0.8


def estimate(one: Usage, more: Usage, *, cores: int, memory: int) -> Capacity:
    """Return how many streams fit on ``cores`` cores and ``memory`` bytes, from runs with one and with more streams.

    The difference of the two runs is what a further stream costs; what is left of the first run is the fixed cost.
    """
    added = more.streams - one.streams
    per_stream = max((more.cores - one.cores) / added, 1e-6)
    per_stream_bytes = max((more.rss - one.rss) / added, 1.0)
    fixed = max(0.0, one.cores - per_stream * one.streams)
    fixed_bytes = max(0.0, one.rss - per_stream_bytes * one.streams)
    by_cpu = int((cores * USABLE_CORES - fixed) / per_stream)
    by_memory = int((memory * USABLE_MEMORY - fixed_bytes) / per_stream_bytes)
    return Capacity(
        max(0, min(by_cpu, by_memory)), "cpu" if by_cpu <= by_memory else "memory", per_stream, per_stream_bytes
    )


def shortfall(before: Mapping[str, Any], after: Mapping[str, Any], seconds: float, wanted: Workload) -> str:
    """Return what the worst served stream lacked between two reports, or an empty string.

    Five per cent are allowed on each rate: the windows of measurement cut frames.
    """
    rates = {"frames_decoded": wanted.fps, "frames_analysed": wanted.analyse_fps}
    if wanted.publish:
        rates["frames_published"] = wanted.fps
    for stream_id, stream in after["streams"].items():
        if stream["state"] != "RUNNING":
            return f"{stream_id} is {stream['state']}: {stream['reason']}"
        for key, rate in rates.items():
            reached = (stream[key] - before["streams"][stream_id][key]) / seconds
            if reached < 0.95 * rate:
                return f"{stream_id} reached {reached:.1f} of {rate:g} {key.removeprefix('frames_')} frames per second"
    return ""
