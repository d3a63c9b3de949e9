"""The flow of one stream on one screen.

camera ──► capture ──┬──► analysis: sample → motion → infer → track → rules ──► events
                     │          │ latest overlay
                     └──► publishing: draw → encode → outputs

Capture, analysis and publishing run in threads of their own and never wait for each other.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from sentinel_pipeline.application.event.stream_events import StreamEvents
from sentinel_pipeline.application.pipeline.analysis import Analysis
from sentinel_pipeline.application.pipeline.publishing import Publishing
from sentinel_pipeline.application.ports import Audience, Detector, FrameSink
from sentinel_pipeline.application.stream.health import StreamHealth
from sentinel_pipeline.application.stream.watch import StreamWatch
from sentinel_pipeline.domain.events import Event
from sentinel_pipeline.domain.frame import Frame
from sentinel_pipeline.domain.overlay import Overlay
from sentinel_pipeline.domain.streams import PublishSpec, StreamSpec


class Pipeline:
    """What happens to the frames of one stream. ``accept`` is called by the capture thread and never blocks."""

    def __init__(
        self,
        spec: StreamSpec,
        detector: Detector | None,
        open_sink: Callable[[PublishSpec], FrameSink],
        emit: Callable[[Sequence[Event]], None],
        health: StreamHealth,
        events: StreamEvents | None = None,
        audience: Callable[[], Audience] | None = None,
    ) -> None:
        self._health = health
        self._watch = StreamWatch(events, self._settled)
        health.on_loss = self._watch.lost
        self._analysis: Analysis | None = None
        if spec.analyse is not None and detector is not None:
            may_idle = spec.decode.skip == "idle"
            self._analysis = Analysis(spec.id, spec.analyse, detector, emit, health, may_idle=may_idle)
        self._publishing: Publishing | None = None
        if spec.publish is not None:
            size = spec.decode.buffer_size
            self._publishing = Publishing(spec.id, spec.publish, size, open_sink, self._overlay, health, audience)
        self._stages = [stage for stage in (self._analysis, self._publishing) if stage is not None]

    @property
    def newest_frame(self) -> Frame | None:
        """The newest frame, which may be old when the camera is away; from any thread."""
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

    def _overlay(self, pts: float) -> Overlay:
        return self._analysis.overlay(pts) if self._analysis is not None else Overlay()
