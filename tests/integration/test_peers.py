"""The independent peers do what the other tests rely on, as seen by the plain ffmpeg and ffprobe programs."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.peers import (
    ffmpeg_counts_frames,
    ffprobe,
    gstreamer_camera,
    gstreamer_recorder,
    nginx_rtmp,
    publishing_rtmp,
)
from support.program import wait_until
from support.streams import CLIP, ProbeError, Transport, probe, publishing

PASSWORD = "p@ss:w/rd%41#1"
QUICK = ("-probesize", "200000", "-analyzeduration", "1000000")


@pytest.mark.gstreamer
@pytest.mark.ffprobe
@pytest.mark.parametrize("transport", ["tcp", "udp"])
def test_gstreamer_camera_plays_a_test_picture_over(transport: Transport) -> None:
    """GStreamer's camera serves H.264 of the size and rate asked for, and it decodes."""
    with gstreamer_camera(size=(320, 240), fps=15) as url:
        found = probe(url, transport=transport)
        assert (found["codec_name"], found["width"], found["height"], found["r_frame_rate"]) == (
            "h264",
            320,
            240,
            "15/1",
        )
        assert ffmpeg_counts_frames(url, 10, "-rtsp_transport", transport) == 10


@pytest.mark.gstreamer
@pytest.mark.ffprobe
def test_gstreamer_camera_plays_the_built_in_clip() -> None:
    """GStreamer's camera can serve the footage that ships in the package."""
    with gstreamer_camera(clip=CLIP) as url:
        found = probe(url)
        assert (found["codec_name"], found["width"], found["height"]) == ("h264", 768, 576)


@pytest.mark.gstreamer
@pytest.mark.ffprobe
@pytest.mark.parametrize("method", ["basic", "digest"])
def test_gstreamer_camera_lets_only_the_right_password_in(method: str) -> None:
    """The camera answers 401 to a wrong password, and plays for the right one, whatever characters are in it."""
    with gstreamer_camera(user="viewer", password=PASSWORD, method=method) as url:
        assert PASSWORD not in url
        with pytest.raises(ProbeError, match="401"):
            probe(url.replace("viewer:", "viewer:wrong"))
        assert probe(url)["codec_name"] == "h264"


@pytest.mark.gstreamer
@pytest.mark.ffprobe
@pytest.mark.parametrize("transport", ["tcp", "udp"])
def test_gstreamer_recorder_counts_what_is_published_over(transport: Transport, tmp_path: Path) -> None:
    """The recorder counts every picture of a publisher, keeps them as a file that decodes, and sees the end."""
    kept = tmp_path / "arrived.h264"
    with gstreamer_recorder(kept) as (url, recorder):
        with publishing(url, transport=transport):
            seen = recorder.wait_for_frames(15)
            assert (seen.width, seen.height, seen.ended) == (768, 576, False)
            assert seen.keyframes >= 1
        last = recorder.wait_for_end()
        # 10 pictures a second, sent in real time: so many cannot have come faster than that
        assert last.frames - 1 <= (last.seconds + 0.5) * 10
    assert ffprobe(str(kept), "-count_frames")["nb_read_frames"] == str(last.frames)


@pytest.mark.gstreamer
@pytest.mark.ffmpeg
def test_gstreamer_recorder_starts_anew_with_each_publisher() -> None:
    """A second publisher at the same URL is counted from zero, so a test can see a restart."""
    with gstreamer_recorder() as (url, recorder):
        for _ in range(2):
            with publishing(url):
                wait_until(lambda: not recorder.recording.ended and recorder.recording.frames >= 3, 20.0, "frames come")
            assert recorder.wait_for_end().frames < 30


@pytest.mark.nginx
@pytest.mark.ffprobe
def test_nginx_relays_what_is_published() -> None:
    """What ffmpeg publishes to nginx over RTMP can be probed and decoded from it by another client."""
    with nginx_rtmp() as url, publishing_rtmp(url):
        assert ffmpeg_counts_frames(url, 10, *QUICK) == 10
        found = ffprobe(url, *QUICK)
        assert (found["codec_name"], found["width"], found["height"], found["r_frame_rate"]) == (
            "h264",
            768,
            576,
            "10/1",
        )


@pytest.mark.nginx
@pytest.mark.ffmpeg
def test_two_nginx_servers_run_side_by_side() -> None:
    """Each server has its own port and folder, so tests do not disturb each other."""
    with nginx_rtmp() as one, nginx_rtmp() as other:
        assert one != other
        with publishing_rtmp(one), publishing_rtmp(other):
            assert ffmpeg_counts_frames(one, 3, *QUICK) == ffmpeg_counts_frames(other, 3, *QUICK) == 3
