"""The child ffmpeg, with the real program: how it is fed, how it fails, how it ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from sentinel_pipeline.domain.errors import PublishError
from sentinel_pipeline.infrastructure.video.ffmpeg_child import FFmpegChild
from sentinel_pipeline.infrastructure.video.ffmpeg_command import copy_command
from support.pictures import encoded_pieces, until

pytestmark = pytest.mark.ffmpeg


@pytest.fixture
def child(tmp_path: Path) -> Iterator[FFmpegChild]:
    child = FFmpegChild(copy_command("ffmpeg", str(tmp_path / "out.mkv")), write_timeout=0.5, open_timeout=5.0)
    child.start()
    yield child
    child.stop(1.0)


def _until_opened(child: FFmpegChild) -> None:
    until(lambda: child.check() or child.opened, 10.0, "the output to open")


def test_a_healthy_child_finishes_its_output(child: FFmpegChild, tmp_path: Path) -> None:
    """The end of input lets ffmpeg write all it has; it is reaped, and its exit is quick."""
    for piece in encoded_pieces(30):
        child.write(piece)
    _until_opened(child)
    pid = child.pid
    started = time.monotonic()
    child.stop(5.0)
    assert time.monotonic() - started < 2.0
    assert not child.alive
    assert not psutil.pid_exists(pid or 0)
    ask = ["ffprobe", "-v", "error", "-count_packets", "-show_entries", "stream=nb_read_packets", "-of", "csv=p=0"]
    counted = subprocess.run([*ask, str(tmp_path / "out.mkv")], capture_output=True, text=True, check=True).stdout
    assert counted.strip() == "30"


def test_stop_may_be_called_again_and_before_any_input(child: FFmpegChild) -> None:
    """A child that never got anything ends as well, and stopping twice does nothing."""
    child.stop(2.0)
    child.stop(2.0)
    assert not child.alive
    with pytest.raises(PublishError, match="not running"):
        child.write(b"x")


@pytest.mark.parametrize("size", [1000, 4_000_000], ids=["fits-the-pipe", "larger-than-the-pipe"])
def test_a_stopped_child_is_noticed(child: FFmpegChild, size: int) -> None:
    """A child that does not read is noticed after ``write_timeout``, also while the pipe still takes everything."""
    child.write(encoded_pieces(3)[0])
    until(lambda: child.check() or not child._unread, 5.0, "the first bytes to be read")
    os.kill(child.pid or 0, signal.SIGSTOP)
    started = time.monotonic()
    with pytest.raises(PublishError, match=r"took nothing for 0\.5 s"):
        until(lambda: child.write(bytes(size)), 5.0, "the stall")
    assert 0.4 < time.monotonic() - started < 1.5


def test_stop_of_a_stopped_child_keeps_its_deadline(child: FFmpegChild) -> None:
    """A child under SIGSTOP obeys neither the end of input nor SIGTERM: it is killed and reaped in time."""
    pid = child.pid or 0
    os.kill(pid, signal.SIGSTOP)
    started = time.monotonic()
    child.stop(1.0)
    assert time.monotonic() - started < 1.3
    assert not psutil.pid_exists(pid)


def test_cancel_ends_a_write_that_hangs(tmp_path: Path) -> None:
    """Another thread can end a write into a full pipe at once."""
    patient = FFmpegChild(copy_command("ffmpeg", str(tmp_path / "out.mkv")), write_timeout=60.0)
    patient.start()
    try:
        os.kill(patient.pid or 0, signal.SIGSTOP)
        timer = threading.Timer(0.2, patient.cancel)
        timer.start()
        started = time.monotonic()
        with pytest.raises(PublishError, match="stopped"):
            patient.write(bytes(4_000_000))
        assert time.monotonic() - started < 1.0
        timer.join()
    finally:
        patient.stop(0.5)


def test_a_killed_child_is_explained(child: FFmpegChild) -> None:
    """The signal that ended it is named."""
    child.write(encoded_pieces(3)[0])
    os.kill(child.pid or 0, signal.SIGKILL)
    until(lambda: not child.alive, 5.0, "the end")
    with pytest.raises(PublishError, match="FFmpeg ended by signal 9"):
        child.write(b"x")


def test_what_ffmpeg_said_is_the_reason() -> None:
    """The exit of a child that cannot write its output is explained in its own words."""
    child = FFmpegChild(copy_command("ffmpeg", "/nowhere/at/all/out.mkv"))
    child.start()
    try:
        with pytest.raises(PublishError, match=r"FFmpeg ended with code \d+: .*No such file or directory"):
            until(lambda: child.write(encoded_pieces(3)[0]), 10.0, "its end")
    finally:
        child.stop(1.0)


def test_a_talkative_child_does_not_block() -> None:
    """More on stderr than its pipe holds is read while writing and while stopping."""
    script = "head -c 300000 /dev/zero | tr '\\0' 'x' >&2; cat >/dev/null; head -c 300000 /dev/zero >&2"
    child = FFmpegChild(["sh", "-c", script], write_timeout=5.0)
    child.start()
    try:
        child.write(bytes(3_000_000))
        until(lambda: child.check() or not child._unread, 5.0, "everything to be read")
        started = time.monotonic()
    finally:
        child.stop(5.0)
    assert time.monotonic() - started < 2.0


def test_a_child_that_reads_but_never_opens_its_output_is_given_up() -> None:
    """Reading alone is no sign of life: the output must be open within ``open_timeout``."""
    child = FFmpegChild(["sh", "-c", "cat >/dev/null"], open_timeout=0.3)
    child.start()
    try:
        with pytest.raises(PublishError, match=r"did not accept the stream within 0\.3 s"):
            until(lambda: child.write(b"x"), 5.0, "the time-out")
    finally:
        child.stop(1.0)


def test_a_child_that_closes_its_input_is_explained() -> None:
    """A child that lives on but reads no more has failed as well."""
    child = FFmpegChild(["sh", "-c", "exec 0<&-; exec sleep 30"])
    child.start()
    try:
        with pytest.raises(PublishError, match="FFmpeg closed its input"):
            until(lambda: child.write(b"x"), 5.0, "the broken pipe")
    finally:
        child.stop(0.5)
    assert not child.alive


def test_a_missing_binary_is_named() -> None:
    """A binary that is gone is an error with a remedy, not a crash."""
    child = FFmpegChild(["/nowhere/ffmpeg"])
    with pytest.raises(PublishError, match=r"FFmpeg was not found .*/nowhere/ffmpeg"):
        child.start()
    child.stop(1.0)


ORPHAN = """
import sys, threading
from sentinel_pipeline.infrastructure.video.ffmpeg_child import FFmpegChild
child = FFmpegChild(sys.argv[1:])
child.start()
child.write(sys.stdin.buffer.read())
print(child.pid, flush=True)
threading.Event().wait()
"""


def test_no_ffmpeg_is_left_when_this_process_is_killed(tmp_path: Path) -> None:
    """After ``kill -9`` of the pipeline its ffmpeg reads the end of its input, finishes the file, and ends."""
    command = copy_command("ffmpeg", str(tmp_path / "out.mkv"))
    process = subprocess.Popen([sys.executable, "-c", ORPHAN, *command], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(b"".join(encoded_pieces(30)[:-1]))
        process.stdin.close()
        orphan = psutil.Process(int(process.stdout.readline()))
        process.kill()
        process.wait(5)
        until(lambda: not orphan.is_running() or orphan.status() == psutil.STATUS_ZOMBIE, 5.0, "the end of ffmpeg")
    finally:
        process.kill()
        process.wait(5)
        if process.stdout is not None:
            process.stdout.close()
    assert (tmp_path / "out.mkv").stat().st_size > 1000
