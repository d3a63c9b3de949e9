"""How long pictures stay in memory: a picture of 1080p has three megabytes, and every stream has several."""

from __future__ import annotations

import gc
import threading
import time
import weakref
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from sentinel_pipeline.application.pipeline.analysis import Analysis
from sentinel_pipeline.application.pipeline.batching import Dispatcher
from sentinel_pipeline.application.pipeline.publishing import Publishing
from sentinel_pipeline.application.ports import SinkReport
from sentinel_pipeline.application.stream.capture import Capture
from sentinel_pipeline.application.stream.health import StreamHealth
from sentinel_pipeline.domain.detections import Detections
from sentinel_pipeline.domain.errors import StreamEnded
from sentinel_pipeline.domain.frame import Frame
from sentinel_pipeline.domain.overlay import Overlay
from sentinel_pipeline.domain.streams import AnalyseSpec, DecodeSpec, DetectSpec, PublishSpec


class Picture:
    """A picture that has only a size."""

    width, height = 64, 36

    def yuv420p(self) -> Any:
        raise AssertionError("nobody needs the pixels")

    bgr = rgb = yuv420p


@pytest.fixture(autouse=True)
def no_collector() -> Iterator[None]:
    """Cycles would be freed late in a program as well: nothing may depend on the collector."""
    gc.disable()
    yield
    gc.enable()


def frame(sequence: int) -> Frame:
    return Frame(Picture(), sequence, float(sequence), time.time(), time.monotonic())


def until(event: threading.Event) -> None:
    assert event.wait(5)


def test_pictures_leave_while_the_model_looks_at_them() -> None:
    """The analysis holds no picture while the model runs; what its events need of the frame is still there after it."""
    pictures: list[Any] = []
    looked, alive, emitted = threading.Event(), [], []

    class Model:
        labels = ("person",)

        def detect(self, frame: Frame, **_: float) -> tuple[Detections, dict[str, float]]:
            del frame
            alive.append(pictures[-1]() is not None)
            looked.set()
            return Detections.empty(), {}

    analysis = Analysis("x", AnalyseSpec(DetectSpec("m"), fps=5), Model(), emitted.append, StreamHealth("x"))
    analysis.start()
    try:
        made = frame(1)
        pictures.append(weakref.ref(made.image))
        analysis.offer(made)
        del made
        until(looked)
    finally:
        analysis.close()
        assert analysis.join(5)
    assert alive == [False]


def test_pictures_leave_when_the_next_one_is_published() -> None:
    """While a picture is encoded the one before it is in memory no longer, and the one being encoded is."""
    pictures: dict[int, Any] = {}
    alive: list[set[int]] = []
    repeated, written = threading.Event(), threading.Event()

    class Sink:
        def write(self, frame: Frame, overlay: Overlay, slot: int, **_: Any) -> None:
            del overlay, slot
            if frame.sequence == 1:
                repeated.set()
            else:
                alive.append({number for number, ref in pictures.items() if ref() is not None})
                written.set()

        def report(self) -> SinkReport:
            return SinkReport("running")

        def close(self) -> None: ...

    health = StreamHealth("x")
    stage = Publishing("x", PublishSpec("rtsp://h/x", fps=20), 2, lambda _: Sink(), lambda _: Overlay(), health)
    stage.start()
    try:
        for number, done in ((1, repeated), (2, written)):
            made = frame(number)
            pictures[number] = weakref.ref(made.image)
            stage.offer(made)
            del made
            until(done)
            done.clear()
            until(done)  # it is repeated, so that the next one comes in time for a slot of its own
    finally:
        stage.close()
        assert stage.join(5)
    assert alive[0] == {2}


def test_pictures_leave_when_they_have_been_handed_on() -> None:
    """The capture thread does not keep the last picture while it waits for the next one, for hours if need be."""
    pictures, alive = [], []

    class Source:
        def open(self) -> None: ...
        def cancel(self) -> None: ...
        def close(self) -> None: ...

        def read(self) -> Frame:
            alive.extend(ref() is not None for ref in pictures)
            if pictures:
                raise StreamEnded("over")
            made = frame(0)
            pictures.append(weakref.ref(made.image))
            return made

    with pytest.raises(StreamEnded):
        Capture("x", Source(), lambda _: None, DecodeSpec()).run(lambda: None)
    assert alive == [False]


def test_tensors_leave_when_they_have_been_answered() -> None:
    """A model that waits for work holds no tensor of the work before it."""
    with Dispatcher("m", lambda batch: {"out": batch.sum(axis=1)}) as dispatcher:
        tensor = np.ones(3, np.float32)
        gone = weakref.ref(tensor)
        assert dispatcher.submit(tensor).outputs["out"] == 3
        del tensor
        deadline = time.monotonic() + 5
        while gone() is not None and time.monotonic() < deadline:
            threading.Event().wait(0.005)
        assert gone() is None
