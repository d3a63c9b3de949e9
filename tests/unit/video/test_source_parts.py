"""The small decisions behind a source: URLs, errors, capture times, the pace of files."""

from __future__ import annotations

import av.error
import pytest

from sentinel_pipeline.domain.errors import StreamEnded, StreamError, StreamRefused
from sentinel_pipeline.domain.streams import DecodeSpec
from sentinel_pipeline.infrastructure.video.av_errors import explain
from sentinel_pipeline.infrastructure.video.av_input import av_input
from sentinel_pipeline.infrastructure.video.capture_time import captured_at
from sentinel_pipeline.infrastructure.video.opencv_source import OpenCVSource
from sentinel_pipeline.infrastructure.video.playback import Playback
from sentinel_pipeline.infrastructure.video.pyav_source import PyAVSource
from sentinel_pipeline.infrastructure.video.sources import open_source


@pytest.mark.parametrize(
    ("url", "opened", "paced"),
    [
        ("/videos/cam:1 @.mp4", "file:/videos/cam:1 @.mp4", True),
        ("file:clip.mp4", "file:clip.mp4", True),
        ("file:///videos/a%20b.mp4", "file:/videos/a b.mp4", True),
        ("rtsp://u:p@ss/w@[::1]/x", "rtsp://u:p%40ss%2Fw@[::1]/x", False),
        ("RTSP://cam/x", "RTSP://cam/x", False),
        ("udp://127.0.0.1:5000", "udp://127.0.0.1:5000", False),
        ("test:640x360@10", "testsrc2=size=640x360:rate=10,format=yuv420p", True),
        ("test:", "testsrc2=size=1280x720:rate=25,format=yuv420p", True),
        ("test:@5", "testsrc2=size=1280x720:rate=5,format=yuv420p", True),
    ],
)
def test_av_input_reads_the_documented_urls(url: str, opened: str, paced: bool) -> None:
    """Each form of URL becomes what FFmpeg opens, passwords encoded, and only files and the test pattern are paced."""
    source = av_input(url)
    assert (source.url, source.paced) == (opened, paced)


@pytest.mark.parametrize("url", ["gopher://u:secret@cam/x", "test:640", "concat://a|b"])
def test_av_input_refuses_other_urls(url: str) -> None:
    """A URL that this program does not read is refused, with the remedy and without the password."""
    with pytest.raises(StreamRefused) as caught:
        av_input(url)
    assert caught.value.remedy
    assert "secret" not in str(caught.value)


def test_av_input_asks_the_camera_for_the_transport() -> None:
    """The transport reaches FFmpeg, and the repr of the arguments shows no password."""
    source = av_input("rtsp://u:secret@cam/x", "udp")
    assert source.options["rtsp_transport"] == "udp"
    assert "secret" not in repr(source)


@pytest.mark.parametrize(("url", "unparsed"), [("rtsp://cam/x", True), ("rtmp://cam/x", False), ("clip.mp4", False)])
def test_av_input_asks_for_packets_of_rtsp_only(url: str, unparsed: bool) -> None:
    """Only RTSP is read by the packet, and only where that is wanted."""
    source = av_input(url, unparsed=True)
    assert (source.unparsed, "noparse" in source.options.values()) == (unparsed, unparsed)
    assert "noparse" not in av_input(url).options.values()


URL = "rtsp://u:s3cretpw@cam/x"


@pytest.mark.parametrize(
    ("number", "kind", "status"),
    [
        (-0x3130_34F8, StreamRefused, 401),
        (-0x3330_34F8, StreamRefused, 403),
        (-0x3430_34F8, StreamRefused, 404),
        (-0x3030_34F8, StreamRefused, 400),
        (-0x5858_34F8, StreamRefused, None),  # another 4xx: unsupported transport
        (-0x5858_35F8, StreamError, None),  # 5xx
        (111, StreamError, None),  # connection refused
        (2, StreamRefused, None),  # no such file
        (-0x2046_4F45, StreamEnded, None),  # end of file
    ],
)
def test_explain_names_the_answer_and_the_remedy(number: int, kind: type[StreamError], status: int | None) -> None:
    """FFmpeg's error becomes ours by its kind, with its text and the status, without the URL that it carries."""
    with pytest.raises(av.error.FFmpegError) as caught:
        av.error.err_check(-abs(number), URL)
    error = explain(caught.value, "open rtsp://u:****@cam/x")
    assert type(error) is kind
    assert getattr(error, "status", None) == status
    assert "s3cretpw" in str(caught.value)
    assert "s3cretpw" not in str(error)
    assert error.remedy or kind is StreamEnded


