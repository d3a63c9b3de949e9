"""Finds what has to be made unrecognisable; fails closed: what nobody has looked at is hidden as a whole."""

from __future__ import annotations

from zlib import crc32

import numpy as np
import structlog

from sentinel_pipeline.application.pipeline.mailbox import Mailbox
from sentinel_pipeline.application.pipeline.stage import Stage
from sentinel_pipeline.application.ports import Detector
from sentinel_pipeline.application.stream.health import StreamHealth
from sentinel_pipeline.domain.errors import ModelError
from sentinel_pipeline.domain.frame import Frame
from sentinel_pipeline.domain.overlay import Hidden
from sentinel_pipeline.domain.privacy import Looks, around
from sentinel_pipeline.domain.redact import redact
from sentinel_pipeline.domain.sampling import Sampler
from sentinel_pipeline.domain.streams import PrivacySpec, TrackSpec
from sentinel_pipeline.domain.tracking import Tracker

log = structlog.get_logger(__name__)


class Privacy(Stage):
    """Looks for the classes to hide, in a thread of its own, whatever the analysis does. Newest frame first.

    ``hidden`` is called by the publishing thread.
    """

    _HOLD = 1.0  # seconds for which an object that the model does not find again is still hidden

    def __init__(self, stream_id: str, spec: PrivacySpec, detector: Detector, health: StreamHealth) -> None:
        super().__init__(f"privacy:{stream_id}", Mailbox(1), health, "privacy_busy")
        self._id, self._spec, self._detector = stream_id, spec, detector
        if unknown := set(spec.classes) - set(detector.labels):
            raise ValueError(f"nobody could find {', '.join(sorted(unknown))}: the model has no such class")
        self._wanted = np.array([label in spec.classes for label in detector.labels], bool)
        self._sampler = Sampler(spec.fps, phase=crc32(stream_id.encode()) / 2**32)
        self._tracker = Tracker(TrackSpec(lost_after=self._HOLD))
        # Pictures come in steps of their own, so that two looks may lie up to half an interval further apart.
        self._looks = Looks(longest=1.5 / spec.fps + 0.01, kept=4 * spec.delay)
        self._failure = ""

    def offer(self, frame: Frame) -> None:
        """Take a frame when its turn has come; never blocks."""
        if self._sampler.wants(frame.pts):
            self._inbox.put(frame)

    def hidden(self, frame: Frame) -> Hidden:
        """Return what to hide in ``frame``: everything, unless it is known to lie elsewhere."""
        regions = self._looks.regions(frame.pts, frame.size)
        return Hidden(self._spec.method, regions or (), everything=regions is None)

    def _run(self) -> None:
        while not self._inbox.closed:
            frame = self._inbox.get()
            self._count_drops()
            if frame is not None:
                self._look_at(frame)

    def _look_at(self, frame: Frame) -> None:
        try:
            self._find(frame)
            self._say("")
        except ModelError as exc:  # also ``ModelBusy``: no look, so that the pictures around it are hidden as a whole
            self._health.drop("privacy")
            self._say(str(exc))
        except Exception as exc:  # noqa: BLE001 - outermost loop of a thread: one frame must not end the looking
            self._health.drop("privacy")
            self._say(f"internal error: {redact(repr(exc))}", traceback=True)

    def _find(self, frame: Frame) -> None:
        spec = self._spec
        expires_at = frame.received_at + spec.max_age
        found, _ = self._detector.detect(frame, confidence=spec.confidence, iou=spec.iou, expires_at=expires_at)
        self._tracker.update(found.of(self._wanted), self._detector.labels, frame.pts)
        # Who is not found again may have gone on or may have stopped.
        boxes = {
            track.track_id: around(track.xyxy, track.at(frame.pts))
            for track in self._tracker.present(self._HOLD)
            if track.track_id is not None
        }
        self._looks.add(frame.pts, frame.size, boxes)

    def _say(self, why: str, *, traceback: bool = False) -> None:
        """Log a change of what is wrong, not every frame of it."""
        if why == self._failure:
            return
        self._failure = why
        if why:
            log.warning("the whole picture is hidden", stream=self._id, problem=why, exc_info=traceback)
        else:
            log.info("only what is private is hidden again", stream=self._id)
