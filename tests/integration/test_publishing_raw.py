"""FFmpegPublisher: raw pictures through an ffmpeg that encodes, as the user's document has it."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import av
import numpy as np
import psutil
import pytest

from sentinel_pipeline.domain.errors import ConfigError, PublishError
from sentinel_pipeline.infrastructure.video.ffmpeg_publisher import FFmpegPublisher
from sentinel_pipeline.lab.rtsp_relay import RtspRelay
from support.pictures import drive

pytestmark = pytest.mark.ffmpeg
WHITE = np.full((360, 640, 3), 255, np.uint8)


@contextmanager
def publishing_to(url: str | Path, **options: Any) -> Iterator[FFmpegPublisher]:
    publisher = FFmpegPublisher("gate", str(url), 640, 360, **options)
    publisher.start()
    try:
        yield publisher
    finally:
        started = time.monotonic()
        publisher.stop(3.0)
        assert time.monotonic() - started < 3.4
        assert not publisher.is_running


def _child() -> psutil.Process:
    (child,) = [p for p in psutil.Process().children() if p.name().startswith("ffmpeg")]
    return child


def _pictures(path: Path) -> list[np.ndarray]:
    with av.open(str(path)) as container:
        return [picture.to_ndarray(format="bgr24") for picture in container.decode(video=0)]


@pytest.mark.parametrize("log_stderr", [False, True])
def test_a_player_gets_the_stream(log_stderr: bool) -> None:
    """Pictures written arrive at a player of the media server, with and without ffmpeg's log."""
    with RtspRelay() as relay, publishing_to(relay.url("gate"), log_stderr=log_stderr) as publisher:
        drive(lambda _: publisher.write_frame(WHITE), lambda: relay.paths().get("gate") is not None)
        drive(lambda _: publisher.write_frame(WHITE), lambda: relay.paths()["gate"].packets_in > 25)
        assert publisher.is_running
        assert publisher.report().state == "running"
        assert publisher.report().published > 10


def test_the_rate_is_constant_and_the_last_picture_is_repeated(tmp_path: Path) -> None:
    """A caller that writes once gets a stream at full rate: the missing pictures are the last one again."""
    path = tmp_path / "out.mkv"
    with publishing_to(path, fps=50) as publisher:
        assert publisher.write_frame(WHITE)
        drive(lambda _: None, lambda: publisher.report().published >= 50)
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        times = [float(packet.pts * packet.time_base) for packet in container.demux(stream) if packet.pts is not None]
    assert len(times) >= 50
    assert np.allclose(np.diff(times), 0.02, atol=0.0011)
    assert all(picture.mean() > 230 for picture in _pictures(path))


def test_a_caller_that_is_too_fast_is_thinned_out(tmp_path: Path) -> None:
    """More pictures than the rate are dropped and counted; the writer never waits."""
    with publishing_to(tmp_path / "out.mkv", fps=5) as publisher:
        longest = drive(lambda _: publisher.write_frame(WHITE), lambda: publisher.report().published >= 5, fps=100)
        assert longest < 0.1
        assert publisher.report().dropped > 40


@pytest.mark.parametrize("shape", [(360, 640, 3), (361, 641, 3), (720, 720, 3), (48, 64), (90, 160, 4), (10, 10, 1)])
def test_pictures_of_any_size_are_published(tmp_path: Path, shape: tuple[int, ...]) -> None:
    """Other sizes are letterboxed, grey and BGRA become BGR; the output keeps its size."""
    path = tmp_path / "out.mkv"
    with publishing_to(path) as publisher:
        assert publisher.write_frame(np.full(shape, 255, np.uint8))
    picture = _pictures(path)[0]
    assert picture.shape == (360, 640, 3)
    assert picture[180, 320].mean() > 230
    if shape[0] == shape[1]:
        assert picture[180, 20].mean() < 20


@pytest.mark.parametrize(
    "frame",
    [None, "picture", np.zeros((0, 0, 3), np.uint8), np.zeros((5, 5, 3)), np.zeros((5, 5, 2), np.uint8)],
    ids=["none", "text", "empty", "float", "channels"],
)
def test_what_is_no_picture_is_refused(tmp_path: Path, frame: Any) -> None:
    """A failed read or a wrong array is answered with False and counted; publishing goes on."""
    with publishing_to(tmp_path / "out.mkv") as publisher:
        assert not publisher.write_frame(frame)
        assert publisher.write_frame(WHITE)
        assert publisher.report().dropped >= 1


