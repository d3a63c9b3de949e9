"""The relay with real publishers and players: FFmpeg, ffprobe, PyAV, OpenCV and GStreamer, over TCP and UDP."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import av
import cv2
import pytest

from sentinel_pipeline.lab.rtsp_relay import RtspRelay
from support.streams import ProbeError, Transport, make_clip, probe, publishing, stop

pytestmark = [pytest.mark.ffmpeg, pytest.mark.ffprobe]

SIZE = (320, 240)
USER, PASSWORD = "me@home", "p@ss:w/rd%41#ü?"
PYTHON_WITH_GSTREAMER = "/usr/bin/python3"  # the bindings come with Debian's own Python only
GSTREAMER = """
import sys, gi
gi.require_version("Gst", "1.0")
from gi.repository import Gst
Gst.init(None)
pipeline = Gst.parse_launch(sys.argv[1])
pipeline.set_state(Gst.State.PLAYING)
message = pipeline.get_bus().timed_pop_filtered(20 * Gst.SECOND, Gst.MessageType.EOS | Gst.MessageType.ERROR)
pipeline.set_state(Gst.State.NULL)
sys.exit(0 if message and message.type == Gst.MessageType.EOS else str(message and message.parse_error()))
"""


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clip with a keyframe every 0.4 s, so that players get going at once."""
    return make_clip(tmp_path_factory.mktemp("clips") / "small.mp4", size=SIZE, fps=25, gop=10)


@pytest.fixture(scope="module", params=["tcp", "udp"])
def stream(request: pytest.FixtureRequest, clip: Path) -> Iterator[str]:
    """The URL of a stream that FFmpeg publishes over TCP and over UDP."""
    with RtspRelay() as relay, publishing(relay.url("cam1"), clip=clip, transport=request.param):
        relay.wait_for_publisher("cam1", 10)
        yield relay.url("cam1")


def ffprobe_size(url: str, transport: Transport) -> tuple[int, int]:
    found = probe(url, transport=transport)
    return found["width"], found["height"]


def ffmpeg_size(url: str, transport: Transport) -> tuple[int, int]:
    """Decode five frames; -xerror makes every damaged one an error."""
    command = ["ffmpeg", "-v", "error", "-nostdin", "-xerror", "-rtsp_transport", transport]
    command += ["-analyzeduration", "500000", "-i", url]
    command += ["-frames:v", "5", "-f", "rawvideo", "-pix_fmt", "gray", "-"]
    done = subprocess.run(command, capture_output=True, check=True, timeout=20)
    assert len(done.stdout) == 5 * SIZE[0] * SIZE[1]
    return SIZE


def pyav_size(url: str, transport: Transport) -> tuple[int, int]:
    options = {"rtsp_transport": transport, "analyzeduration": "500000"}
    with av.open(url, options=options, timeout=10) as container:
        frames = container.decode(video=0)
        sizes = {(frame.width, frame.height) for frame, _ in zip(frames, range(5), strict=False)}
    assert len(sizes) == 1
    return sizes.pop()


def opencv_size(url: str, transport: Transport) -> tuple[int, int]:
    """Transport and probing come from the environment variable that the test sets."""
    options = [
        cv2.CAP_PROP_OPEN_TIMEOUT_MSEC,
        10_000,
        cv2.CAP_PROP_READ_TIMEOUT_MSEC,
        10_000,
        cv2.CAP_PROP_N_THREADS,
        1,
    ]
    capture = cv2.VideoCapture(url, cv2.CAP_FFMPEG, options)
    try:
        assert all(capture.read()[0] for _ in range(4))
        _, picture = capture.read()
    finally:
        capture.release()
    return picture.shape[1], picture.shape[0]


