"""Pictures of H.264 over RTSP come before the next one is sent, from real encoders, over real connections."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from itertools import islice, pairwise
from pathlib import Path
from typing import Literal

import av
import numpy as np
import pytest

from sentinel_pipeline.domain.errors import StreamStalled
from sentinel_pipeline.domain.streams import DecodeSpec
from sentinel_pipeline.infrastructure.video.pyav_source import PyAVSource
from sentinel_pipeline.infrastructure.video.sources import open_source
from sentinel_pipeline.lab.rtsp_relay import RtspRelay
from support.peers import gstreamer_camera
from support.streams import CLIP, Transport, make_clip, publishing
from support.told_camera import Camera, told_camera

pytestmark = pytest.mark.ffmpeg


@contextmanager
def watched(
    size: tuple[int, int], params: str = "", *, transport: Transport = "tcp", prompt: bool = True
) -> Iterator[tuple[Camera, PyAVSource]]:
    """Yield a camera and a source that is connected to it and waits for its first key frame."""
    with RtspRelay() as relay, told_camera(relay.url("cam"), size, params) as camera:
        camera.send(key=True)
        relay.wait_for_publisher("cam", 15)
        source = PyAVSource(relay.url("cam"), transport=transport, read_timeout=3.0, prompt=prompt)
        opening = threading.Thread(target=source.open)
        opening.start()
        while opening.is_alive():
            camera.send()  # FFmpeg may want to see a packet
            opening.join(0.04)
        with closing(source):
            yield camera, source


def shade(source: PyAVSource) -> float:
    return float(source.read().image.yuv420p()[0].mean())


@pytest.mark.parametrize(
    ("size", "params", "transport"),
    [
        ((1280, 720), "", "tcp"),
        ((1920, 1080), "", "tcp"),
        ((1280, 720), "", "udp"),
        ((640, 360), "intra-refresh=1", "tcp"),
        ((640, 360), "aud=1", "tcp"),
    ],
)
def test_picture_is_out_before_the_next_is_sent(size: tuple[int, int], params: str, transport: Transport) -> None:
    """Each picture from the key frame on is handed out while the camera sends nothing more."""
    with watched(size, params, transport=transport) as (camera, source):
        sent = camera.send(key=True)
        for _ in range(12):
            assert shade(source) == pytest.approx(sent, abs=2)
            sent = camera.send()
        assert source.decode_errors == 0


def test_pictures_of_several_slices_are_out_before_the_next_is_sent() -> None:
    """After a second in which all pictures had four slices the last of them makes a picture complete."""
    with watched((640, 360), "slices=4") as (camera, source):
        camera.send(key=True)
        shades = [camera.send() for _ in range(30)]
        while shade(source) != pytest.approx(shades[-1], abs=2):
            pass
        for _ in range(8):
            sent = camera.send()
            assert shade(source) == pytest.approx(sent, abs=2)


def test_parser_waits_for_the_next_picture() -> None:
    """Without ``prompt`` the last picture sent is not handed out: what the tests above show is no accident."""
    with watched((640, 360), prompt=False) as (camera, source):
        sent = [camera.send(key=True), camera.send()]
        assert shade(source) == pytest.approx(sent[0], abs=2)
        with pytest.raises(StreamStalled):
            source.read()


@pytest.mark.gstreamer
@pytest.mark.parametrize(
    ("transport", "params"),
    [
        ("udp", None),
        ("tcp", "slices=4"),
        ("tcp", "bframes=2:b-adapt=0"),
        ("tcp", "open-gop=1"),
        ("tcp", "interlaced=1"),
    ],
)
def test_pictures_are_those_of_the_file(transport: Transport, params: str | None, tmp_path: Path) -> None:
    """Through GStreamer's server every picture of the file comes, in order and to the last bit."""
    path = CLIP
    if params is not None:
        path = make_clip(tmp_path / "clip.mp4", size=(320, 192), seconds=2, gop=20, params=params)
    with av.open(str(path)) as file:
        expected = [frame.to_ndarray(format="yuv420p") for frame in islice(file.decode(video=0), 40)]
    with gstreamer_camera(clip=path) as url, closing(PyAVSource(url, transport=transport, prompt=True)) as source:
        source.open()
        for picture in expected:
            frame = source.read()
            assert np.array_equal(frame.image.yuv420p()[0], picture[: frame.height])
        assert source.decode_errors == 0


def test_lost_packets_stop_nothing(tmp_path: Path) -> None:
    """Where one packet in fifty is lost pictures go on coming, and they are as good as those of FFmpeg's parser."""
    clip = make_clip(tmp_path / "clip.mp4", size=(320, 180), seconds=2, gop=10)
    with RtspRelay() as relay, publishing(relay.url("cam"), clip=clip):
        relay.wait_for_publisher("cam", 15)
        with closing(PyAVSource(relay.url("cam"), transport="udp", prompt=True)) as source:
            source.open()
            source.read()
            relay.faults("cam").lose(0.02)
            frames = [source.read() for _ in range(60)]
            relay.faults("cam").resume()
        assert all(later.pts > earlier.pts for earlier, later in pairwise(frames))
        assert source.decode_errors > 0


@pytest.mark.parametrize("codec", ["libx265", "mpeg4"])
def test_other_codecs_keep_the_parser(codec: str, tmp_path: Path) -> None:
    """H.265, of which no packet was read, goes on behind FFmpeg's parser; what had been read already is read again."""
    clip = make_clip(tmp_path / "clip.mp4", size=(320, 192), seconds=2, gop=10, codec=codec)
    with RtspRelay() as relay, publishing(relay.url("cam"), clip=clip):
        relay.wait_for_publisher("cam", 15)
        with closing(PyAVSource(relay.url("cam"), prompt=True)) as source:
            source.open()
            frames = [source.read() for _ in range(15)]
            assert source.decode_errors == 0
    steps = [later.pts - earlier.pts for earlier, later in pairwise(frames)]
    assert steps[1:] == pytest.approx([0.04] * 13, abs=0.01), "the first packet behind the parser has no timestamp"


@pytest.mark.parametrize("skip", ["none", "nonref", "idle"])
def test_prompt_is_for_those_who_want_every_picture(skip: Literal["none", "nonref", "idle"], tmp_path: Path) -> None:
    """Where pictures are skipped FFmpeg's parser stays, and one packet is counted for each picture in either case."""
    clip = make_clip(tmp_path / "clip.mp4", size=(320, 180), seconds=2, gop=10)
    packets: list[float] = []
    with RtspRelay() as relay, publishing(relay.url("cam"), clip=clip):
        relay.wait_for_publisher("cam", 15)
        spec = DecodeSpec(skip=skip)
        with closing(open_source(spec, relay.url("cam"), on_packet=packets.append, prompt=True)) as source:
            source.open()
            source.read()
            del packets[:]
            for _ in range(20):
                source.read()
            assert isinstance(source, PyAVSource)
            connection = source._connection
            assert connection is not None
            assert (connection.units is not None) == (skip == "none")
    assert len(packets) in (19, 20, 21)