def test_explain_takes_any_exception() -> None:
    """An error that FFmpeg has no class for is a stream error named by its type, and its text is not passed on."""
    error = explain(RuntimeError(URL), "open it")
    assert str(error) == "cannot open it: RuntimeError"


@pytest.mark.parametrize(
    ("delay", "believed"),
    [(0.2, True), (9.9, True), (10.1, False), (-0.4, True), (-0.6, False), (3600.0, False)],
)
def test_captured_at_believes_only_plausible_cameras(delay: float, believed: bool) -> None:
    """A camera whose clock is off counts by receive time, and no picture is taken after it was received."""
    received = 1_700_000_000.0
    start = round((received - delay - 12.5) * 1e6)
    assert captured_at(12.5, received, start) == pytest.approx(
        min(received - delay, received) if believed else received
    )


def test_captured_at_without_a_sender_report_is_the_receive_time() -> None:
    """No report, or no timestamp, means the receive time."""
    assert captured_at(1.0, 5.0, None) == 5.0
    assert captured_at(None, 5.0, 1) == 5.0


def test_playback_holds_back_to_the_timestamps() -> None:
    """Early pictures wait, late ones do not, and a damaged timestamp or a rewind starts over."""
    playback = Playback(read_timeout=30.0)
    assert playback.wait(5.0, 100.0) == 0
    assert playback.wait(5.04, 100.01) == pytest.approx(0.03)
    assert playback.wait(5.08, 101.0) == 0
    assert playback.wait(5000.0, 101.0) == 0
    assert playback.wait(5000.1, 101.0) == pytest.approx(0.1)
    playback.restart()
    assert playback.wait(5003.0, 101.0) == 0
    assert playback.wait(None, 101.0) == 0


@pytest.mark.parametrize(
    ("read_timeout", "pause", "waited"),
    [(5.0, 4.4, 4.4), (5.0, 8.0, 4.5), (1.0, 8.0, 0.9), (60.0, 9.9, 9.9), (60.0, 10.1, 0.0), (5.0, 10.1, 0.0)],
)
def test_playback_waits_no_longer_than_a_read_may_take(read_timeout: float, pause: float, waited: float) -> None:
    """A pause that the watchdog would take for a hang is shortened; then the file goes on at its pace."""
    playback = Playback(read_timeout)
    assert playback.wait(0.0, 100.0) == 0
    assert playback.wait(pause, 100.0) == pytest.approx(waited)
    assert playback.wait(pause + 0.04, 100.0 + waited) == pytest.approx(0.04)


@pytest.mark.parametrize("hwaccel", ["cuda", "nonsense"])
def test_missing_accelerator_is_refused_with_the_remedy(hwaccel: str) -> None:
    """An accelerator that was asked for and cannot be had for this source is no silent fall-back to the CPU."""
    source = PyAVSource("test:64x48", hwaccel=hwaccel)  # raw pictures: no device decodes them
    with pytest.raises(StreamRefused, match=hwaccel) as caught:
        source.open()
    assert "decode.hwaccel: none" in caught.value.remedy


def test_open_source_follows_the_backend() -> None:
    """The configured backend reads the camera; files and the test pattern are PyAV's, which plays them at their pace; a
    repr shows no password."""
    assert isinstance(open_source(DecodeSpec(), URL), PyAVSource)
    opencv = open_source(DecodeSpec(backend="opencv"), URL)
    assert isinstance(opencv, OpenCVSource)
    for played in ("test:", "/videos/a.mp4", "a.mp4", "file:a.mp4", "file:///videos/a%20b.mp4"):
        assert isinstance(open_source(DecodeSpec(backend="opencv"), played), PyAVSource)
    for source in (opencv, open_source(DecodeSpec(), URL)):
        assert "s3cretpw" not in repr(source)
        assert "s3cretpw" not in str(source)
