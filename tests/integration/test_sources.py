"""Our video sources against a real RTSP relay with real FFmpeg publishers, plain sockets and files."""

from __future__ import annotations

import functools
import http.server
import logging
import socket
import subprocess
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Literal

import numpy as np
import pytest

from sentinel_pipeline.application.ports import FrameSource
from sentinel_pipeline.domain.errors import StreamEnded, StreamError, StreamRefused, StreamStalled
from sentinel_pipeline.domain.frame import Frame
from sentinel_pipeline.domain.streams import DecodeSpec
from sentinel_pipeline.domain.timeline import Timeline
from sentinel_pipeline.infrastructure.video.opencv_source import OpenCVSource
from sentinel_pipeline.infrastructure.video.pyav_source import PyAVSource
from sentinel_pipeline.infrastructure.video.sources import open_source
from sentinel_pipeline.lab.rtsp_relay import RtspRelay
from support.streams import make_clip, publishing, stop

pytestmark = pytest.mark.ffmpeg

Backend = Literal["pyav", "opencv"]
BACKENDS = pytest.mark.parametrize("backend", ["pyav", "opencv"])
SIZE = (320, 180)
PASSWORD = "p@ss:w/rd%41#1?x"  # every character that URLs make trouble with


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two seconds of 320x180 at 25 pictures a second with a key frame every 0.4 s."""
    return make_clip(tmp_path_factory.mktemp("clips") / "clip.mp4", size=SIZE, fps=25, seconds=2, gop=10)


@pytest.fixture(scope="module")
def two_sizes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One second of 320x180, then one of 160x120, in one stream."""
    folder = tmp_path_factory.mktemp("sizes")
    for number, size in enumerate(("320x180", "160x120")):
        command = ["ffmpeg", "-loglevel", "error", "-nostdin", "-f", "lavfi", "-i", f"testsrc2=size={size}:rate=25"]
        command += ["-t", "1", "-c:v", "libx264", "-preset", "ultrafast", "-g", "5", "-pix_fmt", "yuv420p"]
        command += ["-output_ts_offset", str(number), "-f", "mpegts", str(folder / f"{number}.ts")]
        subprocess.run(command, check=True, timeout=60)
    joined = folder / "joined.ts"
    joined.write_bytes((folder / "0.ts").read_bytes() + (folder / "1.ts").read_bytes())
    return joined


@pytest.fixture(scope="module")
def relay(clip: Path) -> Iterator[RtspRelay]:
    """A relay that asks for a password and has one camera on path ``cam``."""
    with RtspRelay(credentials={"viewer": PASSWORD}) as relay:
        url = relay.url("cam", user="viewer", password=PASSWORD)
        with publishing(url, clip=clip):
            relay.wait_for_publisher("cam", 15)
            yield relay


@pytest.fixture
def camera(relay: RtspRelay) -> Iterator[str]:
    """The URL of a camera that works again when the test is over."""
    yield relay.url("cam", user="viewer", password=PASSWORD)
    relay.faults("cam").resume()


def read(source: FrameSource, count: int) -> list[Frame]:
    with closing(source):
        source.open()
        return [source.read() for _ in range(count)]


def read_to_end(source: FrameSource) -> tuple[int, StreamError]:
    """Read to the error that ends every stream; return it and how many frames came before, at most 500."""
    for count in range(500):
        try:
            source.read()
        except StreamError as exc:
            return count, exc
    raise AssertionError("the stream goes on")


def until(reached: Callable[[], bool], timeout: float = 15.0) -> None:
    """Wait for something that only polling can see."""
    ends = time.monotonic() + timeout
    while not reached():
        assert time.monotonic() < ends
        threading.Event().wait(0.02)


@contextmanager
def cancelling(source: FrameSource, after: float) -> Iterator[None]:
    """Cancel the source from another thread and demand that the block ends within half a second of that."""
    timer = threading.Timer(after, source.cancel)
    started = time.monotonic()
    timer.start()
    yield
    assert time.monotonic() - started < after + 0.5
    timer.join()


def everything_said(error: BaseException) -> str:
    """Return all that a log could print about an error, ignoring ``from None``."""
    said = [str(error), repr(error), *traceback.format_exception(error)]
    return " ".join(said) + everything_said(error.__context__) if error.__context__ else " ".join(said)


# What works


