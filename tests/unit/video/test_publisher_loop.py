"""The retry loop of publishing, with small real children instead of ffmpeg."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import structlog

from sentinel_pipeline.domain.backoff import Retry
from sentinel_pipeline.domain.errors import PublishError
from sentinel_pipeline.infrastructure.video.ffmpeg_child import FFmpegChild
from sentinel_pipeline.infrastructure.video.output_loop import OutputLoop
from support.pictures import until


class Bytes:
    """Feeds a few bytes at a time; fails as told."""

    def __init__(self, fail: Exception | None = None) -> None:
        self.fail = fail
        self.begun = self.ended = self.finished = 0
        self.woken = threading.Event()

    def begin(self) -> None:
        self.begun += 1

    def step(self, child: FFmpegChild) -> int:
        self.woken.wait(0.01)
        if self.fail is not None and self.begun == 1:
            raise self.fail
        child.write(b"x")
        return 1

    def finish(self, child: FFmpegChild) -> None:
        child.write(b"the end")
        self.finished += 1

    def end(self) -> None:
        self.ended += 1

    def wake(self) -> None:
        self.woken.set()


def _cat() -> FFmpegChild:
    child = FFmpegChild(["sh", "-c", "cat >/dev/null"], listen=False)
    child.start()
    return child


@contextmanager
def running(loop: OutputLoop) -> Iterator[OutputLoop]:
    loop.start()
    try:
        yield loop
    finally:
        loop.close(2.0)


def test_a_healthy_output_runs_and_finishes() -> None:
    """Pictures count once the child takes them; at the end it gets what is left, and everything was let go once."""
    feeder = Bytes()
    with running(OutputLoop("gate", "rtsp://h/a", _cat, feeder)) as loop:
        until(lambda: loop.state == "running" and loop.published > 3, 5, "pictures")
    assert (loop.state, loop.reason, loop.restarts, loop.lost) == ("stopped", "", 0, 0)
    assert (feeder.begun, feeder.finished, feeder.ended) == (1, 1, 1)


def test_a_bug_in_the_feeder_ends_no_output() -> None:
    """An error that nobody foresaw is logged with its traceback, and publishing is tried again."""
    feeder = Bytes(fail=ZeroDivisionError("oops"))
    loop = OutputLoop("gate", "rtsp://h/a", _cat, feeder, Retry(0.01))
    with structlog.testing.capture_logs() as logs, running(loop):
        until(lambda: loop.state == "running", 5, "a second try")
    assert loop.restarts == 1
    assert feeder.ended == 2
    assert [entry["event"] for entry in logs if entry["log_level"] == "error"] == ["internal error"]
    (reason,) = [entry["reason"] for entry in logs if entry["log_level"] == "warning"]
    assert reason.startswith("internal error: ZeroDivisionError")


def test_a_limit_of_tries_is_kept() -> None:
    """With a limit the output gives up, says so, and its last reason stays readable."""

    def nothing() -> FFmpegChild:
        raise PublishError("FFmpeg was not found")

    with running(OutputLoop("gate", "rtsp://h/a", nothing, Bytes(), Retry(0.01, max_retries=2))) as loop:
        until(lambda: loop.state == "stopped", 5, "the end")
    assert (loop.reason, loop.restarts) == ("FFmpeg was not found", 2)


def test_close_interrupts_the_wait_between_tries() -> None:
    """Nobody waits for a back-off of half a minute."""

    def nothing() -> FFmpegChild:
        raise PublishError("no")

    with running(OutputLoop("gate", "rtsp://h/a", nothing, Bytes(), Retry(30.0))) as loop:
        until(lambda: loop.state == "retrying", 5, "the first failure")
        started = time.monotonic()
        loop.close(2.0)
        assert time.monotonic() - started < 0.5
    assert loop.state == "stopped"


def test_the_log_never_shows_the_password() -> None:
    """The URL of the output is in each line, without its password."""
    with (
        structlog.testing.capture_logs() as logs,
        running(OutputLoop("g", "rtsp://u:hunter2@h/a", _cat, Bytes())) as loop,
    ):
        until(lambda: loop.state == "running", 5, "pictures")
    assert logs
    assert all("hunter2" not in repr(entry) and "rtsp://u:" in entry["url"] for entry in logs)
