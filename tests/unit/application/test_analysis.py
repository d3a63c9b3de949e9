"""The analysis of a stream: what the motion gate means for rules and boxes, and what a failing outbox means."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from structlog.testing import capture_logs

from sentinel_pipeline.application.pipeline.analysis import Analysis, _Seen
from sentinel_pipeline.application.pipeline.batching import Dispatcher
from sentinel_pipeline.application.stream.health import StreamHealth
from sentinel_pipeline.domain.detections import Detections
from sentinel_pipeline.domain.errors import ModelTimeout, OutboxError
from sentinel_pipeline.domain.events import Event, EventStage
from sentinel_pipeline.domain.frame import Frame
from sentinel_pipeline.domain.streams import (
    AnalyseSpec,
    DetectSpec,
    DwellRuleSpec,
    LineRuleSpec,
    MotionSpec,
    TrackSpec,
    ZoneRuleSpec,
)
from sentinel_pipeline.infrastructure.video.images import BgrImage

EVERYWHERE = ((0.0, 0.0), (1.0, 0.0), (1.0, 1.0), (0.0, 1.0))
ZONE = ZoneRuleSpec("zone", EVERYWHERE, "INTRUSION", confirm_after=1.0, clear_after=5.0)
DWELL = DwellRuleSpec("dwell", EVERYWHERE, "LOITERING", longer_than=20.0, clear_after=5.0)
BLACK, WHITE = (BgrImage(np.full((36, 64, 3), value, np.uint8)) for value in (0, 255))
PERSON = Detections(np.array([[10, 5, 20, 30]], np.float32), np.array([0.9], np.float32), np.array([0]))
NOBODY = Detections.empty()


class Script:
    """A detector that sees what the test says, or raises it."""

    labels = ("person",)

    def __init__(self) -> None:
        self.sees: Detections | Exception = NOBODY

    def detect(self, _: Frame, **__: float) -> tuple[Detections, dict[str, float]]:
        if isinstance(self.sees, Exception):
            raise self.sees
        return self.sees, {"infer": 1.0}


class Stage:
    """An analysis that is shown one picture after the other, a second apart, in the test's own thread."""

    def __init__(self, *rules: Any, tracking: bool = True, hold: float = 3.0) -> None:
        self.detector, self.events, self.pts = Script(), [], 0.0
        motion = MotionSpec(enabled=True, hold=hold)
        spec = AnalyseSpec(DetectSpec("m"), motion=motion, rules=rules, track=TrackSpec(enabled=tracking))
        self.analysis = Analysis("x", spec, self.detector, self._emit, StreamHealth("x"))

    def _emit(self, events: Sequence[Event]) -> None:
        self.events += [(event.module_name, str(event.stage), self.pts) for event in events]

    def show(self, seconds: int, *, moving: bool, sees: Detections) -> None:
        self.detector.sees = sees
        for _ in range(seconds):
            self.pts += 1.0
            image = WHITE if moving and self.pts % 2 else BLACK
            self.analysis._look_at(_Seen(Frame(image, int(self.pts), self.pts, self.pts, time.monotonic())))
            self.analysis._store()

    def boxes(self) -> int:
        return len(self.analysis.overlay(self.pts).boxes)


@pytest.mark.parametrize("tracking", [True, False])
def test_analysis_gate_closes_behind_somebody_who_stands_still(tracking: bool) -> None:
    """Nothing moves, so the person is still there: the dwell rule fires in time, nothing is cleared, the box stays."""
    stage = Stage(ZONE, DWELL, tracking=tracking)
    stage.show(4, moving=True, sees=PERSON)
    stage.show(60, moving=False, sees=PERSON)
    assert stage.events == [("zone", "DETECTED", 1.0), ("zone", "CONFIRMED", 2.0), ("dwell", "CONFIRMED", 21.0)]
    assert stage.boxes() == 1
    stage.show(3, moving=True, sees=PERSON)
    assert len(stage.events) == 3
    stage.show(10, moving=True, sees=NOBODY)
    assert [(name, stage) for name, stage, _ in stage.events[3:]] == [("zone", "CLEARED"), ("dwell", "CLEARED")]


