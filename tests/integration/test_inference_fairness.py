"""Streams of different rates at one real model that has a fraction of the time they want."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from importlib import resources
from pathlib import Path

import av
import pytest

from sentinel_pipeline.domain.frame import Frame
from sentinel_pipeline.domain.models import ModelSpec
from sentinel_pipeline.infrastructure.inference.detector import ModelDetector, open_detector
from sentinel_pipeline.infrastructure.video.images import AvImage

CLIP = Path(str(resources.files("sentinel_pipeline.assets") / "vtest-768x576-10fps.mp4"))
# How many inferences of the model apart each camera has a new picture. One inference serves one picture, so together
# they ask for 1 + 1 + 1/2 + 1/2 + 1/3 + 1/3 = 3.7 times what there is; the slowest alone for twice its share.
EVERY = (1, 1, 2, 2, 3, 3)
INFERENCES = 72


class Camera:
    """Asks as soon as it has a new picture, like a stream whose newest picture waits in its mailbox."""

    def __init__(self, detector: ModelDetector, every: int) -> None:
        self._detector, self._every = detector, every
        self.served = 0

    def run(self, frame: Frame) -> None:
        taken = -self._every
        while (done := self._detector.snapshot()["inferences"]) < INFERENCES:
            if done - taken < self._every:
                threading.Event().wait(0.001)  # the next picture is not there yet
                continue
            taken = done
            self._detector.detect(frame, confidence=0.4, iou=0.6)
            self.served += 1


@pytest.mark.parametrize("batch", [1, 2], ids=["one by one", "in pairs"])
def test_at_overload_every_camera_gets_the_same_share(batch: int) -> None:
    """The best served camera is analysed at most 1.3 times as often as the worst, whatever their rates."""
    with av.open(str(CLIP)) as container:
        frame = Frame(AvImage(next(container.decode(video=0))), 0, 0.0, 0.0, 0.0)
    spec = ModelSpec("m", builtin="nanodet-g-416-int8", threads=1, max_size=batch, timeout=30.0)
    with open_detector(spec) as detector, ThreadPoolExecutor(len(EVERY)) as pool:
        cameras = [Camera(detector, every) for every in EVERY]
        for future in [pool.submit(camera.run, frame) for camera in cameras]:
            future.result(60)
        report = detector.snapshot()
    served = [camera.served for camera in cameras]
    assert sum(served) == report["inferences"] >= INFERENCES
    assert max(served) <= 1.3 * min(served), served
