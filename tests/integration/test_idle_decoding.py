"""An idle camera: only key frames are decoded, nobody takes it for a stalled one, and motion brings everything back."""

from __future__ import annotations

import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

import av
import numpy as np
import pytest

from sentinel_pipeline.application.pipeline.pipeline import Pipeline
from sentinel_pipeline.application.stream.capture import Capture
from sentinel_pipeline.application.stream.health import StreamHealth
from sentinel_pipeline.application.stream.worker import StreamWorker
from sentinel_pipeline.domain.detections import Detections
from sentinel_pipeline.domain.errors import StreamStalled
from sentinel_pipeline.domain.frame import Frame
from sentinel_pipeline.domain.streams import (
    AnalyseSpec,
    DecodeSpec,
    DetectSpec,
    MotionSpec,
    PublishSpec,
    StreamSpec,
    StreamState,
)
from sentinel_pipeline.infrastructure.video.encoded_sink import EncodedSink
from sentinel_pipeline.infrastructure.video.pyav_source import PyAVSource
from sentinel_pipeline.infrastructure.video.sources import open_source
from sentinel_pipeline.lab.rtsp_relay import RtspRelay
from support.streams import make_clip, publishing

pytestmark = pytest.mark.ffmpeg
GOP_S = 2.4


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve seconds of 320x180 at 25 pictures a second with a key frame every 2.4 s."""
    folder = tmp_path_factory.mktemp("idle")
    return make_clip(folder / "clip.mp4", size=(320, 180), fps=25, seconds=12, gop=round(25 * GOP_S))


def pixels(frame: Frame) -> bytes:
    return b"".join(plane.tobytes() for plane in frame.image.yuv420p())


class Camera:
    """A source read by a watched thread, and what came of it."""

    def __init__(self, url: str, spec: DecodeSpec) -> None:
        self.health, self.changed = StreamHealth("x"), threading.Condition()
        self.frames: list[Frame] = []
        self.error: Exception | None = None
        source = open_source(spec, url, idle=lambda: self.health.idle, on_packet=self.health.received.tick)
        self.capture = Capture("x", source, self._accept, spec, lambda: self.health.received.last)
        self.thread = threading.Thread(target=self._run)

    def _accept(self, frame: Frame) -> None:
        with self.changed:
            self.frames.append(frame)
            self.changed.notify_all()

    def _run(self) -> None:
        try:
            self.capture.run(lambda: None)
        except StreamStalled as exc:
            self.error = exc
        with self.changed:
            self.changed.notify_all()

    def until(self, reached: Callable[[], bool], timeout: float = 15.0) -> None:
        with self.changed:
            assert self.changed.wait_for(reached, timeout), f"{len(self.frames)} frames, {self.error}"


@contextmanager
def reading(url: str, spec: DecodeSpec) -> Iterator[Camera]:
    camera = Camera(url, spec)
    camera.thread.start()
    try:
        yield camera
    finally:
        camera.capture.interrupt()
        camera.thread.join(5)
        assert not camera.thread.is_alive()


def test_idle_camera_is_not_taken_for_a_stalled_one(clip: Path) -> None:
    """With key frames farther apart than the read time-out, packets are life for source and watchdog; the rate of
    packets is still told; the end of idling brings the pictures after the last key frame at once."""
    with RtspRelay() as relay, publishing(relay.url("cam"), clip=clip):
        relay.wait_for_publisher("cam", 15)
        with reading(relay.url("cam"), DecodeSpec(read_timeout=1.0)) as camera:
            camera.health.idle = True
            camera.until(lambda: len(camera.frames) >= 3 or camera.error is not None)
            assert camera.error is None
            steps = [b.pts - a.pts for a, b in zip(camera.frames, camera.frames[1:], strict=False)]
            assert steps[-1] == pytest.approx(GOP_S, abs=0.1)
            assert camera.health.received.rate(time.monotonic()) == pytest.approx(25, abs=3)
            key = camera.frames[-1]
            camera.health.idle, woken = False, time.monotonic()
            count = len(camera.frames)
            camera.until(lambda: len(camera.frames) >= count + 20)
            assert time.monotonic() - woken < 1.5
            after = camera.frames[count : count + 20]
            assert np.allclose([f.pts - key.pts for f in after], np.arange(1, 21) / 25, atol=0.005)


def test_idle_camera_that_stalls_is_noticed_in_time(clip: Path) -> None:
    """Silence is silence: with no packets an idle camera is lost within the read time-out + 0.5 s."""
    with RtspRelay() as relay, publishing(relay.url("cam"), clip=clip):
        relay.wait_for_publisher("cam", 15)
        with reading(relay.url("cam"), DecodeSpec(read_timeout=1.0)) as camera:
            camera.health.idle = True
            camera.until(lambda: len(camera.frames) >= 1)
            relay.faults("cam").stall()
            stalled = time.monotonic()
            camera.until(lambda: camera.error is not None)
            assert 0.8 < time.monotonic() - stalled < 1.6
            assert "sent no picture for 1 s" in str(camera.error)


def test_idle_file_keeps_its_pace_and_its_pictures(clip: Path) -> None:
    """A file is not rushed through between key frames, and the pictures after the waking are those of the file."""
    with av.open(str(clip)) as container:
        full = {round((f.time or 0) * 25): f.to_ndarray().tobytes() for f in container.decode(video=0)}
    idle = threading.Event()
    idle.set()
    source = PyAVSource(str(clip), idle=idle.is_set)
    with closing(source):
        source.open()
        started = time.monotonic()
        frames = [source.read(), source.read()]
        assert time.monotonic() - started == pytest.approx(GOP_S, abs=0.3)
        idle.clear()
        frames += [source.read() for _ in range(30)]
    numbers = [round((f.pts - frames[0].pts) * 25) for f in frames]
    assert numbers == [0, 60, *range(61, 91)]
    for number, got in zip(numbers, frames, strict=True):
        assert pixels(got) == full[number]


def test_pictures_that_no_other_needs_are_left_out(tmp_path: Path) -> None:
    """``nonref`` decodes two of five pictures of a stream with non-reference B-frames, the rest bit by bit the same."""
    path = tmp_path / "b.mp4"
    command = ["ffmpeg", "-v", "error", "-nostdin", "-f", "lavfi", "-i", "testsrc2=size=160x120:rate=25:duration=1"]
    command += ["-c:v", "libx264", "-bf", "2", "-x264-params", "b-adapt=0:b-pyramid=none", "-pix_fmt", "yuv420p"]
    subprocess.run([*command, str(path)], check=True, timeout=60)
    with av.open(str(path)) as container:
        full = {round((f.time or 0) * 25): f.to_ndarray().tobytes() for f in container.decode(video=0)}
    counts = {}
    for skip in ("none", "nonref"):
        packets: list[float] = []
        source = open_source(DecodeSpec(skip=skip), str(path), on_packet=packets.append)  # type: ignore[arg-type]
        with closing(source):
            source.open()
            first = source.read()
            frames = [first, *(source.read() for _ in range(7))]
        for got in frames:
            number = round((got.pts - first.pts) * 25)
            assert pixels(got) == full[number]
        counts[skip] = round((frames[-1].pts - first.pts) * 25)
    assert counts == {"none": 7, "nonref": 21}


class Nobody:
    """A detector that sees nothing and remembers when it was asked."""

    labels = ("person",)

    def __init__(self) -> None:
        self.asked: list[float] = []

    def detect(self, frame: Frame, **_: float) -> tuple[Detections, dict[str, float]]:
        self.asked.append(frame.pts)
        return Detections.empty(), {}


def moving_clip(path: Path) -> Path:
    """Fourteen seconds, 10 pictures and one key frame a second: still, but for a square in the seconds 8 to 10."""
    still, box = "color=gray:size=320x180:rate=10:duration=14", "color=white:size=120x80:rate=10:duration=14"
    scene = f"{still}[a];{box}[b];[a][b]overlay=x=40+12*(t-8):y=60:enable='between(t,8,10)'"
    command = ["ffmpeg", "-v", "error", "-nostdin", "-f", "lavfi", "-i", scene]
    command += ["-c:v", "libx264", "-g", "10", "-keyint_min", "10", "-sc_threshold", "0", "-bf", "0"]
    subprocess.run([*command, "-pix_fmt", "yuv420p", str(path)], check=True, timeout=60)
    return path


def test_stream_idles_until_something_moves(tmp_path: Path) -> None:
    """A whole stream: it idles while nothing moves, the model sees the very key frame in which motion begins and then
    every picture that its rate asks for; afterwards it idles again. The published picture keeps its rate all along."""
    detector, out = Nobody(), tmp_path / "out.mkv"
    spec = StreamSpec(
        "gate",
        str(moving_clip(tmp_path / "moving.mp4")),
        decode=DecodeSpec(skip="idle"),
        analyse=AnalyseSpec(DetectSpec("m"), fps=10, motion=MotionSpec(enabled=True, hold=0.5)),
        publish=PublishSpec(str(out), fps=10),
    )
    idle_at: list[tuple[float, bool]] = []

    def pipeline(made: StreamSpec, health: StreamHealth) -> Pipeline:
        def emit(_: Sequence[object]) -> None: ...

        return Pipeline(made, detector, lambda p: EncodedSink(p, "gate", "ffmpeg"), emit, health, keep_newest=True)

    worker = StreamWorker(
        spec,
        open_source=lambda health: open_source(
            spec.decode, spec.source, idle=lambda: health.idle, on_packet=health.received.tick
        ),
        make_pipeline=pipeline,
    )
    worker.start()
    try:
        ends = time.monotonic() + 25
        while worker.health.received.total < 138 and time.monotonic() < ends:
            frame = worker.newest_frame
            if frame is not None:
                idle_at.append((frame.pts, worker.health.idle))
            assert worker.health.state in (StreamState.STOPPED, StreamState.CONNECTING, StreamState.RUNNING)
            threading.Event().wait(0.02)
        report = worker.health.snapshot()
    finally:
        worker.stop()
        assert worker.join(time.monotonic() + 5)
    assert report["packets_received"] >= 138
    assert any(idle for pts, idle in idle_at if 3 <= pts < 7.9)
    assert not any(idle for pts, idle in idle_at if 8.15 <= pts <= 10)
    assert report["idle"]
    # about 2 s until the first idling, 6 key frames, 8.0 to about 12.0, and key frames again
    assert 50 < report["frames_decoded"] < 90
    assert report["frames_published"] > 110
    awake = [pts for pts in detector.asked if pts > 4]
    assert awake[0] == pytest.approx(8.0, abs=0.02)
    assert np.allclose(awake[:15], 8.0 + np.arange(15) / 10, atol=0.02)