def test_the_callers_array_may_be_reused(tmp_path: Path) -> None:
    """As with a blocking write, the picture is taken when ``write_frame`` returns."""
    path = tmp_path / "out.mkv"
    with publishing_to(path) as publisher:
        mine = WHITE.copy()
        publisher.write_frame(mine)
        mine[:] = 0
    assert _pictures(path)[0].mean() > 230


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "hanging"])
def test_a_dead_or_stuck_ffmpeg_is_replaced(how: signal.Signals) -> None:
    """The picture is back after ffmpeg was killed, or hangs; the writer never noticed."""
    with RtspRelay(allow_takeover=True) as relay, publishing_to(relay.url("gate"), write_timeout=1.0) as publisher:
        drive(lambda _: publisher.write_frame(WHITE), lambda: publisher.report().state == "running")
        victim = _child()
        os.kill(victim.pid, how)
        longest = drive(lambda _: publisher.write_frame(WHITE), lambda: publisher.report().state == "retrying")
        assert publisher.report().reason
        drive(lambda _: publisher.write_frame(WHITE), lambda: publisher.report().state == "running")
        assert longest < 0.1
        assert publisher.report().restarts == 1
        assert not psutil.pid_exists(victim.pid)


def test_stop_keeps_its_deadline_while_the_writer_is_stuck() -> None:
    """The document's stop would hang for ever closing stdin while a write is under way; this one does not."""
    with RtspRelay() as relay, publishing_to(relay.url("gate"), write_timeout=60.0) as publisher:
        drive(lambda _: publisher.write_frame(WHITE), lambda: publisher.report().state == "running")
        os.kill(_child().pid, signal.SIGSTOP)
        dropped = publisher.report().dropped
        drive(lambda _: publisher.write_frame(WHITE), lambda: publisher.report().dropped > dropped + 5)


def test_with_its_log_the_refusal_of_the_server_is_known() -> None:
    """``log_stderr`` explains an exit, without the password."""
    with (
        RtspRelay(credentials={"user": "right"}) as relay,
        publishing_to(relay.url("gate", user="user", password="hunter2"), log_stderr=True) as publisher,
    ):
        drive(lambda _: publisher.write_frame(WHITE), lambda: publisher.report().state == "retrying")
        reason = publisher.report().reason
    assert "401" in reason
    assert "hunter2" not in reason


def test_start_and_stop_may_be_repeated(tmp_path: Path) -> None:
    """Starting twice is starting once; after a stop it can be started again; writing while stopped is refused."""
    publisher = FFmpegPublisher("gate", str(tmp_path / "out.mkv"), 640, 360)
    assert publisher.report().state == "stopped"
    publisher.stop()
    for _ in range(2):
        assert not publisher.write_frame(WHITE)
        publisher.start()
        publisher.start()
        assert len(psutil.Process().children()) == 1
        assert publisher.is_running
        assert publisher.write_frame(WHITE)
        publisher.stop()
        publisher.stop()
        assert not publisher.is_running
        assert publisher.report().state == "stopped"
        assert len(_pictures(tmp_path / "out.mkv")) >= 1


def test_no_thread_before_the_first_picture(tmp_path: Path) -> None:
    """Starting starts a process, not a thread: a publisher that is never fed costs nothing."""
    before = threading.active_count()
    with publishing_to(tmp_path / "out.mkv"):
        assert threading.active_count() == before


def test_a_missing_ffmpeg_is_an_error_with_a_remedy() -> None:
    """``start`` says what is missing."""
    publisher = FFmpegPublisher("gate", "rtsp://127.0.0.1:1/a", 640, 360, binary="/nowhere/ffmpeg")
    with pytest.raises(PublishError, match="FFmpeg was not found"):
        publisher.start()
    assert not publisher.is_running
    publisher.stop()


def test_a_wrong_url_is_found_at_construction() -> None:
    """What ffmpeg could not publish to is refused before anything starts."""
    with pytest.raises(ConfigError, match="supported are"):
        FFmpegPublisher("gate", "http://h/a", 640, 360)


def test_odd_sizes_are_rounded_down(tmp_path: Path) -> None:
    """x264 takes even sizes only; the publisher makes them so."""
    publisher = FFmpegPublisher("gate", str(tmp_path / "out.mkv"), 641, 361)
    command = publisher._build_ffmpeg_command()
    assert command[command.index("-s") + 1] == "640x360"
    publisher.start()
    publisher.write_frame(WHITE)
    publisher.stop()
    assert _pictures(tmp_path / "out.mkv")[0].shape == (360, 640, 3)


def test_ffmpeg_is_not_hit_by_ctrl_c(tmp_path: Path) -> None:
    """The child has a session of its own, so that Ctrl-C in a terminal reaches the pipeline first."""
    with publishing_to(tmp_path / "out.mkv"):
        child = _child()
        assert os.getsid(child.pid) == child.pid != os.getsid(0)
        assert os.getpgid(child.pid) != os.getpgid(0)
