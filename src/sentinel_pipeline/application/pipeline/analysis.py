"""From frames to events: sample, motion, infer, track, rules."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from zlib import crc32

import numpy as np
import structlog

from sentinel_pipeline.application.pipeline.mailbox import Mailbox
from sentinel_pipeline.application.pipeline.stage import Stage
from sentinel_pipeline.application.ports import Detector
from sentinel_pipeline.application.stream.health import StreamHealth
from sentinel_pipeline.domain.detections import Detections
from sentinel_pipeline.domain.errors import ModelBusy, ModelError, OutboxError
from sentinel_pipeline.domain.events import Event
from sentinel_pipeline.domain.frame import Frame, Pixels
from sentinel_pipeline.domain.incidents import STREAM_ENDED
from sentinel_pipeline.domain.overlay import Box, Overlay, Trail, Zone
from sentinel_pipeline.domain.redact import redact
from sentinel_pipeline.domain.rules import Finding, make_rule
from sentinel_pipeline.domain.sampling import Idleness, MotionGate, Sampler, SceneClock
from sentinel_pipeline.domain.streams import AnalyseSpec, LineRuleSpec, RuleSpec
from sentinel_pipeline.domain.tracking import Track, Tracker

log = structlog.get_logger(__name__)

_GATE_WIDTH = 160  # pixels of the small picture in which motion is looked for


@dataclass(frozen=True, slots=True)
class _Scene:
    """What an analysed frame showed. ``at``: its scene time. ``alarmed``: ids of the tracks with an open incident."""

    at: float
    tracks: tuple[Track, ...]
    zones: tuple[Zone, ...]
    alarmed: frozenset[int | None]


class _Seen:
    """A frame under analysis, whose picture is in memory only until the model has it; the rest is needed longer."""

    def __init__(self, frame: Frame) -> None:
        self._frame: Frame | None = frame
        self.pts, self.captured_at, self.received_at = frame.pts, frame.captured_at, frame.received_at
        self.size, self.decode_ms = frame.size, frame.decode_ms

    def take(self) -> Frame:
        """Return the frame and forget it; once only."""
        frame, self._frame = self._frame, None
        if frame is None:
            raise RuntimeError("this frame has been taken already")
        return frame

    def small(self) -> Pixels:
        """Return its luma plane, made small for the motion gate."""
        if self._frame is None:
            raise RuntimeError("this frame has been taken already")
        return self._frame.image.luma(_GATE_WIDTH)

    def let_go(self) -> None:
        """Forget the picture, if it is still there; what was true of it is kept."""
        self._frame = None


class Analysis(Stage):
    """Analyses one stream in a thread of its own; newest frame first, never a backlog.

    ``overlay`` is called by the publishing thread.
    """

    _UNSTORED = 1000  # events kept in memory while the outbox refuses them
    _AT_ONCE = 200  # of them offered in one call, so that also a small outbox has room for it
    _STORE_AGAIN = 1.0  # seconds, also when no frame comes
    _REMEMBERED = 2.0  # seconds of what was seen: for trails, and for pictures that are published late

    def __init__(
        self,
        stream_id: str,
        spec: AnalyseSpec,
        detector: Detector,
        emit: Callable[[Sequence[Event]], None],
        health: StreamHealth,
        *,
        may_idle: bool = False,
    ) -> None:
        super().__init__(f"analyse:{stream_id}", Mailbox(1), health, "analysis_busy")
        self._id, self._spec, self._detector, self._emit = stream_id, spec, detector, emit
        self._sampler = Sampler(spec.fps, phase=crc32(stream_id.encode()) / 2**32)
        self._gate = MotionGate(spec.motion)
        self._idleness = Idleness(spec.motion.hold, enabled=may_idle)
        self._tracker = Tracker(spec.track)
        self._rules = [make_rule(rule) for rule in spec.rules]
        self._zones = tuple(_zone(rule) for rule in spec.rules)
        self._wanted = np.array([_wanted(label, spec) for label in detector.labels], bool)
        self._clock = SceneClock()  # the tracker's: who stands still behind the closed gate keeps the id
        self._still: tuple[Track, ...] = ()  # who stands there while the gate is closed
        self._unstored: deque[Event] = deque(maxlen=self._UNSTORED)
        # The last two seconds, by time: replaced as a whole, never empty.
        self._scenes: tuple[_Scene, ...] = (self._nothing(),)
        self._last: _Seen | None = None  # whose picture is not kept
        self._complaints: dict[str, str] = {}
        self._offered = self._finished = 0

    def offer(self, frame: Frame) -> None:
        """Take a frame when its turn has come; never blocks."""
        if self._sampler.wants(frame.pts):
            self._offered += 1
            self._inbox.put(frame)

    def settled(self) -> bool:
        """Return whether every frame offered so far has been dealt with, and its events are stored."""
        return self._finished + self._inbox.dropped >= self._offered and not self._unstored

    def overlay(self, pts: float, *, trails: bool = False) -> Overlay:
        """Return what is known of the picture at stream time ``pts``; boxes move on between two analysed frames.

        trails: also where each object has been in the last two seconds.
        """
        scenes, now = self._scenes, self._clock.at(pts)
        scene = next((scene for scene in reversed(scenes) if scene.at <= now), scenes[0])
        tracks = [track for track in scene.tracks if now - track.seen <= self._spec.track.lost_after]
        boxes = tuple(Box(t.at(now), _caption(t), alarm=t.track_id in scene.alarmed) for t in tracks)
        walked: tuple[Trail, ...] = ()
        if trails:
            past = [earlier for earlier in scenes if earlier.at <= scene.at]
            walked = tuple(_trail(t, past, now) for t in tracks if t.track_id is not None)
        return Overlay(boxes, scene.zones, trails=walked)

    def _run(self) -> None:
        while not self._inbox.closed:
            frame = self._next()
            self._count_drops()
            if frame is not None:
                self._look_at(frame)
            self._store()
            self._finished += frame is not None
        self._end_incidents()
        if self._unstored:
            log.error("events lost: the outbox has not taken them", stream=self._id, events=len(self._unstored))

    def _next(self) -> _Seen | None:
        frame = self._inbox.get(self._STORE_AGAIN if self._unstored else None)
        return None if frame is None else _Seen(frame)

    def _look_at(self, frame: _Seen) -> None:
        if time.monotonic() - frame.received_at > self._spec.max_age:
            self._health.drop("too_old")
            return
        try:
            self._analyse(frame)
            self._complain("model", "")
        except ModelBusy:
            self._health.drop("too_old")
        except ModelError as exc:  # frames are skipped, never queued; the others go on
            self._health.drop("model")
            self._complain("model", str(exc))
        except Exception as exc:  # noqa: BLE001 - outermost loop of a thread: one frame must not end the analysis
            self._health.drop("internal_error")
            self._complain("model", f"internal error: {redact(repr(exc))}", traceback=True)

    def _analyse(self, frame: _Seen) -> None:
        if self._last is not None and self._last.size != frame.size:
            self._begin_anew()
        open_gate = not self._gate.enabled or self._gate.moved(frame.small(), frame.pts)
        # Before the model runs: the pictures that follow the one in which motion was seen are being kept for this.
        self._health.idle = self._idleness.after(frame.pts, open_gate=open_gate)
        if not open_gate:
            self._stand_still(frame)
            return
        self._clock.start(frame.pts)
        wait_ms = (time.monotonic() - frame.received_at) * 1000
        detect = self._spec.detect
        expires_at = frame.received_at + self._spec.max_age
        # No variable of ours holds the frame now: it leaves the memory as soon as the model has its tensor.
        found, trace = self._detector.detect(
            frame.take(), confidence=detect.confidence, iou=detect.iou, expires_at=expires_at
        )
        trace = {"decode": frame.decode_ms, **trace, "wait": trace.get("wait", 0.0) + wait_ms}
        tracks = self._track(found, frame.pts, trace)
        self._health.analysed.tick(time.monotonic())
        self._conclude(tracks, frame, trace)

    def _begin_anew(self) -> None:
        """Forget where everybody stands: the camera counts its pixels anew."""
        self._gate.reset()
        self._tracker.forget()
        self._still = ()
        self._scenes = (self._nothing(),)

    def _stand_still(self, frame: _Seen) -> None:
        """Go on with the rules while nothing moves: who was there is still there, and who had left stays away."""
        if self._clock.stop(frame.pts):
            # An object that left has kept the gate open for ``hold`` seconds after that, so that one unseen for less
            # is there and was only missed. Longer than ``lost_after`` nobody is believed in.
            self._still = self._tracker.present(min(self._spec.motion.hold, self._spec.track.lost_after))
        self._conclude(self._still, frame, {"decode": frame.decode_ms})

    def _conclude(self, tracks: tuple[Track, ...], frame: _Seen, trace: dict[str, float]) -> None:
        findings = self._judge(tracks, frame, trace)
        scene = self._describe(tracks, self._clock.at(frame.pts))
        self._scenes = (*(s for s in self._scenes if s.at >= scene.at - self._REMEMBERED), scene)
        self._keep([self._event(finding, frame, trace) for finding in findings])
        frame.let_go()
        self._last = frame

    def _end_incidents(self) -> None:
        """Clear what is open, now, in the camera's time: the rules of the stream's next life know nothing of it."""
        last = self._last
        if last is None:
            return
        now = last.captured_at + time.monotonic() - last.received_at
        for finding in (finding for rule in self._rules for finding in rule.end()):
            told = replace(finding, details={**finding.details, "reason": STREAM_ENDED})
            self._keep([replace(self._event(told, last, {}), ts=now, latency_ms=0.0)])
        self._store()

    def _nothing(self) -> _Scene:
        return _Scene(float("-inf"), (), self._zones, frozenset())

    def _track(self, found: Detections, pts: float, trace: dict[str, float]) -> tuple[Track, ...]:
        started = time.perf_counter()
        tracks = self._tracker.update(found.of(self._wanted), self._detector.labels, self._clock.at(pts))
        trace["track"] = (time.perf_counter() - started) * 1000
        return tracks

    def _judge(self, tracks: tuple[Track, ...], frame: _Seen, trace: dict[str, float]) -> list[Finding]:
        started = time.perf_counter()
        findings = [finding for rule in self._rules for finding in rule.step(tracks, frame.pts, frame.size)]
        trace["rule"] = (time.perf_counter() - started) * 1000
        return findings

    def _describe(self, tracks: tuple[Track, ...], at: float) -> _Scene:
        active = [rule.active() for rule in self._rules]
        zones = tuple(
            Zone(zone.points, zone.name, active=bool(ids)) for zone, ids in zip(self._zones, active, strict=True)
        )
        return _Scene(at, tracks, zones, frozenset().union(*active))

    def _event(self, finding: Finding, frame: _Seen, trace: dict[str, float]) -> Event:
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

    def _keep(self, events: list[Event]) -> None:
        """Take events to be stored in order; the oldest are lost when there are too many."""
        self._health.events_lost += max(0, len(self._unstored) + len(events) - self._UNSTORED)
        self._unstored.extend(events)

    def _store(self) -> None:
        """Store the events; what the outbox refuses is kept and offered again."""
        if not self._unstored:
            return
        try:
            while self._unstored:
                some = list(islice(self._unstored, self._AT_ONCE))
                self._emit(some)
                self._health.events += len(some)
                for _ in some:
                    self._unstored.popleft()
        except OutboxError as exc:
            self._complain("outbox", str(exc))
        except Exception as exc:  # noqa: BLE001 - outermost loop of a thread: as above
            self._complain("outbox", f"internal error: {redact(repr(exc))}", traceback=True)
        else:
            self._complain("outbox", "")

    def _complain(self, about: str, why: str, *, traceback: bool = False) -> None:
        """Log a change of what is wrong, not every frame of it."""
        if why == self._complaints.get(about, ""):
            return
        self._complaints[about] = why
        if why:
            log.warning("analysis impaired", stream=self._id, by=about, problem=why, exc_info=traceback)
        else:
            log.info("analysis works again", stream=self._id, impaired_by=about)


def _wanted(label: str, spec: AnalyseSpec) -> bool:
    return not spec.detect.classes or label in spec.detect.classes


def _zone(rule: RuleSpec) -> Zone:
    points = (rule.start, rule.end) if isinstance(rule, LineRuleSpec) else rule.polygon
    return Zone(points, rule.name)


def _trail(track: Track, scenes: Sequence[_Scene], now: float) -> Trail:
    """Return where ``track`` has stood in ``scenes``, and where it stands now."""
    past = (t.xyxy for scene in scenes for t in scene.tracks if t.track_id == track.track_id)
    boxes = (*past, track.at(now))
    points = tuple(((x1 + x2) / 2, y2) for x1, _, x2, y2 in boxes)
    return Trail(points, _caption(track), alarm=track.track_id in scenes[-1].alarmed)


def _caption(track: Track) -> str:
    name = track.label if track.track_id is None else f"{track.label} {track.track_id}"
    return f"{name} {track.confidence:.0%}"
