"""A camera that refuses the login of a stream that ran: cameras lock accounts that try again and again."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from sentinel_pipeline.application.pipeline.pipeline import Pipeline
from sentinel_pipeline.application.ports import FrameSink, FrameSource
from sentinel_pipeline.application.stream.health import StreamHealth
from sentinel_pipeline.application.stream.worker import REFUSED_LOGIN, StreamWorker
from sentinel_pipeline.domain.events import Event
from sentinel_pipeline.domain.streams import DecodeSpec, PublishSpec, ReconnectSpec, StreamSpec, StreamState
from sentinel_pipeline.infrastructure.video.sources import open_source
from sentinel_pipeline.lab.rtsp_relay import RtspRelay
from support.pictures import until
from support.streams import make_clip, publishing

pytestmark = pytest.mark.ffmpeg


def no_sink(_: PublishSpec) -> FrameSink:
    raise AssertionError("nothing is published")


def no_events(_: Sequence[Event]) -> None:
    raise AssertionError("nothing is analysed")


@pytest.mark.parametrize("status", REFUSED_LOGIN)
def test_a_refused_login_is_not_tried_again_at_once(status: int, tmp_path: Path) -> None:
    """A stream that ran and is then refused says FAILED, with the answer, and leaves the camera alone for a while,
    although every other loss is tried again within a tenth of a second."""
    clip = make_clip(tmp_path / "clip.mp4", size=(320, 180), fps=25, seconds=2, gop=10)
    with RtspRelay() as relay, publishing(relay.url("cam"), clip=clip):
        relay.wait_for_publisher("cam", 15)
        spec = StreamSpec(
            "cam",
            relay.url("cam"),
            decode=DecodeSpec(open_timeout=3.0, read_timeout=2.0),
            reconnect=ReconnectSpec(base_delay=0.1, max_delay=0.1),
        )
        tries: list[float] = []

        def open_one(_: StreamHealth) -> FrameSource:
            tries.append(time.monotonic())
            return open_source(spec.decode, spec.source)

        worker = StreamWorker(
            spec,
            open_source=open_one,
            make_pipeline=lambda spec, health: Pipeline(spec, None, no_sink, no_events, health),
        )
        worker.start()
        try:
            until(lambda: worker.health.state is StreamState.RUNNING, 15, "the first picture")
            relay.faults("cam").close_readers()
            until(lambda: worker.health.reconnects == 1, 15, "it is back at once after another loss")
            relay.faults("cam").refuse(status)
            relay.faults("cam").close_readers()
            until(lambda: worker.health.state is StreamState.FAILED, 15, "the refusal")
            refused = len(tries)
            assert str(status) in worker.health.snapshot()["reason"]
            relay.faults("cam").resume()
            with pytest.raises(AssertionError, match="another try"):
                until(lambda: len(tries) > refused, 2, "another try")
            assert worker.health.state is StreamState.FAILED
        finally:
            worker.stop()
            assert worker.join(time.monotonic() + 5)