@BACKENDS
@pytest.mark.parametrize("transport", ["tcp", "udp"])
def test_source_reads_size_order_and_times(camera: str, backend: Backend, transport: Literal["tcp", "udp"]) -> None:
    """Frames come in order, with stream time at the camera's rate and capture time near now, over TCP and UDP."""
    frames = read(open_source(DecodeSpec(backend=backend, transport=transport), camera), 20)
    assert {frame.size for frame in frames} == {SIZE}
    assert [frame.sequence for frame in frames] == list(range(20))
    steps = [later.pts - earlier.pts for earlier, later in pairwise(frames)]
    assert min(steps) >= 0
    assert np.median(steps) == pytest.approx(0.04, abs=0.005)
    assert all(later.received_at >= earlier.received_at for earlier, later in pairwise(frames))
    assert frames[-1].captured_at == pytest.approx(time.time(), abs=1.0)
    assert frames[-1].bgr().std() > 20
    assert all(frame.decode_ms >= 0 for frame in frames)


def test_pyav_opens_fast(camera: str) -> None:
    """The first picture takes no probing: with a key frame every 0.4 s it is there within a second and a half."""
    source = PyAVSource(camera)
    started = time.monotonic()
    read(source, 1)
    assert time.monotonic() - started < 1.5
    assert source.decode_errors == 0, "nothing before the first key frame was given to the decoder"


def test_pyav_takes_a_raw_password(relay: RtspRelay) -> None:
    """A password that was pasted as it is, with @ : / % # ? in it, works."""
    host = f"127.0.0.1:{relay.port}"
    assert read(PyAVSource(f"rtsp://viewer:{PASSWORD.replace('%41', '%2541')}@{host}/cam"), 1)[0].size == SIZE


def test_stream_time_goes_on_across_connections(camera: str) -> None:
    """A second connection with the same timeline continues after the first, though its timestamps start over."""
    timeline = Timeline()
    first = read(PyAVSource(camera, timeline=timeline), 5)
    started = time.monotonic()
    second = read(PyAVSource(camera, timeline=timeline), 5)
    away = second[0].received_at - first[-1].received_at
    assert second[0].pts - first[-1].pts == pytest.approx(away, abs=0.01)
    assert second[0].sequence == 0
    assert time.monotonic() >= started


def test_capture_time_comes_from_the_cameras_sender_reports(camera: str) -> None:
    """After the first RTCP report (FFmpeg sends one in 5 s) capture time is the camera's, free of network jitter."""
    with closing(PyAVSource(camera)) as source:
        source.open()
        connection = source._connection
        assert connection is not None
        for _ in range(200):
            source.read()
            if connection.container.start_time_realtime is not None:
                break
        frames = [source.read() for _ in range(10)]
    drift = [b.captured_at - a.captured_at - (b.pts - a.pts) for a, b in pairwise(frames)]
    assert np.median(np.abs(drift)) < 1e-4, "not all: no picture is taken after it was received"
    assert 0 <= time.time() - frames[-1].captured_at < 1.0


def test_resolution_change_is_seen_on_the_right_frame(two_sizes: Path) -> None:
    """A camera that changes its resolution is followed without a reconnect, and every picture has its true size."""
    with (
        RtspRelay() as relay,
        publishing(relay.url("cam"), clip=two_sizes),
        closing(PyAVSource(relay.url("cam"))) as source,
    ):
        relay.wait_for_publisher("cam", 15)
        source.open()
        sizes = [source.read().size for _ in range(90)]
    assert {(320, 180), (160, 120)} == set(sizes)


# Silence


@BACKENDS
def test_mute_camera_stalls_within_the_open_timeout(camera: str, relay: RtspRelay, backend: Backend) -> None:
    """A camera that accepts and never answers fails the open within its time-out + 0.5 s."""
    relay.faults("cam").mute()
    source = open_source(DecodeSpec(backend=backend, open_timeout=1.0), camera)
    started = time.monotonic()
    with closing(source), pytest.raises(StreamStalled, match="did not answer with video within 1 s"):
        source.open()
    assert 0.9 < time.monotonic() - started < 1.5


@BACKENDS
@pytest.mark.parametrize("fault", ["stall", "half_frame", "garbage"])
def test_stalled_or_broken_stream_is_noticed_within_the_read_timeout(
    camera: str, relay: RtspRelay, backend: Backend, fault: str
) -> None:
    """A stream that stops, stops in mid-frame, or turns to garbage is over within the read time-out + 0.5 s."""
    source = open_source(DecodeSpec(backend=backend, read_timeout=1.0), camera)
    with closing(source):
        source.open()
        source.read()
        getattr(relay.faults("cam"), fault)()
        started = time.monotonic()
        error = read_to_end(source)[1]
        took = time.monotonic() - started
    assert took < 1.9  # up to 0.4 s of pictures were under way
    if (backend, fault) == ("opencv", "garbage"):
        assert isinstance(error, StreamEnded), "OpenCV does not tell garbage from the end"
    else:
        assert isinstance(error, StreamStalled)
        assert "1 s" in str(error)
        assert took > 0.9


