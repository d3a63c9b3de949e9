"""Our publishers publish to servers that are not ours: GStreamer's RTSP server and nginx with its RTMP module."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from sentinel_pipeline.domain.frame import Frame, Pixels
from sentinel_pipeline.domain.overlay import Box, Overlay
from sentinel_pipeline.domain.streams import PublishSpec
from sentinel_pipeline.infrastructure.video.encoded_sink import EncodedSink
from sentinel_pipeline.infrastructure.video.ffmpeg_publisher import FFmpegPublisher
from sentinel_pipeline.infrastructure.video.images import BgrImage
from support.peers import Recording, ffmpeg_counts_frames, ffprobe, gstreamer_recorder, nginx_rtmp
from support.program import wait_until

FPS = 25
SIZE = (320, 240)
BOX = (80.0, 60.0, 200.0, 180.0)
QUICK = ("-probesize", "200000", "-analyzeduration", "1000000")


def grey() -> Pixels:
    return np.full((SIZE[1], SIZE[0], 3), 128, np.uint8)


@contextmanager
def at_constant_rate(write: Callable[[int], Any]) -> Iterator[None]:
    """Call ``write`` with 0, 1, 2 … at ``FPS`` from a thread, as the pipeline does, while the block runs."""
    done = threading.Event()
    began = time.monotonic()

    def run() -> None:
        slot = 0
        while not done.wait(max(0.0, began + slot / FPS - time.monotonic())):
            write(slot)
            slot += 1

    thread = threading.Thread(target=run, name="pictures")
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


@contextmanager
def encoded(url: str) -> Iterator[EncodedSink]:
    """Encode in this process and publish through a copying child: what the pipeline does."""
    overlay = Overlay(boxes=(Box(BOX, "person", alarm=True),))
    spec = PublishSpec(url=url, fps=FPS, bitrate=1_000_000)
    with closing(EncodedSink(spec, "gate", str(shutil.which("ffmpeg")))) as sink:

        def write(slot: int) -> None:
            frame = Frame(BgrImage(grey()), slot, slot / FPS, time.time(), time.monotonic())
            sink.write(frame, overlay, slot)

        with at_constant_rate(write):
            yield sink


@contextmanager
def raw(url: str) -> Iterator[FFmpegPublisher]:
    """Let ffmpeg encode raw pictures: the publisher of the user's document."""
    publisher = FFmpegPublisher("gate", url, *SIZE, fps=FPS, bitrate="1M", log_stderr=True)
    with ExitStack() as stack:
        stack.callback(publisher.stop)
        publisher.start()
        stack.enter_context(at_constant_rate(lambda _: publisher.write_frame(grey())))
        yield publisher


PUBLISHERS = pytest.mark.parametrize("publishing", [encoded, raw])


@pytest.mark.gstreamer
@PUBLISHERS
def test_gstreamer_receives_every_picture_at_the_right_rate(publishing: Callable[[str], Any], tmp_path: Path) -> None:
    """GStreamer's server accepts the stream, and counts the pictures, key frames and seconds that were published."""
    kept = tmp_path / "arrived.h264"
    with gstreamer_recorder(kept) as (url, recorder):
        with publishing(url) as publisher:
            began: Recording = recorder.wait_for_frames(FPS)  # what has waited for the connection comes in one burst
            seen: Recording = recorder.wait_for_frames(3 * FPS)
            assert publisher.report().state == "running"
        last = recorder.wait_for_end()
    assert (seen.width, seen.height) == SIZE
    assert 2 <= last.keyframes <= last.frames / FPS + 1, "a key frame every two seconds"
    assert (seen.frames - began.frames) / (seen.seconds - began.seconds) == pytest.approx(FPS, rel=0.15)
    with av.open(str(kept)) as file:
        assert sum(1 for _ in file.decode(video=0)) == last.frames


@pytest.mark.gstreamer
def test_the_box_is_on_the_picture_that_gstreamer_received(tmp_path: Path) -> None:
    """In a picture decoded from what arrived, the outline of the box stands out and the rest is as grey as it was."""
    kept = tmp_path / "arrived.h264"
    with gstreamer_recorder(kept) as (url, recorder), encoded(url):
        recorder.wait_for_frames(FPS)
    with av.open(str(kept)) as file:
        picture = next(file.decode(video=0)).to_ndarray(format="bgr24").astype(int)
    strange = np.abs(picture - 128).max(axis=2) > 40
    x1, y1, x2, y2 = (int(value) for value in BOX)
    assert strange[y1 + 40 : y2 - 10, x1 - 3 : x1 + 4].any(axis=1).mean() > 0.9, "the left edge"
    assert strange[y2 - 3 : y2 + 4, x1 + 10 : x2 - 10].any(axis=0).mean() > 0.9, "the lower edge"
    assert not strange[y1 + 40 : y2 - 10, x1 + 10 : x2 - 10].any(), "the inside"
    assert not strange[y2 + 10 :].any(), "below"


@pytest.mark.nginx
@pytest.mark.ffprobe
@PUBLISHERS
def test_nginx_relays_the_stream_with_the_right_size_and_rate(publishing: Callable[[str], Any]) -> None:
    """What is published to nginx over RTMP can be probed and decoded from it: H.264, size, rate, no B-frames."""
    with nginx_rtmp() as url, publishing(url):
        assert ffmpeg_counts_frames(url, FPS, *QUICK) == FPS
        found = ffprobe(url, *QUICK)
    assert (found["codec_name"], (found["width"], found["height"])) == ("h264", SIZE)
    assert (found["r_frame_rate"], found["has_b_frames"]) == (f"{FPS}/1", 0)


@pytest.mark.nginx
@PUBLISHERS
def test_a_server_that_dies_is_reported_and_does_not_hold_up_the_end(publishing: Callable[[str], Any]) -> None:
    """When nginx dies the publisher says that it tries again, and stopping it then still takes less than 5 s."""
    with ExitStack() as stack:
        server = stack.enter_context(ExitStack())
        publisher = stack.enter_context(publishing(server.enter_context(nginx_rtmp())))
        wait_until(lambda: publisher.report().state == "running", 15.0, "the stream is published")
        server.close()
        wait_until(lambda: publisher.report().state == "retrying", 15.0, "the loss is noticed")
        assert publisher.report().reason
        stopping = time.monotonic()
    assert time.monotonic() - stopping < 5.0
