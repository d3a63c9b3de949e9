"""Our decoders read a camera that is not ours: GStreamer's RTSP server."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing
from itertools import islice, pairwise
from typing import Literal
from urllib.parse import quote

import av
import numpy as np
import pytest

from sentinel_pipeline.domain.errors import StreamError, StreamRefused
from sentinel_pipeline.domain.frame import Frame
from sentinel_pipeline.infrastructure.video.pyav_source import PyAVSource
from sentinel_pipeline.infrastructure.video.rtsp_decoder import RTSPDecoder
from support.peers import gstreamer_camera
from support.streams import CLIP, Transport

pytestmark = pytest.mark.gstreamer

Backend = Literal["pyav", "opencv"]
PASSWORD = "p@ss:w/rd%41#1"
TRANSPORTS = pytest.mark.parametrize("transport", ["tcp", "udp"])
BACKENDS = pytest.mark.parametrize("backend", ["pyav", "opencv"])


@pytest.fixture(scope="module")
def camera() -> Iterator[str]:
    """A camera that asks for a password by Digest: 320x240 at 25 pictures a second."""
    with gstreamer_camera(size=(320, 240), fps=25, user="viewer", password=PASSWORD) as url:
        yield url


def read(source: PyAVSource, count: int) -> list[Frame]:
    with closing(source):
        source.open()
        return [source.read() for _ in range(count)]


def exhaust(source: PyAVSource) -> None:
    while True:  # what has arrived already is still handed out
        source.read()


@TRANSPORTS
def test_pyav_source_reads_pictures_and_times(camera: str, transport: Transport) -> None:
    """Size, order, stream time and capture time are right, and the password gets us in, over either transport."""
    frames = read(PyAVSource(camera, transport=transport), 30)
    assert {frame.size for frame in frames} == {(320, 240)}
    assert [frame.sequence for frame in frames] == list(range(30))
    steps = [b.pts - a.pts for a, b in pairwise(frames)]
    assert min(steps) > 0
    assert np.median(steps) == pytest.approx(1 / 25, abs=0.005)
    assert frames[-1].captured_at == pytest.approx(time.time(), abs=2.0)
    assert frames[-1].bgr().std() > 10, "the ball is on the picture"


@TRANSPORTS
def test_pyav_source_decodes_exactly_what_is_in_the_file(transport: Transport) -> None:
    """The pictures that come through GStreamer are those of the file from its first one on, to the last bit.

    The first: a source that throws away the key frame with which a server begins shows nothing until the next one.
    """
    with gstreamer_camera(clip=CLIP) as url:
        arrived = read(PyAVSource(url, transport=transport), 5)
    with av.open(str(CLIP)) as file:
        expected = [frame.to_ndarray(format="yuv420p") for frame in islice(file.decode(video=0), 5)]
    for ours, theirs in zip(arrived, expected, strict=True):
        luma, _, _ = ours.image.yuv420p()
        assert np.array_equal(luma, theirs[: ours.height])


@BACKENDS
@TRANSPORTS
def test_rtsp_decoder_reads_the_camera(camera: str, backend: Backend, transport: Transport) -> None:
    """``RTSPDecoder`` connects with the password and hands out BGR pictures, with either backend and transport."""
    with RTSPDecoder("gate", backend=backend, transport=transport) as decoder:
        assert decoder.connect(camera)
        for _ in range(5):
            ok, picture = decoder.read_frame()
            assert ok
            assert picture is not None
            assert (picture.shape, picture.dtype) == ((240, 320, 3), np.uint8)
        assert PASSWORD not in repr(decoder)
        assert quote(PASSWORD, safe="") not in repr(decoder)


@BACKENDS
def test_a_wrong_password_is_refused_and_not_told(camera: str, backend: Backend) -> None:
    """With a wrong password connecting fails quickly, and no message carries it."""
    wrong = "s3cr3t@wrong"
    url = camera.replace(quote(PASSWORD, safe=""), quote(wrong, safe=""))
    decoder = RTSPDecoder("gate", backend=backend)
    began = time.monotonic()
    with pytest.raises(StreamError) as refused:
        decoder.connect(url)
    decoder.release()
    assert time.monotonic() - began < 5.0
    text = f"{refused.value!r} {refused.value} {refused.value.__cause__!r} {decoder!r}"
    assert "s3cr3t" not in text
    if backend == "pyav":  # OpenCV does not tell why it could not open
        assert isinstance(refused.value, StreamRefused)
        assert "401" in str(refused.value)


@TRANSPORTS
def test_a_camera_that_goes_away_is_noticed(transport: Transport) -> None:
    """When the server dies, reading raises within the read time-out and half a second."""
    with gstreamer_camera(size=(320, 240), fps=25) as url:
        source = PyAVSource(url, transport=transport, read_timeout=2.0)
        source.open()
        source.read()
    gone = time.monotonic()
    with closing(source), pytest.raises(StreamError):
        exhaust(source)
    assert time.monotonic() - gone < 2.5
