"""What is published is right: size, rate, timestamps and pixels, as seen by independent programs."""

from __future__ import annotations

import gc
import json
import time
import weakref
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from sentinel_pipeline.domain.errors import ConfigError
from sentinel_pipeline.domain.overlay import Box, Hidden, Overlay
from sentinel_pipeline.domain.streams import PublishSpec
from sentinel_pipeline.infrastructure.video.canvas import planes_of
from sentinel_pipeline.infrastructure.video.drawing import ALARM, PAPER
from sentinel_pipeline.infrastructure.video.encoded_sink import EncodedSink
from sentinel_pipeline.lab.rtsp_relay import RtspRelay
from support.peers import free_port, gstreamer_recorder, nginx_rtmp
from support.pictures import drive, drive_command, frame

pytestmark = pytest.mark.ffmpeg
NOTHING = Overlay()
ALARMED = Overlay(boxes=(Box((100, 120, 300, 240), "person 87 %", alarm=True),))


def _published(sink: EncodedSink, pictures: int) -> bool:
    return sink.report().published >= pictures


def _decode(path: Path) -> list[Any]:
    with av.open(str(path)) as container:
        return [planes_of(picture) for picture in container.decode(video=0)]


@pytest.mark.ffprobe
@pytest.mark.parametrize("fps", [25.0, 29.97])
def test_rtsp_output_has_the_size_the_rate_and_exact_timestamps(fps: float) -> None:
    """An independent player of the published stream sees the size, and pictures exactly 1/fps apart."""
    with RtspRelay() as relay:
        sink = EncodedSink(PublishSpec(relay.url("gate"), fps=fps), "gate", "ffmpeg")
        try:
            drive(lambda slot: sink.write(frame(640, 360), NOTHING, slot), lambda: _published(sink, 10), fps=fps)
            ask = ["ffprobe", "-v", "error", "-rtsp_transport", "tcp", "-select_streams", "v", "-of", "json"]
            ask += [
                "-read_intervals",
                "%+#40",
                "-show_entries",
                "stream=width,height:packet=pts_time",
                relay.url("gate"),
            ]
            later = drive_command(lambda slot: sink.write(frame(640, 360), NOTHING, 1000 + slot), ask, fps=fps)
        finally:
            sink.close()
    told = json.loads(later)
    assert (told["streams"][0]["width"], told["streams"][0]["height"]) == (640, 360)
    times = [float(packet["pts_time"]) for packet in told["packets"] if "pts_time" in packet]
    assert len(times) >= 30
    gaps = [after - before for before, after in pairwise(times[1:])]
    assert np.allclose(gaps, 1 / fps, atol=2e-5), gaps


def test_drawn_pixels_arrive(tmp_path: Path) -> None:
    """The alarm box is in the decoded stream, in its place and colour, from the first picture to the last."""
    path = tmp_path / "out.mkv"
    sink = EncodedSink(PublishSpec(str(path), bitrate=4_000_000), "gate", "ffmpeg")
    try:
        drive(lambda slot: sink.write(frame(640, 360), ALARMED, slot), lambda: _published(sink, 30), fps=100)
    finally:
        sink.close()
    pictures = _decode(path)
    assert len(pictures) >= 30
    for planes in pictures:
        assert abs(int(planes.y[180, 101]) - ALARM.y) < 25
        assert planes.v[90, 50] > 170
        assert abs(int(planes.y[180, 200]) - 90) < 12
        assert (planes.y[100:119, 100:180] > 180).sum() > 40, "the letters of the label"


def test_a_notice_alone_is_drawn(tmp_path: Path) -> None:
    """A dead camera is marked, also where nothing else is drawn."""
    path = tmp_path / "out.mkv"
    sink = EncodedSink(PublishSpec(str(path)), "gate", "ffmpeg")
    overlay = Overlay(notice="NO SIGNAL")
    try:
        drive(lambda slot: sink.write(frame(640, 360), overlay, slot), lambda: _published(sink, 10), fps=100)
    finally:
        sink.close()
    planes = _decode(path)[-1]
    assert planes.v.max() < 140, "no red anywhere"
    assert (planes.y[150:210] > PAPER.y - 20).sum() > 300


def test_what_is_hidden_is_hidden_in_the_output(tmp_path: Path) -> None:
    """The square in the middle of each picture is gone from what is published; the rest is as it was."""
    path = tmp_path / "out.mkv"
    sink = EncodedSink(PublishSpec(str(path)), "gate", "ffmpeg")
    overlay = Overlay(hidden=Hidden("fill", ((300.0, 160.0, 340.0, 200.0),)))
    try:
        drive(lambda slot: sink.write(frame(640, 360), overlay, slot), lambda: _published(sink, 10), fps=100)
    finally:
        sink.close()
    for planes in _decode(path):
        assert planes.y.max() < 120, "the bright square of the source has 200"
        assert abs(int(planes.y[180, 100]) - 90) < 12


def test_the_output_keeps_its_size_when_the_camera_changes(tmp_path: Path) -> None:
    """An odd size is rounded down; after a change of the camera's size the same output goes on, letterboxed."""
    path = tmp_path / "out.mkv"
    sink = EncodedSink(PublishSpec(str(path)), "gate", "ffmpeg")

    def write(slot: int) -> None:
        size = (641, 361) if slot < 15 else (320, 320)
        sink.write(frame(*size), NOTHING, slot)

    try:
        drive(write, lambda: _published(sink, 30), fps=100)
    finally:
        sink.close()
    pictures = _decode(path)
    assert {planes.size for planes in pictures} == {(640, 360)}
    assert abs(int(pictures[5].y[180, 20]) - 90) < 12
    assert pictures[-1].y[180, 20] < 26, "a black bar"
    assert abs(int(pictures[-1].y[100, 320]) - 90) < 12