def test_stream_without_a_first_packet_stalls(camera: str, relay: RtspRelay) -> None:
    """A camera that agrees to play and then sends nothing fails the open within its time-out."""
    relay.faults("cam").stall()
    started = time.monotonic()
    with closing(PyAVSource(camera, open_timeout=0.6)) as source, pytest.raises(StreamStalled, match=r"0\.6 s"):
        source.open()
    assert time.monotonic() - started < 1.1


def test_stream_without_a_key_frame_says_so(tmp_path: Path) -> None:
    """Packets without a key frame count as life until the open time-out, and then the remedy is named."""
    long_gop = make_clip(tmp_path / "long.mp4", size=(160, 120), fps=25, seconds=20, gop=1000)
    with RtspRelay() as relay, publishing(relay.url("cam"), clip=long_gop):
        until(lambda: "cam" in relay.paths() and relay.paths()["cam"].packets_in > 10)  # the key frame is past
        with closing(PyAVSource(relay.url("cam"), open_timeout=1.2, read_timeout=0.5)) as source:
            source.open()
            started = time.monotonic()
            assert "shorten the key frame interval" in str(read_to_end(source)[1])
            assert 1.0 < time.monotonic() - started < 1.7


# Cancelling


def test_cancel_ends_an_open(camera: str, relay: RtspRelay) -> None:
    """An open on a mute camera ends at once when another thread cancels it."""
    relay.faults("cam").mute()
    with closing(PyAVSource(camera)) as source, cancelling(source, 0.3), pytest.raises(StreamEnded, match="cancelled"):
        source.open()


def test_cancel_ends_a_read(camera: str, relay: RtspRelay) -> None:
    """A read on a stalled stream ends at once when another thread cancels it, and so do all later calls."""
    with closing(PyAVSource(camera)) as source:
        source.open()
        source.read()
        relay.faults("cam").stall()
        with cancelling(source, 0.6):
            assert "cancelled" in str(read_to_end(source)[1])
        with pytest.raises(StreamEnded, match="cancelled"):
            source.read()
    with pytest.raises(StreamError, match="not open"):
        source.read()


def test_cancelled_source_does_not_open(camera: str) -> None:
    """What was cancelled before it opened never connects."""
    for source in (PyAVSource(camera), OpenCVSource(camera)):
        source.cancel()
        with closing(source), pytest.raises(StreamEnded, match="cancelled"):
            source.open()


def test_cancel_ends_the_pacing_of_a_file(tmp_path: Path) -> None:
    """A file with one picture in two seconds is left at once."""
    slow = make_clip(tmp_path / "slow.mp4", size=(64, 48), fps=1, seconds=4, gop=1)
    with closing(PyAVSource(str(slow))) as source:
        source.open()
        source.read()
        with cancelling(source, 0.1):
            assert "cancelled" in str(read_to_end(source)[1])


# Refusals and endings


