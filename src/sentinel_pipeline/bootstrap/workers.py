"""From the configuration of a stream to the worker that runs it."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from sentinel_pipeline.application.event.system_events import SystemEvents
from sentinel_pipeline.application.pipeline.pipeline import Pipeline
from sentinel_pipeline.application.ports import FrameSink, FrameSource
from sentinel_pipeline.application.stream.health import StreamHealth
from sentinel_pipeline.application.stream.worker import StreamWorker
from sentinel_pipeline.domain.streams import PublishSpec, StreamSpec
from sentinel_pipeline.domain.timeline import Timeline
from sentinel_pipeline.infrastructure.inference.detector import ModelDetector
from sentinel_pipeline.infrastructure.transport.audience import AudienceWatch
from sentinel_pipeline.infrastructure.video.encoded_sink import EncodedSink
from sentinel_pipeline.infrastructure.video.sources import open_source


def worker_factory(
    detectors: Mapping[str, ModelDetector],
    events: SystemEvents,
    audiences: AudienceWatch,
    ffmpeg: str,
    snapshots: bool,
) -> Callable[[StreamSpec], StreamWorker]:
    """Return what makes the worker of a stream. ``snapshots``: somebody may ask for its newest picture."""

    def pipeline(spec: StreamSpec, health: StreamHealth) -> Pipeline:
        def sink(publish: PublishSpec) -> FrameSink:
            encoded = EncodedSink(publish, spec.id, ffmpeg)
            encoded.start()
            return encoded

        detector = detectors[spec.analyse.detect.model] if spec.analyse else None
        private = detectors[spec.privacy.model] if spec.privacy else None
        own = events.stream(spec.id)
        audience = audiences.follow(spec.publish.watch) if spec.publish and spec.publish.watch else None
        return Pipeline(spec, detector, sink, own.emit, health, own, audience, keep_newest=snapshots, private=private)

    def worker(spec: StreamSpec) -> StreamWorker:
        timeline = Timeline()  # stream time goes on across the connections of a stream

        def source(health: StreamHealth) -> FrameSource:
            return open_source(
                spec.decode,
                spec.source,
                timeline=timeline,
                idle=lambda: health.idle,
                on_packet=health.received.tick,
                ffmpeg=ffmpeg,
                prompt=spec.publish is not None,
            )

        return StreamWorker(spec, open_source=source, make_pipeline=pipeline)

    return worker
