"""``RTSPDecoder`` by itself: the document's surface, on the test pattern and on a mocked OpenCV."""

from __future__ import annotations

import threading
import time
from unittest.mock import patch

import numpy as np
import pytest

from sentinel_pipeline.domain.errors import StreamError
from sentinel_pipeline.infrastructure.video.rtsp_decoder import RTSPDecoder

PATTERN = "test:64x48@100"


def decoder(**options: object) -> RTSPDecoder:
    return RTSPDecoder("gate", backend="pyav", **options)  # type: ignore[arg-type]


def test_mask_password_is_the_documents_example() -> None:
    """The method that the document names gives what the document shows."""
    assert (
        RTSPDecoder("s")._mask_password("rtsp://admin:password123@192.168.1.100:554/stream1")
        == "rtsp://admin:****@192.168.1.100:554/stream1"
    )


def test_decoder_reads_frames_in_order_and_counts_them() -> None:
    """Frames are BGR arrays of the source's size; after release there are none, and nothing is left behind."""
    with decoder() as reader:
        assert reader.connect(PATTERN) is True
        assert reader.is_connected
        for _ in range(3):
            success, frame = reader.read_frame()
            assert success
            assert frame is not None
            assert (frame.shape, frame.dtype) == ((48, 64, 3), np.uint8)
        assert reader.frames_read == 3
    assert not reader.is_connected
    assert reader.read_frame() == (False, None)
    reader.release()


def test_decoder_keeps_only_the_newest_frames_for_a_slow_reader() -> None:
    """A reader that is away for twenty frames finds ``buffer_size`` frames, the others are counted as dropped."""
    with decoder(buffer_size=2) as reader:
        reader.connect(PATTERN)
        assert reader.read_frame()[0]
        deadline, poll = time.monotonic() + 5, threading.Event()
        while reader.frames_dropped < 20 and time.monotonic() < deadline:
            poll.wait(0.01)
        dropped = reader.frames_dropped
    assert dropped >= 20
    assert reader.frames_dropped >= dropped, "kept after the release"


def test_decoder_starts_no_thread_before_the_first_read() -> None:
    """Connecting alone leaves no thread, so that a connection that is never released costs none."""
    before = threading.active_count()
    reader = decoder()
    reader.connect(PATTERN)
    assert threading.active_count() == before
    reader.release()


def test_connect_raises_and_tells_why() -> None:
    """A refused connection raises, is kept as ``last_error``, and leaves the decoder unconnected."""
    reader = decoder()
    with pytest.raises(StreamError, match=r"No such file.*check the path"):
        reader.connect("/no/such/file.mp4")
    assert not reader.is_connected
    assert reader.last_error is not None
    assert "not connected" in repr(reader)


def test_reconnect_uses_the_last_url_and_counts() -> None:
    """Reconnecting goes back to the URL of the last ``connect``; frames come again."""
    with decoder() as reader:
        reader.connect(PATTERN)
        assert reader.read_frame()[0]
        assert reader.reconnect(max_retries=1, base_delay=0.01) is True
        assert reader.reconnects == 1
        assert reader.read_frame()[0]


def test_reconnect_waits_as_the_document_says() -> None:
    """Three tries at base 0.1 wait 0.1, 0.2 and 0.4 s, less a jitter of at most 20 %."""
    reader = decoder()
    started = time.monotonic()
    assert reader.reconnect(max_retries=3, base_delay=0.1) is False
    assert 0.7 * 0.8 <= time.monotonic() - started < 1.5


def test_release_ends_a_reconnect_at_once() -> None:
    """A wait of half a minute between tries ends when another thread releases, and the decoder stays released."""
    reader = decoder()
    timer = threading.Timer(0.1, reader.release)
    timer.start()
    started = time.monotonic()
    assert reader.reconnect(base_delay=30.0) is False
    assert time.monotonic() - started < 1.0
    timer.join()
    assert reader.reconnect(base_delay=0.01) is False


def test_release_ends_a_read_at_once() -> None:
    """A reader that waits for a frame is woken by a release in another thread."""
    reader = decoder()
    reader.connect("test:64x48@1")
    assert reader.read_frame()[0]
    timer = threading.Timer(0.1, reader.release)
    timer.start()
    started = time.monotonic()
    assert reader.read_frame() == (False, None)
    assert time.monotonic() - started < 0.6
    timer.join()


@pytest.mark.parametrize("opened", [True, False])
def test_opencv_gets_its_time_outs_when_it_opens(opened: bool) -> None:
    """The time-outs and the thread count travel in the constructor's parameter list, the only place where they work."""
    import cv2

    with patch("cv2.VideoCapture") as capture:
        capture.return_value.isOpened.return_value = opened
        reader = RTSPDecoder("s", connection_timeout_ms=1234, read_timeout_ms=567)
        if opened:
            assert reader.connect("rtsp://u:pw@cam/x")
        else:
            with pytest.raises(StreamError) as caught:
                reader.connect("rtsp://u:pw@cam/x")
            assert "pw@" not in str(caught.value)
        url, backend, parameters = capture.call_args[0]
    assert (url, backend) == ("rtsp://u:pw@cam/x", cv2.CAP_FFMPEG)
    pairs = dict(zip(parameters[::2], parameters[1::2], strict=True))
    assert pairs == {
        cv2.CAP_PROP_OPEN_TIMEOUT_MSEC: 1234,
        cv2.CAP_PROP_READ_TIMEOUT_MSEC: 567,
        cv2.CAP_PROP_N_THREADS: 1,
    }
    assert reader.is_connected is opened
    reader.release()
    capture.return_value.release.assert_called_once_with()