@pytest.mark.parametrize("transport", ["tcp", "udp"])
@pytest.mark.parametrize("play", [ffprobe_size, ffmpeg_size, pyav_size, opencv_size])
def test_every_player_gets_pictures(
    stream: str,
    play: Callable[[str, Transport], tuple[int, int]],
    transport: Transport,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each client library decodes what FFmpeg publishes, with any mix of transports."""
    monkeypatch.setenv("OPENCV_FFMPEG_CAPTURE_OPTIONS", f"rtsp_transport;{transport}|analyzeduration;500000")
    assert play(stream, transport) == SIZE


def test_two_players_at_once_get_the_same_pictures(clip: Path) -> None:
    """One publisher, two players that decode at the same time; each gets its frames and both are counted."""
    with RtspRelay() as relay, publishing(relay.url("cam1"), clip=clip):
        relay.wait_for_publisher("cam1", 10)
        options = {"rtsp_transport": "tcp", "analyzeduration": "500000"}
        with (
            av.open(relay.url("cam1"), options=options, timeout=10) as one,
            av.open(relay.url("cam1"), options=options, timeout=10) as other,
        ):
            assert relay.wait_for_reader("cam1", 5, readers=2).readers == 2
            for container in (one, other):
                assert next(container.decode(video=0)).width == SIZE[0]


def test_players_see_the_end_of_the_stream(clip: Path) -> None:
    """When the publisher ends, a player's decoding ends within a second and does not hang."""
    with RtspRelay() as relay:
        with publishing(relay.url("cam1"), clip=clip):
            relay.wait_for_publisher("cam1", 10)
            container = av.open(relay.url("cam1"), options={"rtsp_transport": "tcp"}, timeout=10)
            frames = container.decode(video=0)
            next(frames)
        with container:
            assert sum(1 for _ in frames) < 25 * 10  # what was on the way, and the end
        relay.wait_until_idle("cam1", 5)


def test_an_unknown_path_is_404_for_players() -> None:
    """ffprobe is told 404, and not left waiting."""
    with RtspRelay() as relay, pytest.raises(ProbeError, match="404 Not Found"):
        probe(relay.url("nobody"))


@pytest.mark.parametrize("scheme", ["basic", "digest"])
def test_awkward_credentials_work_for_publishers_and_players(scheme: str, clip: Path) -> None:
    """Users and passwords with @ : / % # ? and umlauts pass when they are percent-encoded in the URL."""
    with RtspRelay(credentials={USER: PASSWORD}, auth=scheme) as relay:
        url = relay.url("cam1", user=USER, password=PASSWORD)
        with publishing(url, clip=clip):
            relay.wait_for_publisher("cam1", 10)
            assert ffprobe_size(url, "tcp") == SIZE
            assert pyav_size(url, "tcp") == SIZE
            for wrong in (relay.url("cam1"), relay.url("cam1", user=USER, password="wrong")):
                with pytest.raises(ProbeError, match="401 Unauthorized"):
                    probe(wrong)


def test_publishers_without_credentials_are_turned_away_and_players_are_not(clip: Path) -> None:
    """guard='publishers' protects a path against intruders only."""
    with RtspRelay(credentials={USER: PASSWORD}, guard="publishers") as relay:
        with publishing(relay.url("cam1"), clip=clip) as intruder:
            assert intruder.wait(10) != 0
        with publishing(relay.url("cam1", user=USER, password=PASSWORD), clip=clip):
            relay.wait_for_publisher("cam1", 10)
            assert ffprobe_size(relay.url("cam1"), "tcp") == SIZE


@pytest.mark.parametrize("allow_takeover", [False, True])
def test_a_second_publisher_is_refused_or_takes_over(clip: Path, *, allow_takeover: bool) -> None:
    """As the option says, the newcomer's or the first one's FFmpeg ends, and the path plays on."""
    with RtspRelay(allow_takeover=allow_takeover) as relay, publishing(relay.url("cam1"), clip=clip) as first:
        relay.wait_for_publisher("cam1", 10)
        with publishing(relay.url("cam1"), clip=clip) as second:
            loser, winner = (first, second) if allow_takeover else (second, first)
            loser.wait(10)
            relay.wait_for_publisher("cam1", 10)
            assert winner.poll() is None
            assert ffprobe_size(relay.url("cam1"), "tcp") == SIZE


def test_a_relay_without_udp_makes_ffmpeg_fall_back_to_tcp(clip: Path) -> None:
    """Many cameras offer TCP only: UDP is answered with 461, and clients that may choose take TCP."""
    with RtspRelay(transports=["tcp"]) as relay, publishing(relay.url("cam1"), clip=clip):
        relay.wait_for_publisher("cam1", 10)
        with pytest.raises(ProbeError):
            probe(relay.url("cam1"), transport="udp")
        with av.open(relay.url("cam1"), timeout=10) as container:  # FFmpeg's default is to try UDP first
            assert next(container.decode(video=0)).width == SIZE[0]


@pytest.mark.gstreamer
@pytest.mark.parametrize("transport", ["tcp", "udp"])
def test_gstreamer_plays(transport: str, clip: Path) -> None:
    """A second, independent implementation of RTSP, Digest and RTP reads what FFmpeg published."""
    relay = RtspRelay(credentials={"me": "pass"})
    with ExitStack() as stack:
        stack.enter_context(relay)
        stack.enter_context(publishing(relay.url("cam1", user="me", password="pass"), clip=clip))
        relay.wait_for_publisher("cam1", 10)
        source = f"rtspsrc location={relay.url('cam1')} user-id=me user-pw=pass protocols={transport}"
        pipeline = f"{source} ! rtph264depay ! h264parse ! fakesink num-buffers=10"
        subprocess.run([PYTHON_WITH_GSTREAMER, "-c", GSTREAMER, pipeline], check=True, timeout=30)


@pytest.mark.gstreamer
@pytest.mark.parametrize("transport", ["tcp", "udp"])
def test_gstreamer_publishes(transport: str) -> None:
    """GStreamer's RECORD client is taken, and FFmpeg plays what it sends."""
    with RtspRelay() as relay:
        picture = f"videotestsrc is-live=true ! video/x-raw,width={SIZE[0]},height={SIZE[1]},framerate=25/1"
        sink = f"x264enc tune=zerolatency key-int-max=10 ! rtspclientsink location={relay.url('cam1')}"
        pipeline = f"{picture} ! {sink} protocols={transport}"
        process = subprocess.Popen([PYTHON_WITH_GSTREAMER, "-c", GSTREAMER, pipeline])
        try:
            relay.wait_for_publisher("cam1", 15)
            assert ffprobe_size(relay.url("cam1"), "tcp") == SIZE
        finally:
            stop(process)
