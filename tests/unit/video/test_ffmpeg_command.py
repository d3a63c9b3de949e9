"""The command lines given to ffmpeg."""

from __future__ import annotations

from itertools import pairwise

import pytest

from sentinel_pipeline.domain.errors import ConfigError
from sentinel_pipeline.infrastructure.video.ffmpeg_command import (
    copy_command,
    encoder_options,
    file_path,
    gop_size,
    muxer_options,
    parse_bitrate,
    raw_command,
)


@pytest.mark.parametrize(
    ("url", "muxer"),
    [
        ("rtsp://h/a", "rtsp"),
        ("RTSPS://h/a", "rtsp"),
        ("rtmp://h/live/a", "flv"),
        ("rtmps://h/live/a", "flv"),
        ("srt://h:9000", "mpegts"),
        ("/var/out.mp4", "mp4"),
        ("out.MKV", "matroska"),
        ("file:///var/out.ts", "mpegts"),
    ],
)
def test_muxer_follows_the_url(url: str, muxer: str) -> None:
    """Each kind of output gets the container that it needs: RTMP needs flv."""
    options = muxer_options(url)
    assert options[options.index("-f") + 1] == muxer


def test_rtsp_goes_over_tcp() -> None:
    """RTSP is published over TCP, as the document has it."""
    assert muxer_options("rtsp://h/a") == ["-f", "rtsp", "-rtsp_transport", "tcp"]


def test_mp4_can_be_read_without_its_end() -> None:
    """An MP4 file is written in fragments: a killed ffmpeg leaves a file that plays."""
    options = muxer_options("out.mp4")
    assert options[options.index("-movflags") + 1] == "+frag_keyframe+empty_moov+default_base_moof"


@pytest.mark.parametrize("url", ["http://h/a", "udp://h:1", "ftp://h/a.mp4", "out.avi", "", "whip://u:secret@h/a"])
def test_other_outputs_are_refused_with_the_supported_ones(url: str) -> None:
    """What cannot be published to is refused at once, names what can, and never shows the password."""
    with pytest.raises(ConfigError, match="rtsp, rtsps, rtmp, rtmps, srt") as caught:
        muxer_options(url)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "bits"), [("2M", 2_000_000), ("800k", 800_000), ("1.5m", 1_500_000), ("64000", 64_000), (5000, 5000)]
)
def test_bitrate_is_read(text: str | int, bits: int) -> None:
    """Bit rates are read as FFmpeg reads them."""
    assert parse_bitrate(text) == bits


@pytest.mark.parametrize("text", ["", "fast", "2MB", "-1M", "0", "1e6"])
def test_a_wrong_bitrate_is_refused(text: str) -> None:
    """What is no bit rate is refused before ffmpeg sees it."""
    with pytest.raises(ConfigError, match="bit rate"):
        parse_bitrate(text)


def _raw(url: str = "rtsp://h/a") -> list[str]:
    return raw_command(
        "ffmpeg", url, size=(1280, 720), fps=25, codec="libx264", preset="ultrafast", bitrate="2M", pix_fmt="yuv420p"
    )


def _pairs(command: list[str]) -> set[tuple[str, str]]:
    return set(pairwise(command))


def test_raw_command_is_the_documents() -> None:
    """The command has every option of the document, in its order of input and output."""
    command = _raw()
    assert command[:2] == ["ffmpeg", "-y"]
    assert command[-1] == "rtsp://h/a"
    documented = [
        *[("-f", "rawvideo"), ("-vcodec", "rawvideo"), ("-pix_fmt", "bgr24"), ("-s", "1280x720"), ("-r", "25")],
        *[("-i", "-"), ("-c:v", "libx264"), ("-pix_fmt", "yuv420p"), ("-preset", "ultrafast"), ("-b:v", "2M")],
        *[("-f", "rtsp"), ("-rtsp_transport", "tcp")],
    ]
    assert set(documented) <= _pairs(command)
    assert command.index("bgr24") < command.index("-i") < command.index("libx264") < command.index("tcp")


def test_raw_command_encodes_for_live_viewing() -> None:
    """A keyframe every two seconds, no B-frames, no look-ahead, a capped rate."""
    wanted = {("-g", "50"), ("-bf", "0"), ("-tune", "zerolatency"), ("-maxrate", "2000000"), ("-bufsize", "1000000")}
    assert wanted <= _pairs(_raw())


@pytest.mark.parametrize("codec", ["h264_nvenc", "h264_vaapi", "h264_qsv", "libopenh264"])
def test_options_of_x264_are_not_given_to_other_encoders(codec: str) -> None:
    """Hardware encoders do not know x264's presets and would refuse to start."""
    options = encoder_options(codec, preset="ultrafast", bitrate="2M", fps=25, pix_fmt="yuv420p")
    assert codec in options
    assert "ultrafast" not in options
    assert "zerolatency" not in options


def test_copy_command_copies() -> None:
    """The copying child reads NUT from stdin with the smallest probe and encodes nothing."""
    command = copy_command("/usr/bin/ffmpeg", "rtmp://h/live/a")
    assert {("-f", "nut"), ("-i", "pipe:0"), ("-c", "copy"), ("-probesize", "32"), ("-f", "flv")} <= _pairs(command)
    assert command[-1] == "rtmp://h/live/a"


def test_file_urls_become_paths() -> None:
    """A file: URL is given to ffmpeg as the path that it names; other outputs stay as they are."""
    assert file_path("file:///var/a%20b.mp4") == "/var/a b.mp4"
    assert file_path("rtsp://h/a%20b") == "rtsp://h/a%20b"


@pytest.mark.parametrize(("fps", "gop"), [(25, 50), (29.97, 60), (0.2, 1)])
def test_gop_is_two_seconds(fps: float, gop: int) -> None:
    """Whatever the rate, a viewer waits two seconds at most."""
    assert gop_size(fps) == gop