@pytest.mark.parametrize("tracking", [True, False])
def test_analysis_gate_closes_behind_somebody_who_has_left(tracking: bool) -> None:
    """Who has left before the gate closed is cleared in time, not at the next motion hours later, and has no box."""
    stage = Stage(replace(ZONE, clear_after=40.0), tracking=tracking)
    stage.show(4, moving=True, sees=PERSON)
    stage.show(60, moving=False, sees=NOBODY)
    assert stage.events[-1] == ("zone", "CLEARED", 44.0)
    assert stage.boxes() == 0
    assert not stage.analysis.overlay(stage.pts).zones[0].active


def test_analysis_gate_forgives_a_picture_in_which_somebody_was_missed() -> None:
    """A detector that misses a person in the last picture before the gate closes does not clear the incident."""
    stage = Stage(ZONE)
    stage.show(4, moving=True, sees=PERSON)
    stage.show(2, moving=False, sees=PERSON)
    stage.show(1, moving=False, sees=NOBODY)  # the gate's last one: motion ended three seconds ago
    stage.show(60, moving=False, sees=PERSON)
    assert [event[1] for event in stage.events] == ["DETECTED", "CONFIRMED"]
    assert stage.boxes() == 1
    stage.show(1, moving=True, sees=NOBODY)  # and missed again in the first one after it
    stage.show(2, moving=True, sees=PERSON)
    assert [event[1] for event in stage.events] == ["DETECTED", "CONFIRMED"]


def test_analysis_closes_its_incidents_when_the_stream_ends() -> None:
    """The next life of the stream knows nothing of them: without an end they would be alarms for ever."""
    outbox, detector, stored = Outbox(), Script(), []
    outbox.broken, detector.sees = False, PERSON
    with analysing(outbox, detector) as (analysis, health):
        analysis._emit = stored.extend  # type: ignore[method-assign]
        for sequence in range(3):
            analysis.offer(Frame(BLACK, sequence, float(sequence), 100.0 + sequence, time.monotonic()))
            deadline = time.monotonic() + 5
            while not analysis.settled() and time.monotonic() < deadline:
                threading.Event().wait(0.005)
    assert [str(event.stage) for event in stored] == ["DETECTED", "CONFIRMED", "CLEARED"]
    assert len({event.details["incident_id"] for event in stored}) == 1
    assert 102.0 <= stored[-1].ts < 107.0
    assert (stored[-1].latency_ms, stored[-1].details["reason"]) == (0.0, "the stream has ended")
    assert health.snapshot()["events"] == 3


def test_analysis_that_ends_without_an_incident_says_nothing() -> None:
    """Nobody was inside; and before the first picture there is nothing to say either."""
    outbox, detector = Outbox(), Script()
    outbox.broken = False
    with analysing(outbox, detector) as (analysis, _):
        analysis.offer(Frame(BLACK, 0, 0.0, 0.0, time.monotonic()))
    with analysing(outbox, detector):
        pass
    assert outbox.calls == 0


@pytest.mark.parametrize("tracking", [True, False])
def test_analysis_forgets_where_everybody_stood_when_the_picture_has_another_size(tracking: bool) -> None:
    """Behind the closed gate nobody is looked for: boxes of the old size would stand elsewhere in the new picture."""
    right = ((0.5, 0.0), (1.0, 0.0), (1.0, 1.0), (0.5, 1.0))
    line = LineRuleSpec("line", (0.5, 0.0), (0.5, 1.0), "CROSSED")
    stage = Stage(replace(ZONE, polygon=right), line, tracking=tracking)
    stage.show(4, moving=True, sees=PERSON)
    stage.show(10, moving=False, sees=PERSON)
    half = BgrImage(np.zeros((18, 32, 3), np.uint8))
    stage.detector.sees = Detections(PERSON.xyxy / 2, PERSON.score, PERSON.class_id)
    for _ in range(10):
        stage.pts += 1.0
        stage.analysis._look_at(_Seen(Frame(half, int(stage.pts), stage.pts, stage.pts, time.monotonic())))
        stage.analysis._store()
        boxes = stage.analysis.overlay(stage.pts).boxes
        assert [box.xyxy for box in boxes] == [(5.0, 2.5, 10.0, 15.0)]
    assert stage.events == []


def test_analysis_boxes_end_when_the_model_does_not_answer() -> None:
    """While the model fails the pictures go on, and boxes that nobody confirms are not drawn for ever."""
    stage = Stage(ZONE)
    stage.show(1, moving=True, sees=PERSON)
    assert stage.boxes() == 1
    stage.detector.sees = ModelTimeout("stuck")
    for _ in range(3):
        stage.pts += 1.0
        stage.analysis._look_at(_Seen(Frame(WHITE, 0, stage.pts, 0.0, time.monotonic())))
    assert stage.boxes() == 0


