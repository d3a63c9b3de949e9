"""What the hardware needs at the least: decoding, encoding and inference in C, nothing else."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import av

from sentinel_pipeline.domain.frame import Frame
from sentinel_pipeline.infrastructure.inference.detector import ModelDetector
from sentinel_pipeline.infrastructure.video.images import AvImage


def decode_ms(material: Path) -> float:
    """Return CPU milliseconds per decoded frame, one thread."""

    def decode() -> int:
        with av.open(str(material)) as container:
            container.streams.video[0].thread_count = 1
            return sum(1 for _ in container.decode(video=0))

    return _cpu_ms(decode)


def transcode_ms(ffmpeg: str, material: Path, bitrate: int) -> float:
    """Return CPU milliseconds per frame that ``ffmpeg`` alone needs to decode and encode, in one process."""
    frames = _count(material)
    command = [ffmpeg, "-hide_banner", "-loglevel", "error", "-nostdin", "-threads", "1", "-i", str(material)]
    command += ["-c:v", "libx264", "-preset", "ultrafast", "-tune", "zerolatency", "-threads", "1"]
    command += ["-b:v", str(bitrate), "-f", "null", "-"]
    before = os.times()
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL, timeout=120)
    after = os.times()
    used = after.children_user + after.children_system - before.children_user - before.children_system
    return used * 1000 / frames


def infer_ms(detector: ModelDetector, material: Path, pictures: int = 30) -> float:
    """Return CPU milliseconds per picture for preparing, running and reading the model."""
    with av.open(str(material)) as container:
        image = AvImage(next(container.decode(video=0)))
    frame = Frame(image, 0, 0.0, 0.0, time.monotonic())

    def infer() -> int:
        for _ in range(pictures):
            detector.detect(frame, confidence=0.4, iou=0.6)
        return pictures

    return _cpu_ms(infer)


def _cpu_ms(work: Callable[[], int]) -> float:
    before = time.process_time()
    count = work()
    return (time.process_time() - before) * 1000 / max(count, 1)


def _count(material: Path) -> int:
    with av.open(str(material)) as container:
        return sum(packet.size > 0 for packet in container.demux(video=0))
