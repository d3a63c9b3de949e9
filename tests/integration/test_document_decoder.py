"""The tests of the user's document for ``RTSPDecoder``, and its life against a real camera."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Literal
from unittest.mock import patch

import numpy as np
import pytest

from sentinel_pipeline.domain.errors import StreamEnded, StreamError, StreamStalled
from sentinel_pipeline.infrastructure.video.rtsp_decoder import RTSPDecoder
from sentinel_pipeline.lab.rtsp_relay import RtspRelay
from support.streams import make_clip, publishing, stop

Backend = Literal["pyav", "opencv"]
BACKENDS = pytest.mark.parametrize("backend", ["pyav", "opencv"])
SIZE = (320, 180)


def test_rtsp_decoder_reconnect() -> None:
    """The document's test, word for word: three failing tries are False, then a camera that opens is True."""
    decoder = RTSPDecoder("test_stream")

    # 첫 연결 실패 시뮬레이션
    with patch("cv2.VideoCapture") as mock_cap:
        mock_cap.return_value.isOpened.return_value = False

        # 재연결 시도
        result = decoder.reconnect(max_retries=3, base_delay=0.1)
        assert not result  # 실패

        # 성공 시뮬레이션
        mock_cap.return_value.isOpened.return_value = True
        result = decoder.reconnect(max_retries=3, base_delay=0.1)
        assert result  # 성공


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two seconds of 320x180 at 25 pictures a second with a key frame every 0.4 s."""
    return make_clip(tmp_path_factory.mktemp("clips") / "clip.mp4", size=SIZE, fps=25, seconds=2, gop=10)


@pytest.fixture(scope="module")
def relay(clip: Path) -> Iterator[RtspRelay]:
    """A relay with one camera on path ``test``."""
    with RtspRelay() as relay, publishing(relay.url("test"), clip=clip):
        relay.wait_for_publisher("test", 15)
        yield relay


@pytest.fixture
def camera(relay: RtspRelay) -> Iterator[str]:
    """The URL of a camera that works again when the test is over."""
    yield relay.url("test")
    relay.faults("test").resume()


@pytest.mark.ffmpeg
def test_rtsp_to_ffmpeg_pipeline_decoder_half(camera: str) -> None:
    """The decoder's half of the document's integration test, against a real RTSP stream instead of rtsp://test."""
    decoder = RTSPDecoder("test_stream")

    # 연결
    decoder.connect(camera)

    # 프레임 처리
    success, frame = decoder.read_frame()
    assert success
    assert frame is not None
    assert (frame.shape, frame.dtype) == ((SIZE[1], SIZE[0], 3), np.uint8)

    # 정리
    decoder.release()


@pytest.mark.ffmpeg
@BACKENDS
def test_decoder_loses_a_stalled_camera_and_reconnects(camera: str, relay: RtspRelay, backend: Backend) -> None:
    """A stall ends ``read_frame`` within the read time-out + 0.5 s; when the camera is back, so are the frames."""
    with RTSPDecoder("gate", read_timeout_ms=1000, backend=backend) as decoder:
        decoder.connect(camera)
        assert decoder.read_frame()[0]
        relay.faults("test").stall()
        started = time.monotonic()
        while decoder.read_frame()[0]:
            pass
        assert time.monotonic() - started < 2.0  # up to 0.4 s of pictures were under way
        assert not decoder.is_connected
        assert isinstance(decoder.last_error, StreamStalled)
        relay.faults("test").resume()
        assert decoder.reconnect(base_delay=0.1)
        assert decoder.is_connected
        assert decoder.read_frame()[0]
        assert decoder.reconnects == 1


@pytest.mark.ffmpeg
@BACKENDS
def test_decoder_notices_that_the_camera_went(clip: Path, backend: Backend) -> None:
    """When the publication ends, the frames that arrived come first, then False."""
    with RtspRelay() as relay, RTSPDecoder("gate", backend=backend) as decoder:
        with publishing(relay.url("test"), clip=clip) as publisher:
            relay.wait_for_publisher("test", 15)
            decoder.connect(relay.url("test"))
            assert decoder.read_frame()[0]
            stop(publisher)
            while decoder.read_frame()[0]:
                pass
        assert isinstance(decoder.last_error, StreamEnded)
        assert decoder.read_frame() == (False, None)


@pytest.mark.ffmpeg
def test_release_ends_a_connect_at_once(camera: str, relay: RtspRelay) -> None:
    """A connect that waits for a mute camera raises as soon as another thread releases."""
    relay.faults("test").mute()
    decoder = RTSPDecoder("gate", backend="pyav")
    timer = threading.Timer(0.2, decoder.release)
    timer.start()
    started = time.monotonic()
    with pytest.raises(StreamError, match="cancelled"):
        decoder.connect(camera)
    assert time.monotonic() - started < 0.7
    timer.join()
    assert not decoder.is_connected


@pytest.mark.ffmpeg
def test_connect_keeps_the_document_time_out(camera: str, relay: RtspRelay) -> None:
    """``connection_timeout_ms`` works with OpenCV, where the document's own way waits 30 s."""
    relay.faults("test").mute()
    decoder = RTSPDecoder("gate", connection_timeout_ms=1000)
    started = time.monotonic()
    with pytest.raises(StreamStalled):
        decoder.connect(camera)
    assert time.monotonic() - started < 1.5
