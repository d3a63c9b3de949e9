"""What is drawn on a picture: what was known at its time, also when it is published late."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from sentinel_pipeline.application.pipeline.analysis import Analysis
from sentinel_pipeline.application.stream.health import StreamHealth
from sentinel_pipeline.domain.detections import Detections
from sentinel_pipeline.domain.frame import Frame
from sentinel_pipeline.domain.streams import AnalyseSpec, DetectSpec
from support.pictures import PlanarImage
from support.program import wait_until


class Walker:
    """A detector that sees one person, 20 pixels further to the right in every picture."""

    labels = ("person",)

    def __init__(self) -> None:
        self.looks = 0

    def detect(self, _: Frame, **__: Any) -> tuple[Detections, dict[str, float]]:
        x = 100.0 + 20 * self.looks
        self.looks += 1
        return Detections(np.array([[x, 50, x + 40, 150]], np.float32), np.array([0.9], np.float32), np.array([0])), {}


@pytest.fixture
def walked() -> Iterator[Analysis]:
    """An analysis that has seen the person ten times, every fifth of a second from 1.0 to 2.8 s of stream time."""
    spec, health = AnalyseSpec(DetectSpec("m"), fps=25.0, max_age=60.0), StreamHealth("x")
    analysis = Analysis("x", spec, Walker(), lambda _: None, health)
    analysis.start()
    try:
        for i in range(10):
            pts = 1.0 + i / 5
            analysis.offer(Frame(PlanarImage(640, 360), i, pts, pts, time.monotonic()))
            wait_until(lambda i=i: analysis.settled() and health.analysed.total == i + 1, 5, "the picture is analysed")
        yield analysis
    finally:
        analysis.close()
        assert analysis.join(5)


def test_analysis_overlay_is_that_of_the_picture(walked: Analysis) -> None:
    """A picture that is published late has the box of its own time, not that of the newest look."""
    (newest,) = walked.overlay(2.8).boxes
    (earlier,) = walked.overlay(2.0).boxes
    assert newest.xyxy[0] == pytest.approx(280.0)
    assert earlier.xyxy[0] == pytest.approx(200.0)


def test_analysis_trails_lead_to_the_box(walked: Analysis) -> None:
    """A trail has the foot points of the last two seconds, oldest first, and ends below the box; none unless asked."""
    assert walked.overlay(2.8).trails == ()
    (trail,) = walked.overlay(2.8, trails=True).trails
    x, y = zip(*trail.points, strict=True)
    assert x[0] == pytest.approx(120.0)
    assert list(x) == sorted(x)
    assert x[-1] == pytest.approx(300.0)
    assert set(y) == {150.0}