class Outbox:
    """Accepts events unless it is ``broken``; lets a test wait for a call."""

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.broken = True
        self.calls = 0
        self.stored: list[str] = []

    def emit(self, events: Sequence[Event]) -> None:
        with self.changed:
            self.calls += 1
            self.changed.notify_all()
            if self.broken:
                raise OutboxError("the disk is full")
            self.stored += [event.event_id for event in events]

    def until(self, condition: Callable[[], Any]) -> None:
        with self.changed:
            assert self.changed.wait_for(condition, 5)


@contextmanager
def analysing(outbox: Outbox, detector: Script) -> Iterator[tuple[Analysis, StreamHealth]]:
    health = StreamHealth("x")
    spec = AnalyseSpec(DetectSpec("m"), rules=(ZONE,))
    analysis = Analysis("x", spec, detector, outbox.emit, health)
    analysis._STORE_AGAIN = 0.05
    analysis.start()
    try:
        yield analysis, health
    finally:
        analysis.close()
        assert analysis.join(5)


def test_analysis_stores_refused_events_as_soon_as_the_outbox_takes_them() -> None:
    """What the outbox refused is offered again although no frame comes any more, and the trouble is logged once.

    The third event is the end of the incident, with that of the analysis.
    """
    outbox, detector = Outbox(), Script()
    detector.sees = PERSON
    with capture_logs() as logs, analysing(outbox, detector) as (analysis, health):
        for sequence in range(5):
            calls = outbox.calls
            analysis.offer(Frame(BLACK, sequence, float(sequence), 0.0, time.monotonic()))
            outbox.until(lambda calls=calls: outbox.calls > calls)
        assert health.snapshot()["events"] == 0
        outbox.broken = False
        outbox.until(lambda: outbox.stored)
    assert (health.snapshot()["events"], len(outbox.stored), health.snapshot()["frames_dropped"]) == (3, 3, 0)
    assert [entry["event"] for entry in logs] == ["analysis impaired", "analysis works again"]


def test_analysis_offers_what_has_gathered_in_pieces() -> None:
    """A thousand events that waited for the disk are more than a small outbox takes in one call."""
    stage, offered = Stage(ZONE), []
    stage.analysis._unstored.extend(Event("X", EventStage.DETECTED, "x", "rule", float(n)) for n in range(1000))
    stage.analysis._emit = lambda events: offered.append([event.ts for event in events])  # type: ignore[method-assign]
    stage.analysis._store()
    assert [ts for piece in offered for ts in piece] == [float(n) for n in range(1000)]
    assert max(len(piece) for piece in offered) <= 200
    assert stage.analysis._health.snapshot()["events"] == 1000


def test_analysis_counts_events_that_are_lost() -> None:
    """Events beyond the bound are counted as events, not as frames."""
    stage = Stage(ZONE)
    stage.analysis._UNSTORED = 1
    stage.analysis._unstored = type(stage.analysis._unstored)(maxlen=1)

    def refuse(_: Sequence[Event]) -> None:
        raise OutboxError("full")

    stage.analysis._emit = refuse  # type: ignore[method-assign]
    stage.show(2, moving=True, sees=PERSON)
    report = stage.analysis._health.snapshot()
    assert (report["events_lost"], report["frames_dropped"]) == (1, 0)


def test_analysis_logs_a_stuck_model_once() -> None:
    """A model that hangs for long is one line in the log, not one for every frame."""
    let_go = threading.Event()

    def hang(batch: Any) -> dict[str, Any]:
        let_go.wait(20)
        return {"out": batch}

    class Stuck(Script):
        def detect(self, _: Frame, **__: float) -> tuple[Detections, dict[str, float]]:
            dispatcher.submit(np.zeros(1, np.float32))
            raise AssertionError("it hangs")

    stage = Stage(ZONE)
    stage.analysis._detector = Stuck()
    with Dispatcher("m", hang, timeout=0.1) as dispatcher, capture_logs() as logs:
        try:
            stage.show(1, moving=True, sees=NOBODY)  # waits for the time-out itself
            for _ in range(4):
                threading.Event().wait(0.1)
                stage.show(1, moving=True, sees=NOBODY)  # refused at once
        finally:
            let_go.set()
    assert stage.analysis._health.snapshot()["dropped_by"] == {"model": 5}
    assert len([entry for entry in logs if entry["event"] == "analysis impaired"]) == 2
