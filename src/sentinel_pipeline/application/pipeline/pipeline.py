"""The flow of one stream on one screen.

camera ──► capture ──┬──► analysis: sample → motion → infer → track → rules ──► events
                     │          │ latest overlay
                     ├──► privacy: what to hide ──┐
                     └──► publishing: hide → draw → encode → outputs

Capture, analysis and publishing run in threads of their own and never wait for each other.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime

from sentinel_pipeline.application.event.stream_events import StreamEvents
from sentinel_pipeline.application.pipeline.analysis import Analysis
from sentinel_pipeline.application.pipeline.privacy import Privacy
from sentinel_pipeline.application.pipeline.publishing import Publishing
from sentinel_pipeline.application.ports import Audience, Detector, FrameSink
from sentinel_pipeline.application.stream.health import StreamHealth
from sentinel_pipeline.application.stream.watch import StreamWatch
from sentinel_pipeline.domain.errors import CommandRefused
from sentinel_pipeline.domain.events import Event
from sentinel_pipeline.domain.frame import Frame
from sentinel_pipeline.domain.overlay import Overlay
from sentinel_pipeline.domain.streams import PublishSpec, StreamSpec


class Pipeline:
    """What happens to the frames of one stream. ``accept`` is called by the capture thread and never blocks.

    keep_newest: keep the newest picture in memory, so that ``newest_frame`` has it.
    private: finds what ``spec.privacy`` hides.
    """

    def __init__(
        self,
        spec: StreamSpec,
        detector: Detector | None,
        open_sink: Callable[[PublishSpec], FrameSink],
        emit: Callable[[Sequence[Event]], None],
        health: StreamHealth,
        events: StreamEvents | None = None,
        audience: Callable[[], Audience] | None = None,
        *,
        keep_newest: bool = False,
        private: Detector | None = None,
    ) -> None:
        if (spec.privacy is None) is not (private is None):
            raise ValueError("a stream with private classes needs a detector for them, and no other does")
        self._spec, self._health = spec, health
        keep_newest = keep_newest and private is None
        self._watch = StreamWatch(events, self._settled, keep_newest=keep_newest)
        health.on_loss = self._watch.lost
        self._analysis: Analysis | None = None
        if spec.analyse is not None and detector is not None:
            may_idle = spec.decode.skip == "idle"
            self._analysis = Analysis(spec.id, spec.analyse, detector, emit, health, may_idle=may_idle)
        self._privacy: Privacy | None = None
        if spec.privacy is not None and private is not None and spec.publish is not None:
            self._privacy = Privacy(spec.id, spec.privacy, private, health)
        self._publishing: Publishing | None = None
        if spec.publish is not None:
            size, delay = spec.decode.buffer_size, spec.privacy.delay if spec.privacy else 0.0
            self._publishing = Publishing(
                spec.id, spec.publish, size, open_sink, self._overlay, health, audience, delay=delay
            )
        self._stages = [stage for stage in (self._analysis, self._privacy, self._publishing) if stage is not None]

    @property
    def newest_frame(self) -> Frame | None:
        """The newest frame, which may be old when the camera is away; None where it is not kept; from any thread.

        Raises ``CommandRefused`` where pictures are private: nobody has looked at the newest one yet.
        """
        if self._spec.privacy is not None:
            raise CommandRefused(f"the pictures of {self._spec.id} are private", remedy="watch what it publishes")
        return self._watch.newest

    def start(self) -> None:
        """Start the stages."""
        for stage in self._stages:
            stage.start()

    def accept(self, frame: Frame) -> None:
        """Hand a decoded frame to the stages."""
        self._health.decoded.tick(time.monotonic())
        self._watch.frame(frame)
        for stage in self._stages:
            stage.offer(frame)

    def close(self) -> None:
        """Tell the stages to end."""
        for stage in self._stages:
            stage.close()

    def join(self, deadline: float) -> bool:
        """Wait for the stages until monotonic time ``deadline``; return whether all have ended."""
        ended = [stage.join(max(0.0, deadline - time.monotonic())) for stage in self._stages]
        return all(ended)

    def _settled(self) -> bool:
        return self._analysis is None or self._analysis.settled()

    def _overlay(self, frame: Frame) -> Overlay:
        """Return what is hidden and drawn in ``frame``."""
        publish, overlay = self._spec.publish, Overlay()
        if publish is not None and publish.overlay:
            if self._analysis is not None:
                overlay = self._analysis.overlay(frame.pts, trails=publish.tracks)
            if publish.time:
                overlay = replace(overlay, time=_local_time(frame.captured_at))
        return overlay if self._privacy is None else replace(overlay, hidden=self._privacy.hidden(frame))


def _local_time(unix: float) -> str:
    return datetime.fromtimestamp(unix).astimezone().strftime("%Y-%m-%d %H:%M:%S")