def test_a_configured_size_is_kept(tmp_path: Path) -> None:
    """The size of the specification wins over the camera's."""
    path = tmp_path / "out.ts"
    sink = EncodedSink(PublishSpec(str(path), size=(480, 270)), "gate", "ffmpeg")
    try:
        drive(lambda slot: sink.write(frame(640, 360), NOTHING, slot), lambda: _published(sink, 10), fps=100)
    finally:
        sink.close()
    assert _decode(path)[0].size == (480, 270)


@pytest.mark.gstreamer
def test_gstreamers_server_takes_the_stream() -> None:
    """A server of another family accepts our RTSP publishing and finds whole pictures of the right size in it."""
    with gstreamer_recorder() as (url, server):
        sink = EncodedSink(PublishSpec(url), "gate", "ffmpeg")
        try:
            drive(lambda slot: sink.write(frame(640, 360), NOTHING, slot), lambda: server.recording.frames >= 60)
        finally:
            sink.close()
        recording = server.wait_for_end()
    assert (recording.width, recording.height) == (640, 360)
    assert recording.frames >= 60
    assert recording.keyframes >= 2


def test_the_bundled_ffmpeg_publishes() -> None:
    """A pip-only installation publishes with the binary of imageio-ffmpeg, which is newer than Debian's."""
    binary = pytest.importorskip("imageio_ffmpeg").get_ffmpeg_exe()
    with RtspRelay() as relay:
        sink = EncodedSink(PublishSpec(relay.url("gate")), "gate", binary)
        try:
            drive(lambda slot: sink.write(frame(640, 360), NOTHING, slot), lambda: _published(sink, 30))
            assert sink.report().state == "running"
            assert relay.paths()["gate"].packets_in > 10
        finally:
            sink.close()


@pytest.mark.nginx
@pytest.mark.ffprobe
def test_nginx_takes_the_stream_over_rtmp() -> None:
    """RTMP works with nginx's module: the muxer follows the URL."""
    with nginx_rtmp() as url:
        sink = EncodedSink(PublishSpec(url), "gate", "ffmpeg")
        try:
            drive(lambda slot: sink.write(frame(640, 360), NOTHING, slot), lambda: _published(sink, 10))
            ask = ["ffprobe", "-v", "error", "-show_entries", "stream=codec_name,width,height", "-of", "csv=p=0", url]
            told = drive_command(lambda slot: sink.write(frame(640, 360), NOTHING, 10_000 + slot), ask)
        finally:
            sink.close()
    assert told.strip() == "h264,640,360"


@pytest.mark.parametrize(
    "spec", [PublishSpec("http://h/a"), PublishSpec("rtsp://h/a", codec="h264_nonsense")], ids=["url", "codec"]
)
def test_what_cannot_work_is_refused_at_once(spec: PublishSpec) -> None:
    """A wrong URL or codec is an error before anything starts."""
    with pytest.raises(ConfigError):
        EncodedSink(spec, "gate", "ffmpeg")


def test_an_encoder_that_fails_is_reported_and_never_raises() -> None:
    """A codec that this machine cannot run, or a wrong preset, is a state with a reason, not a crash."""
    sink = EncodedSink(PublishSpec("rtsp://127.0.0.1:1/a", preset="warp-speed"), "gate", "ffmpeg")
    for slot in range(5):
        sink.write(frame(640, 360), NOTHING, slot)
    report = sink.report()
    assert report.state == "retrying"
    assert "libx264 cannot be opened" in report.reason
    assert report.dropped == 5
    sink.close()
    assert sink.report().state == "stopped"


def test_close_is_idempotent_and_final(tmp_path: Path) -> None:
    """Closing twice, before any picture or after some, is quick; pictures after it are ignored."""
    for pictures in (0, 3):
        sink = EncodedSink(PublishSpec(str(tmp_path / "out.mkv")), "gate", "ffmpeg")
        assert sink.report().state == "starting"
        for slot in range(pictures):
            sink.write(frame(640, 360), NOTHING, slot)
        started = time.monotonic()
        sink.close()
        sink.close()
        assert time.monotonic() - started < 3.0
        sink.write(frame(640, 360), NOTHING, 99)
        assert sink.report().state == "stopped"


def test_an_srt_listener_takes_the_stream(tmp_path: Path) -> None:
    """FFmpeg's SRT listener receives the published stream as MPEG-TS."""
    url, target = f"srt://127.0.0.1:{free_port()}", tmp_path / "received.ts"
    listen = ["ffmpeg", "-nostdin", "-loglevel", "error", "-y", "-i", f"{url}?mode=listener", "-frames:v", "20"]
    sink = EncodedSink(PublishSpec(url, fps=25.0), "gate", "ffmpeg")
    try:
        drive_command(
            lambda slot: sink.write(frame(320, 180), NOTHING, slot), [*listen, "-c", "copy", str(target)], fps=25.0
        )
    finally:
        sink.close()
    assert [(planes.y.shape[1], planes.y.shape[0]) for planes in _decode(target)][:10] == [(320, 180)] * 10


def test_a_closed_sink_frees_its_encoder_at_once(tmp_path: Path) -> None:
    """An encoder has megabytes of buffers: they go with the sink, not whenever the garbage collector runs."""
    sink = EncodedSink(PublishSpec(str(tmp_path / "out.mp4")), "gate", "ffmpeg")
    sink.write(frame(640, 360), NOTHING, 0)
    sink.close()
    gone = weakref.ref(sink)
    gc.disable()
    try:
        del sink
        assert gone() is None
    finally:
        gc.enable()
