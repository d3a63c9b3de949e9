"""SRT cameras, read through a copying child; and RTMP ones, read in process."""

from __future__ import annotations

import socket
import subprocess
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import closing, contextmanager
from itertools import pairwise
from pathlib import Path

import numpy as np
import psutil
import pytest

from sentinel_pipeline.domain.errors import StreamEnded, StreamError, StreamRefused, StreamStalled
from sentinel_pipeline.domain.streams import DecodeSpec
from sentinel_pipeline.infrastructure.video.child_input import ChildInput, input_command
from sentinel_pipeline.infrastructure.video.pyav_source import PyAVSource
from sentinel_pipeline.infrastructure.video.sources import open_source
from support.peers import nginx_rtmp, publishing_rtmp
from support.streams import make_clip, stop

pytestmark = pytest.mark.ffmpeg
SECRET = "s3cret-passphrase"
SIZE = (320, 180)


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two seconds of 320x180 at 25 pictures a second with a key frame every 0.4 s."""
    return make_clip(tmp_path_factory.mktemp("srt") / "clip.mp4", size=SIZE, fps=25, seconds=2, gop=10)


def free_udp_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def srt_camera(
    clip: Path, *, seconds: float | None = None, query: str = ""
) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """Run ffmpeg as an SRT listener that sends ``clip`` over and over, and yield its URL."""
    port = free_udp_port()
    command = ["ffmpeg", "-nostdin", "-v", "quiet", "-re", "-stream_loop", "-1", "-i", str(clip), "-c", "copy"]
    command += ["-t", str(seconds)] if seconds else []
    command += ["-f", "mpegts", f"srt://127.0.0.1:{port}?mode=listener{query}"]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        ends = time.monotonic() + 10
        while port not in {c.laddr.port for c in psutil.Process(process.pid).net_connections("udp")}:
            assert time.monotonic() < ends, "ffmpeg listens"
            threading.Event().wait(0.02)
        yield f"srt://127.0.0.1:{port}", process
    finally:
        stop(process)


def read_on(source: PyAVSource) -> None:
    """Read to the error that ends every stream, at most 500 pictures."""
    for _ in range(500):
        source.read()


def children() -> list[psutil.Process]:
    return [child for child in psutil.Process().children() if child.status() != psutil.STATUS_ZOMBIE]


def everything_said(error: BaseException | None) -> str:
    """Return all that a log could print about an error, ignoring ``from None``."""
    if error is None:
        return ""
    return "".join([repr(error), *traceback.format_exception(error)]) + everything_said(error.__context__)


def test_srt_source_reads_size_order_and_times(clip: Path) -> None:
    """Pictures come in order at the camera's rate, through the source that the configuration chooses; closing ends
    the child."""
    with srt_camera(clip) as (url, camera):
        with closing(open_source(DecodeSpec(), url)) as source:
            source.open()
            frames = [source.read() for _ in range(30)]
            assert len(children()) == 2
        assert {child.pid for child in children()} <= {camera.pid}, "it may end with its only viewer"
    assert {frame.size for frame in frames} == {SIZE}
    steps = [b.pts - a.pts for a, b in pairwise(frames)]
    assert min(steps) > 0
    assert np.median(steps) == pytest.approx(0.04, abs=0.005)
    assert frames[-1].bgr().std() > 20


def test_srt_source_stalls_within_its_timeout(clip: Path) -> None:
    """A camera that freezes is noticed within the read time-out + 0.5 s, and named as such."""
    with srt_camera(clip) as (url, camera), closing(PyAVSource(url, read_timeout=1.0)) as source:
        source.open()
        source.read()
        psutil.Process(camera.pid).suspend()
        started = time.monotonic()
        with pytest.raises(StreamStalled, match="sent no picture for 1 s"):
            read_on(source)
        assert time.monotonic() - started < 2.2  # up to half a second of pictures were under way
        psutil.Process(camera.pid).resume()


def test_srt_source_nobody_there() -> None:
    """Without a camera the open fails within its time-out + 0.5 s."""
    with closing(PyAVSource(f"srt://127.0.0.1:{free_udp_port()}", open_timeout=1.0)) as source:
        started = time.monotonic()
        with pytest.raises(StreamStalled, match="did not answer with video within 1 s"):
            source.open()
        assert time.monotonic() - started < 1.5
    assert children() == []


def test_srt_source_can_be_cancelled() -> None:
    """An open that waits for a camera ends at once when another thread cancels it."""
    with closing(PyAVSource(f"srt://127.0.0.1:{free_udp_port()}")) as source:
        timer = threading.Timer(0.4, source.cancel)
        started = time.monotonic()
        timer.start()
        with pytest.raises(StreamEnded, match="cancelled"):
            source.open()
        assert time.monotonic() - started < 1.0
        timer.join()


def test_srt_source_is_refused_with_a_reason_and_without_the_passphrase(
    clip: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """A wrong passphrase is a refusal with a remedy, the same words each time; no passphrase is in anything said."""
    with srt_camera(clip, query=f"&passphrase={SECRET}") as (url, _):
        said = []
        for _ in range(2):
            source = PyAVSource(f"{url}?passphrase=wr0ng-{SECRET}")
            with closing(source), pytest.raises(StreamRefused) as caught:
                source.open()
            assert "passphrase" in caught.value.remedy
            assert caught.value.status == 401, "a refused login is repeated rarely"
            said.append(str(caught.value))
            assert SECRET not in everything_said(caught.value) + repr(source)
        assert said[0] == said[1]
        with closing(PyAVSource(f"{url}?passphrase={SECRET}")) as source:
            source.open()
            assert source.read().size == SIZE
    assert SECRET not in "".join(capfd.readouterr())


def test_srt_source_ends_with_the_camera(clip: Path) -> None:
    """When the camera hangs up the pictures that came are handed out, and then the stream is over."""
    with srt_camera(clip, seconds=2) as (url, _), closing(PyAVSource(url, read_timeout=5.0)) as source:
        source.open()
        frames = [source.read() for _ in range(20)]
        with pytest.raises(StreamError) as caught:
            read_on(source)
    assert len(frames) == 20
    assert not isinstance(caught.value, StreamRefused)


def test_srt_source_whose_child_dies_says_so(clip: Path) -> None:
    """A killed child is an end of the stream at once, not a hang."""
    with srt_camera(clip) as (url, camera), closing(PyAVSource(url)) as source:
        source.open()
        source.read()
        (child,) = [child for child in children() if child.pid != camera.pid]
        child.kill()
        started = time.monotonic()
        with pytest.raises(StreamEnded):
            read_on(source)
        assert time.monotonic() - started < 1.0


def test_srt_source_without_ffmpeg_is_refused(tmp_path: Path) -> None:
    """A binary that is not there is named, with what to do."""
    with (
        closing(PyAVSource("srt://127.0.0.1:9", ffmpeg=str(tmp_path / "ffmpeg"))) as source,
        pytest.raises(StreamError, match="cannot be started") as caught,
    ):
        source.open()
    assert caught.value.remedy


def test_srt_child_ends_by_itself_when_nobody_reads() -> None:
    """The child gives up after the read time-out of the camera: a killed pipeline leaves no process behind."""
    command = input_command("ffmpeg", f"srt://127.0.0.1:{free_udp_port()}", open_timeout=0.5, read_timeout=0.5)
    started = time.monotonic()
    done = subprocess.run(command, capture_output=True, timeout=20, check=False, stdin=subprocess.DEVNULL)
    assert done.returncode != 0
    assert time.monotonic() - started < 6


def test_srt_child_closes_twice() -> None:
    """Closing is idempotent, also before the start."""
    child = ChildInput("srt://127.0.0.1:9")
    child.close()
    child.start()
    assert child.pid is not None
    child.close()
    child.close()
    assert child.pid is None


@pytest.mark.nginx
def test_rtmp_source_reads_what_nginx_sends(clip: Path) -> None:
    """An RTMP server that is not ours is read in process, in order and at the rate of its publisher."""
    with nginx_rtmp() as url, publishing_rtmp(url, clip):
        frames = []
        ends = time.monotonic() + 15
        while not frames:
            with closing(PyAVSource(url, open_timeout=5.0)) as source:
                try:
                    source.open()
                    frames = [source.read() for _ in range(30)]
                except StreamError:  # the publisher is not there yet
                    assert time.monotonic() < ends
                    threading.Event().wait(0.1)
    assert {frame.size for frame in frames} == {SIZE}
    steps = [b.pts - a.pts for a, b in pairwise(frames)]
    assert min(steps) >= 0
    assert np.median(steps) == pytest.approx(0.04, abs=0.005)
