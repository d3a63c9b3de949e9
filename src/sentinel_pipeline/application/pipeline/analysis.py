"""From frames to events: sample, motion, infer, track, rules."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from threading import Thread

import numpy as np
import structlog

from sentinel_pipeline.application.pipeline.mailbox import Mailbox
from sentinel_pipeline.application.ports import Detector
from sentinel_pipeline.application.stream.health import StreamHealth
from sentinel_pipeline.domain.detections import Detections
from sentinel_pipeline.domain.errors import ModelError, OutboxError
from sentinel_pipeline.domain.events import Event
from sentinel_pipeline.domain.frame import Frame
from sentinel_pipeline.domain.overlay import Box, Overlay, Zone
from sentinel_pipeline.domain.redact import redact
from sentinel_pipeline.domain.rules import Finding, make_rule
from sentinel_pipeline.domain.sampling import MotionGate, Sampler, shrink
from sentinel_pipeline.domain.streams import AnalyseSpec, LineRuleSpec, RuleSpec
from sentinel_pipeline.domain.tracking import Track, Tracker

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class _Scene:
    """What the last analysed frame showed; ``alarmed``: ids of the tracks with an open incident."""

    tracks: tuple[Track, ...]
    zones: tuple[Zone, ...]
    alarmed: frozenset[int | None]


class Analysis:
    """Analyses one stream in a thread of its own; newest frame first, never a backlog.

    ``offer`` is called by the capture thread, ``overlay`` by the publishing thread.
    """

    _UNSTORED = 1000  # events kept in memory while the outbox refuses them

    def __init__(
        self,
        stream_id: str,
        spec: AnalyseSpec,
        detector: Detector,
        emit: Callable[[Sequence[Event]], None],
        health: StreamHealth,
    ) -> None:
        self._id, self._spec, self._detector, self._emit, self._health = stream_id, spec, detector, emit, health
        self._inbox: Mailbox[Frame] = Mailbox(1)
        self._sampler = Sampler(spec.fps)
        self._gate = MotionGate(spec.motion)
        self._tracker = Tracker(spec.track)
        self._rules = [make_rule(rule) for rule in spec.rules]
        self._zones = tuple(_zone(rule) for rule in spec.rules)
        self._wanted = np.array([_wanted(label, spec) for label in detector.labels], bool)
        self._still_s, self._gated_at = 0.0, None  # type: float, float | None
        self._unstored: deque[Event] = deque(maxlen=self._UNSTORED)
        self._scene: _Scene = _Scene((), self._zones, frozenset())
        self._complaint = ""
        self._thread = Thread(target=self._run, name=f"analyse:{stream_id}")

    def start(self) -> None:
        """Begin analysing."""
        self._thread.start()

    def offer(self, frame: Frame) -> None:
        """Take a frame when its turn has come; never blocks."""
        if self._sampler.wants(frame.pts):
            self._inbox.put(frame)

    def overlay(self, pts: float) -> Overlay:
        """Return what is known of the picture at stream time ``pts``; boxes move on between two analysed frames."""
        scene = self._scene
        boxes = (
            Box(track.at(pts - self._still_s), _caption(track), alarm=track.track_id in scene.alarmed)
            for track in scene.tracks
            if pts - self._still_s - track.seen <= self._spec.track.lost_after
        )
        return Overlay(tuple(boxes), scene.zones)

    def close(self) -> None:
        """Tell the thread to end; ``join`` waits for it."""
        self._inbox.close()

    def join(self, timeout: float) -> bool:
        """Return whether the thread has ended within ``timeout`` seconds."""
        if self._thread.ident is not None:
            self._thread.join(timeout)
        return not self._thread.is_alive()

    def _run(self) -> None:
        dropped = 0
        while (frame := self._inbox.get()) is not None:
            if self._inbox.dropped != dropped:
                self._health.drop("analysis_busy", self._inbox.dropped - dropped)
                dropped = self._inbox.dropped
            if time.monotonic() - frame.received_at > self._spec.max_age:
                self._health.drop("too_old")
                continue
            try:
                self._analyse(frame)
                self._complain("")
            except ModelError as exc:  # frames are skipped, never queued; the others go on
                self._health.drop("model")
                self._complain(str(exc))
            except Exception as exc:  # noqa: BLE001 - outermost loop of a thread: one frame must not end the analysis
                self._health.drop("internal_error")
                self._complain(f"internal error: {redact(repr(exc))}", traceback=True)

    def _analyse(self, frame: Frame) -> None:
        if self._gate.enabled and not self._gate.moved(shrink(frame.image.yuv420p()[0]), frame.pts):
            self._stand_still(frame.pts)
            return
        self._move_on(frame.pts)
        wait_ms = (time.monotonic() - frame.received_at) * 1000
        detect = self._spec.detect
        found, trace = self._detector.detect(frame, confidence=detect.confidence, iou=detect.iou)
        trace = {"decode": frame.decode_ms, **trace, "wait": trace.get("wait", 0.0) + wait_ms}
        tracks = self._track(found, frame.pts, trace)
        findings = self._judge(tracks, frame, trace)
        self._health.analysed.tick(time.monotonic())
        self._scene = self._describe(tracks)
        self._send([self._event(finding, frame, trace) for finding in findings])

    def _stand_still(self, pts: float) -> None:
        if self._gated_at is None:
            self._gated_at = pts

    def _move_on(self, pts: float) -> None:
        if self._gated_at is not None:
            self._still_s += pts - self._gated_at
            self._gated_at = None

    def _track(self, found: Detections, pts: float, trace: dict[str, float]) -> tuple[Track, ...]:
        started = time.perf_counter()
        keep = self._wanted[found.class_id]
        wanted = Detections(found.xyxy[keep], found.score[keep], found.class_id[keep])
        # The tracker's clock stands while nothing moves: who stands still behind the closed gate keeps the id.
        tracks = self._tracker.update(wanted, self._detector.labels, pts - self._still_s)
        trace["track"] = (time.perf_counter() - started) * 1000
        return tracks

    def _judge(self, tracks: tuple[Track, ...], frame: Frame, trace: dict[str, float]) -> list[Finding]:
        started = time.perf_counter()
        findings = [finding for rule in self._rules for finding in rule.step(tracks, frame.pts, frame.size)]
        trace["rule"] = (time.perf_counter() - started) * 1000
        return findings

    def _describe(self, tracks: tuple[Track, ...]) -> _Scene:
        active = [rule.active() for rule in self._rules]
        zones = tuple(
            Zone(zone.points, zone.name, active=bool(ids)) for zone, ids in zip(self._zones, active, strict=True)
        )
        return _Scene(tracks, zones, frozenset().union(*active))

    def _event(self, finding: Finding, frame: Frame, trace: dict[str, float]) -> Event:
        x1, y1, x2, y2 = finding.track.xyxy
        return Event(
            type=finding.event,
            stage=finding.stage,
            stream_id=self._id,
            module_name=finding.rule,
            ts=frame.captured_at,
            confidence=finding.track.confidence,
            latency_ms=(time.monotonic() - frame.received_at) * 1000,
            details={
                "incident_id": finding.incident_id,
                "label": finding.track.label,
                "track_id": finding.track.track_id,
                "bbox": [round(v, 1) for v in (x1, y1, x2 - x1, y2 - y1)],
                "frame_size": list(frame.size),
                "trace_ms": {name: round(value, 2) for name, value in trace.items()},
                **finding.details,
            },
        )

    def _send(self, events: list[Event]) -> None:
        """Store the events; what the outbox refuses is kept in order and offered again with the next frame."""
        if not events and not self._unstored:
            return
        overflow = len(self._unstored) + len(events) - self._UNSTORED
        if overflow > 0:
            self._health.drop("events_lost_outbox_failed", overflow)
        self._unstored.extend(events)
        try:
            self._emit(list(self._unstored))
        except OutboxError as exc:
            self._complain(str(exc))
            return
        self._health.events += len(self._unstored)
        self._unstored.clear()

    def _complain(self, why: str, *, traceback: bool = False) -> None:
        """Log a change of what is wrong, not every frame of it."""
        if why != self._complaint:
            self._complaint = why
            if why:
                log.warning("analysis", stream=self._id, problem=why, exc_info=traceback)
            else:
                log.info("analysis works again", stream=self._id)


def _wanted(label: str, spec: AnalyseSpec) -> bool:
    return not spec.detect.classes or label in spec.detect.classes


def _zone(rule: RuleSpec) -> Zone:
    points = (rule.start, rule.end) if isinstance(rule, LineRuleSpec) else rule.polygon
    return Zone(points, rule.name)


def _caption(track: Track) -> str:
    name = track.label if track.track_id is None else f"{track.label} {track.track_id}"
    return f"{name} {track.confidence:.0%}"