@BACKENDS
def test_wrong_password_is_refused_and_shown_nowhere(
    relay: RtspRelay, backend: Backend, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    """Neither message, repr, traceback, hidden context, log nor stderr holds the password; PyAV names the answer."""
    caplog.set_level(logging.DEBUG)
    secret = "wr0ng-s3cret"
    source = open_source(DecodeSpec(backend=backend), relay.url("cam", user="viewer", password=secret))
    with closing(source), pytest.raises(StreamError) as caught:
        source.open()
    if backend == "pyav":
        assert isinstance(caught.value, StreamRefused)
        assert "401" in str(caught.value)
        assert "password" in caught.value.remedy
    said = everything_said(caught.value) + repr(source) + caplog.text + "".join(capfd.readouterr())
    assert "viewer:****@" in said
    assert secret not in said


@pytest.mark.parametrize(("status", "kind"), [(403, StreamRefused), (404, StreamRefused), (503, StreamError)])
def test_cameras_answer_is_named(camera: str, relay: RtspRelay, status: int, kind: type[StreamError]) -> None:
    """A refusal carries the camera's answer and is told from a failure that is worth another try soon."""
    relay.faults("cam").refuse(status)
    with closing(PyAVSource(camera)) as source, pytest.raises(StreamError) as caught:
        source.open()
    assert type(caught.value) is kind
    assert caught.value.remedy
    if status < 500:
        assert str(status) in str(caught.value)


@BACKENDS
def test_nobody_listens(backend: Backend) -> None:
    """A closed port is an error at once, and not a refusal: the camera may be booting."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with closing(open_source(DecodeSpec(backend=backend), f"rtsp://127.0.0.1:{port}/x")) as source:
        started = time.monotonic()
        with pytest.raises(StreamError) as caught:
            source.open()
    assert not isinstance(caught.value, StreamRefused)
    assert time.monotonic() - started < 2.0


@BACKENDS
def test_end_of_the_publication_ends_the_stream(clip: Path, backend: Backend) -> None:
    """When the camera goes, the pictures that arrived are handed out and then the stream has ended."""
    with RtspRelay() as relay, publishing(relay.url("cam"), clip=clip) as publisher:
        relay.wait_for_publisher("cam", 15)
        with closing(open_source(DecodeSpec(backend=backend), relay.url("cam"))) as source:
            source.open()
            source.read()
            stop(publisher)
            assert isinstance(read_to_end(source)[1], StreamEnded)


def test_what_is_no_video_is_refused(tmp_path: Path) -> None:
    """Noise, a folder and a missing file are refused; none of them is retried for ever as if it were a camera."""
    noise = tmp_path / "noise.bin"
    noise.write_bytes(np.random.default_rng(1).bytes(100_000))
    for path in (noise, tmp_path, tmp_path / "missing.mp4"):
        source = PyAVSource(str(path))
        with closing(source), pytest.raises(StreamError) as caught:
            source.open()
        assert caught.value.remedy


# Files


@BACKENDS
def test_file_plays_in_real_time_and_ends(clip: Path, backend: Backend) -> None:
    """Fifty pictures at 25 a second take two seconds, less the last interval, and then the stream has ended."""
    with closing(open_source(DecodeSpec(backend=backend), str(clip))) as source:
        source.open()
        started = time.monotonic()
        frames = [source.read() for _ in range(50)]
        took = time.monotonic() - started
        assert isinstance(read_to_end(source)[1], StreamEnded)
    assert 1.85 < took < 2.6
    assert frames[-1].pts == pytest.approx(49 / 25, abs=0.001)
    assert frames[-1].received_at - frames[0].received_at == pytest.approx(49 / 25, abs=0.3)


def test_looped_file_goes_on(clip: Path) -> None:
    """A looped file has no end, and its stream time goes on."""
    with closing(PyAVSource(str(clip), loop=True)) as source:
        source.open()
        frames = [source.read() for _ in range(60)]
    assert all(later.pts >= earlier.pts for earlier, later in pairwise(frames))
    assert frames[-1].pts == pytest.approx(59 / 25, abs=0.3)


def test_damaged_file_is_read_around_its_damage(clip: Path, tmp_path: Path) -> None:
    """Damaged packets are counted and left out; the pictures around them come."""
    data = bytearray(make_clip(tmp_path / "whole.ts", size=SIZE, fps=25, seconds=2, gop=10).read_bytes())
    for at in range(len(data) // 3, len(data) // 2, 200):
        data[at] ^= 0xFF
    damaged = tmp_path / "damaged.ts"
    damaged.write_bytes(data)
    source = PyAVSource(str(damaged))
    with closing(source):
        source.open()
        frames, _ = read_to_end(source)
    assert source.decode_errors > 0
    assert 25 <= frames < 50


def test_video_over_http_plays_in_real_time(tmp_path: Path) -> None:
    """A recording on a web server is paced like a file."""
    make_clip(tmp_path / "clip.mkv", size=SIZE, fps=25, seconds=2, gop=10)
    handler = functools.partial(_QuietHandler, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            started = time.monotonic()
            frames = read(PyAVSource(f"http://127.0.0.1:{server.server_port}/clip.mkv"), 25)
        finally:
            server.shutdown()
            thread.join()
    assert time.monotonic() - started > 0.9
    assert frames[0].size == SIZE


class _QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args: object) -> None:
        pass


def test_mpeg_ts_over_udp(clip: Path) -> None:
    """A transport stream that is sent to us over UDP is recognised and read."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = ["ffmpeg", "-loglevel", "error", "-nostdin", "-re", "-stream_loop", "-1", "-i", str(clip), "-c", "copy"]
    command += ["-f", "mpegts", f"udp://127.0.0.1:{port}?pkt_size=1316"]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    try:
        frames = read(PyAVSource(f"udp://127.0.0.1:{port}"), 10)
    finally:
        stop(process)
    assert {frame.size for frame in frames} == {SIZE}


# OpenCV's environment


def test_opencv_opens_side_by_side_and_restores_the_environment(
    camera: str, relay: RtspRelay, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two mute cameras with the same options fail after one time-out, not two; the environment is put back."""
    import os

    monkeypatch.setenv("OPENCV_FFMPEG_CAPTURE_OPTIONS", "theirs;1")
    relay.faults("cam").mute()
    attempts: list[Callable[[], None]] = [OpenCVSource(camera, open_timeout=1.0).open for _ in range(2)]

    def attempt(work: Callable[[], None]) -> None:
        with pytest.raises(StreamStalled):
            work()

    threads = [threading.Thread(target=attempt, args=(work,)) for work in attempts]
    started = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert time.monotonic() - started < 1.8
    assert os.environ["OPENCV_FFMPEG_CAPTURE_OPTIONS"] == "theirs;1"
