"""Servers that are down, mute or slow, and an ffmpeg that dies or hangs: publishing recovers, and nobody waits."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import av
import numpy as np
import psutil
import pytest
import structlog

from sentinel_pipeline.application.ports import SinkReport
from sentinel_pipeline.domain.backoff import Retry
from sentinel_pipeline.domain.overlay import Overlay
from sentinel_pipeline.domain.streams import PublishSpec
from sentinel_pipeline.infrastructure.video.canvas import Canvas
from sentinel_pipeline.infrastructure.video.encoded_sink import EncodedSink
from sentinel_pipeline.infrastructure.video.encoder import H264Encoder
from sentinel_pipeline.infrastructure.video.packet_output import PacketOutput
from sentinel_pipeline.lab.rtsp_relay import RtspRelay
from support.pictures import PlanarImage, drive, frame

pytestmark = pytest.mark.ffmpeg
QUICK = 0.1  # seconds that a write may take on a busy machine; a blocked one takes seconds


class Publisher:
    """An encoder with one output that retries fast and notices stalls after a second."""

    def __init__(self, url: str, binary: str = "ffmpeg", bitrate: int = 2_000_000, noise: bool = False) -> None:
        self.encoder = H264Encoder(640, 360, 25, bitrate=bitrate)
        self.canvas = Canvas(640, 360)
        self.random = np.random.default_rng(1) if noise else None
        self.next_slot = 0
        self.output = PacketOutput(
            url,
            25,
            binary,
            request_keyframe=self.encoder.request_keyframe,
            stream_id="gate",
            retry=Retry(0.2, 0.5, healthy_after=5.0),
            write_timeout=1.0,
            open_timeout=2.0,
        )
        self.output.start()

    def write(self, _: int = 0) -> None:
        picture, planes = self.canvas.take(PlanarImage(640, 360, 60 + self.next_slot % 100))
        if self.random is not None:
            planes.y[:] = self.random.integers(16, 235, planes.y.shape, np.uint8)
        for packet in self.encoder.encode(picture, self.next_slot):
            self.output.put(packet)
        self.next_slot += 1

    @property
    def report(self) -> SinkReport:
        return self.output.report()

    def until(self, state: str, *, timeout_s: float = 20.0) -> SinkReport:
        assert drive(self.write, lambda: self.report.state == state, timeout_s=timeout_s) < QUICK
        return self.report

    def child(self) -> int:
        drive(self.write, lambda: self.output.child_pid is not None)
        return self.output.child_pid or 0


@contextmanager
def publisher(url: str, binary: str = "ffmpeg", bitrate: int = 2_000_000, noise: bool = False) -> Iterator[Publisher]:
    it = Publisher(url, binary, bitrate, noise)
    try:
        yield it
    finally:
        started = time.monotonic()
        it.output.close(3.0)
        assert time.monotonic() - started < 3.2
        assert it.report.state == "stopped"


def test_a_killed_ffmpeg_is_replaced() -> None:
    """After ``kill -9`` of ffmpeg the stream is published again, from a keyframe, and the reason was named."""
    with RtspRelay(allow_takeover=True) as relay, publisher(relay.url("gate")) as it:
        assert it.until("running").restarts == 0
        pid = it.child()
        os.kill(pid, signal.SIGKILL)
        assert "ended by signal 9" in it.until("retrying").reason
        assert not psutil.pid_exists(pid), "reaped"
        report = it.until("running")
        assert (report.restarts, report.reason) == (1, "")
        before = report.published
        drive(it.write, lambda: it.report.published >= before + 25)
        relay.wait_for_publisher("gate", 5)


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "ts"])
def test_a_recording_outlives_its_ffmpeg(suffix: str, tmp_path: Path) -> None:
    """What a killed ffmpeg has recorded can be read, up to the last whole group of pictures; what follows, and what
    another run of the program records, lies beside it."""
    path = tmp_path / f"rec.{suffix}"
    with publisher(str(path)) as it:
        assert it.until("running").restarts == 0
        drive(it.write, lambda: it.report.published >= 75)  # a key frame every 50
        os.kill(it.child(), signal.SIGKILL)
        it.until("retrying")
        killed = path.read_bytes()
        it.until("running")
        before = it.report.published
        drive(it.write, lambda: it.report.published >= before + 25)
    with publisher(str(path)) as it:
        it.until("running")
        before = it.report.published
        drive(it.write, lambda: it.report.published >= before + 10)
    assert path.read_bytes() == killed
    assert {file.name for file in tmp_path.iterdir()} == {f"rec{number}.{suffix}" for number in ("", "-1", "-2")}
    assert decoded(path) >= 50
    assert decoded(tmp_path / f"rec-1.{suffix}") >= 25
    assert decoded(tmp_path / f"rec-2.{suffix}") >= 10


def decoded(path: Path) -> int:
    with av.open(str(path)) as container:
        return sum(1 for _ in container.decode(video=0))


def test_a_stopped_ffmpeg_is_noticed_killed_and_replaced() -> None:
    """An ffmpeg that hangs (SIGSTOP) is found out within the write time-out, removed, and replaced."""
    with RtspRelay(allow_takeover=True) as relay, publisher(relay.url("gate")) as it:
        it.until("running")
        pid = it.child()
        os.kill(pid, signal.SIGSTOP)
        started = time.monotonic()
        assert "took nothing for 1 s" in it.until("retrying").reason
        assert time.monotonic() - started < 2.5
        drive(it.write, lambda: not psutil.pid_exists(pid), timeout_s=3)
        assert it.until("running").restarts == 1


def test_a_server_that_is_gone_and_comes_back() -> None:
    """While the server is down the state says why and pictures are counted as dropped; then publishing goes on."""
    with RtspRelay() as relay, publisher(relay.url("gate")) as it:
        port = relay.port
        it.until("running")
        relay.close()
        assert it.until("retrying").reason
        drive(it.write, lambda: "refused" in it.report.reason)
        assert "check that the media server is running" in it.report.reason
        dropped = it.report.dropped
        drive(it.write, lambda: it.report.dropped > dropped + 5)
        with RtspRelay(port=port) as again:
            assert it.until("running").restarts >= 1
            drive(it.write, lambda: "gate" in again.paths() and again.paths()["gate"].packets_in > 20)


def test_a_mute_server_is_noticed() -> None:
    """A server that accepts the connection and never answers is found out, named, and tried again until it answers."""
    with RtspRelay() as relay:
        relay.mute_all()
        with publisher(relay.url("gate")) as it:
            started = time.monotonic()
            report = it.until("retrying")
            assert "the server did not accept the stream" in report.reason
            assert report.published == 0
            assert time.monotonic() - started < 4.0
            relay.resume_all()
            assert it.until("running").restarts >= 1


def test_close_is_quick_while_the_server_is_mute() -> None:
    """Stopping does not wait for a server that never answers."""
    with RtspRelay() as relay:
        relay.mute_all()
        with publisher(relay.url("gate")) as it:
            it.child()


def test_close_is_quick_while_ffmpeg_hangs() -> None:
    """Stopping does not wait for an ffmpeg that neither reads nor obeys."""
    with RtspRelay() as relay, publisher(relay.url("gate")) as it:
        it.until("running")
        os.kill(it.child(), signal.SIGSTOP)


def test_a_server_that_reads_no_more_is_noticed() -> None:
    """When the server stops reading, the buffers fill, whole groups are dropped, and the child is replaced."""
    with RtspRelay(allow_takeover=True) as relay, publisher(relay.url("gate"), bitrate=200_000_000, noise=True) as it:
        it.until("running")
        relay.faults("gate").stall_publisher()
        longest = drive(it.write, lambda: it.report.state == "retrying", timeout_s=40, fps=60)
        assert longest < QUICK
        assert "took nothing for 1 s" in it.report.reason
        assert it.report.dropped > 0
        relay.faults("gate").resume()
        it.until("running")


def test_wrong_credentials_are_named_and_shown_nowhere() -> None:
    """A refused password is the reason, with a remedy; it is in no reason and no log line."""
    with (
        structlog.testing.capture_logs() as logs,
        RtspRelay(credentials={"user": "right"}) as relay,
        publisher(relay.url("gate", user="user", password="hunter2")) as it,
    ):
        reason = it.until("retrying").reason
        drive(it.write, lambda: it.report.restarts >= 2)
    assert "401" in reason
    assert "check user and password" in reason
    assert any(entry["log_level"] == "warning" for entry in logs)
    assert "hunter2" not in reason + repr(logs)


def test_right_credentials_are_accepted() -> None:
    """A password with the characters that hurt in URLs, percent-encoded, lets us in."""
    password = "p@ss:w/rd%41#1"
    with (
        RtspRelay(credentials={"user": password}) as relay,
        publisher(relay.url("gate", user="user", password=password)) as it,
    ):
        it.until("running")


def test_equal_failures_are_logged_once() -> None:
    """A server that is down for hours gives one line, not one for each try."""
    with structlog.testing.capture_logs() as logs, publisher("rtsp://127.0.0.1:1/gate") as it:
        drive(it.write, lambda: it.report.restarts >= 4)
    assert len([entry for entry in logs if entry["log_level"] == "warning"]) == 1


def test_a_missing_ffmpeg_is_named_and_looked_for_again() -> None:
    """Without the binary the state says so; installing it later is enough."""
    with publisher("rtsp://127.0.0.1:1/gate", binary="/nowhere/ffmpeg") as it:
        report = it.until("retrying")
        assert "FFmpeg was not found" in report.reason
        drive(it.write, lambda: it.report.restarts >= 2)
        assert it.report.published == 0


def test_the_sink_as_a_whole_survives_its_server() -> None:
    """The same at the port that the pipeline uses: no write waits, the state follows, close is quick."""
    with RtspRelay() as relay:
        sink = EncodedSink(PublishSpec(relay.url("gate")), "gate", "ffmpeg")
        try:
            drive(lambda slot: sink.write(frame(), Overlay(), slot), lambda: sink.report().state == "running")
            relay.close()
            longest = drive(
                lambda slot: sink.write(frame(), Overlay(), 1000 + slot), lambda: sink.report().state == "retrying"
            )
            assert longest < QUICK
        finally:
            started = time.monotonic()
            sink.close()
            assert time.monotonic() - started < 3.2
