"""Whether an analysis has dealt with all that it was given: a lost camera is told only after that."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from sentinel_pipeline.application.pipeline.pipeline import Pipeline
from sentinel_pipeline.application.stream.health import StreamHealth
from sentinel_pipeline.domain.detections import Detections
from sentinel_pipeline.domain.frame import Frame
from sentinel_pipeline.domain.streams import AnalyseSpec, DetectSpec, StreamSpec
from sentinel_pipeline.infrastructure.video.images import BgrImage
from support.program import wait_until


class SlowDetector:
    """Finds nothing, when it is let."""

    labels: Sequence[str] = ("person",)

    def __init__(self) -> None:
        self.inside, self.go_on = threading.Event(), threading.Event()

    def detect(self, *_: Any, **__: Any) -> tuple[Detections, dict[str, float]]:
        self.inside.set()
        assert self.go_on.wait(10)
        return Detections.empty(), {}


def frame(number: int) -> Frame:
    pixels = np.zeros((36, 64, 3), np.uint8)
    return Frame(BgrImage(pixels), number, float(number), float(number), time.monotonic())


def test_analysis_is_settled_only_between_frames() -> None:
    """Not while a frame is analysed or waits; a frame that was pushed out by a newer one counts as dealt with."""
    detector = SlowDetector()
    spec = StreamSpec("gate", "rtsp://h/x", analyse=AnalyseSpec(DetectSpec("m"), fps=1.0, max_age=60.0))
    refuse: Any = None
    pipeline = Pipeline(spec, detector, refuse, lambda _: None, StreamHealth("gate"), keep_newest=True)
    assert pipeline._settled()
    pipeline.start()
    try:
        pipeline.accept(frame(0))
        assert detector.inside.wait(5)
        assert not pipeline._settled()
        for number in range(1, 5):
            pipeline.accept(frame(number))
        assert not pipeline._settled()
        detector.go_on.set()
        wait_until(pipeline._settled, 5, "settled")
        assert pipeline.newest_frame is not None
        assert pipeline.newest_frame.sequence == 4
    finally:
        detector.go_on.set()
        pipeline.close()
        assert pipeline.join(time.monotonic() + 5)
