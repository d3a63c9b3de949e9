"""The publisher's tests of the user's document, with their ellipses filled in."""

from __future__ import annotations

import subprocess
from unittest.mock import patch

import pytest

from sentinel_pipeline.infrastructure.video.ffmpeg_publisher import FFmpegPublisher
from sentinel_pipeline.infrastructure.video.rtsp_decoder import RTSPDecoder
from sentinel_pipeline.lab.rtsp_relay import RtspRelay
from support.streams import publishing


def test_ffmpeg_publisher_pipe_deadlock() -> None:
    """FFmpeg's output goes to /dev/null, so that no full pipe can stop it (as printed in the document)."""
    publisher = FFmpegPublisher("test_stream", "rtsp://localhost:8554/test", 1280, 720)

    with patch("subprocess.Popen") as mock_popen:
        publisher.start()

        # DEVNULL is used
        call_args = mock_popen.call_args
        assert call_args[1]["stdout"] == subprocess.DEVNULL
        assert call_args[1]["stderr"] == subprocess.DEVNULL


def test_ffmpeg_publisher_pipe_deadlock_needs_no_ffmpeg(monkeypatch: pytest.MonkeyPatch) -> None:
    """The document's test passes on a machine without ffmpeg, and a mocked child can be stopped."""
    monkeypatch.setenv("PATH", "/nowhere")
    publisher = FFmpegPublisher("test_stream", "rtsp://localhost:8554/test", 1280, 720)
    with patch("subprocess.Popen") as mock_popen:
        publisher.start()
        assert mock_popen.call_args[1]["stdin"] == subprocess.PIPE
        publisher.stop()
        mock_popen.return_value.stdin.close.assert_called_once()


@pytest.mark.ffmpeg
def test_rtsp_to_ffmpeg_pipeline() -> None:
    """A camera's picture is read, published, and arrives (as printed in the document, against a real server)."""
    with RtspRelay() as relay, publishing(relay.url("camera")):
        relay.wait_for_publisher("camera", 15)
        decoder = RTSPDecoder("test_stream")
        publisher = FFmpegPublisher("test_stream", relay.url("published"), 768, 576)

        # connect
        decoder.connect(relay.url("camera"))
        publisher.start()

        # process a frame
        success, frame = decoder.read_frame()
        if success:
            publisher.write_frame(frame)

        # clean up
        decoder.release()
        publisher.stop()

        assert success
        assert relay.paths()["published"].packets_in > 0
