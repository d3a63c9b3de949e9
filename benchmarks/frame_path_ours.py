"""The measured side of ``frame_path``: one stream's frame path in this process, as fast as it goes.

Prints JSON: CPU milliseconds a frame in all, and by stage. Imports are not counted; everything from opening the source
to the end of the copying child is.
"""

from __future__ import annotations

import sys
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import orjson

from benchmarks import cpu
from sentinel_pipeline.domain.errors import StreamEnded
from sentinel_pipeline.domain.overlay import Box, Overlay
from sentinel_pipeline.domain.streams import PublishSpec
from sentinel_pipeline.infrastructure.video.canvas import Canvas
from sentinel_pipeline.infrastructure.video.drawing import Painter
from sentinel_pipeline.infrastructure.video.encoded_sink import EncodedSink
from sentinel_pipeline.infrastructure.video.encoder import H264Encoder
from sentinel_pipeline.infrastructure.video.pyav_source import PyAVSource
from sentinel_pipeline.interface.logs import configure_logging

BOXES = 7
FPS = 25


class Stages:
    """CPU time of this thread by stage."""

    def __init__(self) -> None:
        self.spent: defaultdict[str, float] = defaultdict(float)

    def watch(self, owner: Any, method: str, stage: str) -> None:
        """Take the time of a method of a class from now on."""
        original: Callable[..., Any] = getattr(owner, method)
        spent, now = self.spent, time.thread_time

        def timed(*arguments: Any, **named: Any) -> Any:
            started = now()
            try:
                return original(*arguments, **named)
            finally:
                spent[stage] += now() - started

        setattr(owner, method, timed)


class UnpacedSource(PyAVSource):
    """A file that is read as fast as it goes; the program itself plays files at their own pace."""

    def open(self) -> None:
        """Connect, and forget the pace."""
        super().open()
        if self._connection is not None:
            self._connection.playback = None


def overlay(number: int) -> Overlay:
    """Return seven labelled boxes that move with every picture and change their text five times a second."""
    boxes = []
    for box in range(BOXES):
        x, y = 60 + 250 * box + number % 50, 200 + 60 * box + number % 30
        share = 60 + (number // 5 + box) % 39
        boxes.append(Box((x, y, x + 110, y + 240), f"person {box + 1} {share}%", alarm=box == 0))
    return Overlay(tuple(boxes))


def main() -> None:
    """Run: SOURCE TARGET BITRATE BINARY."""
    source_url, target, bitrate, binary = sys.argv[1:5]
    configure_logging("json", "error")
    stages = Stages()
    stages.watch(Canvas, "take", "copy into the canvas")
    stages.watch(Painter, "paint", "draw")
    stages.watch(H264Encoder, "encode", "encode")
    stages.watch(UnpacedSource, "read", "read and decode")
    started, thread_started = cpu.of_self(), time.thread_time()
    source = UnpacedSource(source_url)
    sink = EncodedSink(PublishSpec(url=target, fps=FPS, bitrate=int(bitrate)), "benchmark", binary)
    frames = 0
    source.open()
    try:
        while True:
            sink.write(source.read(), overlay(frames), frames)
            frames += 1
    except StreamEnded:
        pass
    finally:
        source.close()
        sink.close()
    sys.stdout.buffer.write(orjson.dumps(_result(stages, frames, started, thread_started, sink)))


def _result(stages: Stages, frames: int, started: float, thread_started: float, sink: EncodedSink) -> dict[str, Any]:
    whole, main_thread, child = cpu.of_self() - started, time.thread_time() - thread_started, cpu.of_children()
    spent = dict(stages.spent)
    spent["the loop itself"] = main_thread - sum(spent.values())
    spent["wrap and write to the pipe (its thread)"] = whole - child - main_thread
    spent["ffmpeg child that copies"] = child
    return {
        "frames": frames,
        "dropped": sink.report().dropped,
        "ms": 1000 * whole / frames,
        "stages_ms": {name: 1000 * seconds / frames for name, seconds in spent.items()},
    }


if __name__ == "__main__":
    main()
