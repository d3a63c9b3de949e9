"""A misbehaving relay as real clients see it: the faults that the pipeline has to stand are really there."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import av
import pytest

from sentinel_pipeline.lab.rtsp_relay import RtspRelay
from support.streams import ProbeError, make_clip, probe, publishing, stop

pytestmark = [pytest.mark.ffmpeg, pytest.mark.ffprobe]

OPTIONS = {"rtsp_transport": "tcp", "analyzeduration": "500000"}


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clip with a keyframe every 0.4 s, so that players get going at once."""
    return make_clip(tmp_path_factory.mktemp("clips") / "small.mp4", size=(320, 240), fps=25, gop=10)


@pytest.fixture
def relay(clip: Path) -> Iterator[RtspRelay]:
    """A relay with one published stream, cam1."""
    with RtspRelay() as relay, publishing(relay.url("cam1"), clip=clip):
        relay.wait_for_publisher("cam1", 10)
        yield relay


@pytest.mark.parametrize("fault", ["stall", "half_frame"])
def test_a_stalled_stream_starves_an_open_player(relay: RtspRelay, fault: str) -> None:
    """The connection stays open and the player's own read time-out ends its wait; a fresh one works after resume."""
    with av.open(relay.url("cam1"), options=OPTIONS, timeout=(10, 0.5)) as container:
        frames = container.decode(video=0)
        next(frames)
        getattr(relay.faults("cam1"), fault)()
        started = time.monotonic()
        with pytest.raises(av.error.FFmpegError):
            deque(islice(frames, 200), maxlen=0)
        assert time.monotonic() - started < 5
        assert relay.paths()["cam1"].readers == 1
    relay.faults("cam1").resume()
    assert probe(relay.url("cam1"))["width"] == 320


def test_a_mute_path_lets_a_player_wait(relay: RtspRelay) -> None:
    """Opening takes as long as the player's own time-out, and works again after resume."""
    relay.faults("cam1").mute()
    started = time.monotonic()
    with pytest.raises(av.error.FFmpegError):
        av.open(relay.url("cam1"), options=OPTIONS, timeout=0.5)
    assert time.monotonic() - started >= 0.5
    relay.faults("cam1").resume()
    assert probe(relay.url("cam1"))["width"] == 320


@pytest.mark.parametrize(
    ("status", "said"),
    [(401, "401 Unauthorized"), (403, "403 Forbidden"), (404, "404 Not Found"), (503, "Server returned 5XX")],
)
def test_a_refusing_path_tells_players_why(relay: RtspRelay, status: int, said: str) -> None:
    """FFmpeg reports the status, also when the URL has credentials; the publisher stays."""
    relay.faults("cam1").refuse(status)
    with pytest.raises(ProbeError, match=said):
        probe(relay.url("cam1", user="me", password="pass"))
    assert relay.paths()["cam1"].publishing
    relay.faults("cam1").resume()
    assert probe(relay.url("cam1"))["width"] == 320


def test_closed_readers_see_the_end(relay: RtspRelay) -> None:
    """The player's decoding ends, and the stream is there for the next one."""
    with av.open(relay.url("cam1"), options=OPTIONS, timeout=10) as container:
        frames = container.decode(video=0)
        next(frames)
        relay.faults("cam1").close_readers()
        assert sum(1 for _ in frames) < 250
    assert probe(relay.url("cam1"))["width"] == 320


def test_reset_readers_fail_or_end(relay: RtspRelay) -> None:
    """A TCP RST in mid-stream does not leave a player waiting."""
    with av.open(relay.url("cam1"), options=OPTIONS, timeout=10) as container:
        frames = container.decode(video=0)
        next(frames)
        relay.faults("cam1").reset_readers()
        ended = False
        try:
            for _ in range(250):
                next(frames)
        except (StopIteration, av.error.FFmpegError):
            ended = True
        assert ended


def test_garbage_reaches_the_decoder(relay: RtspRelay) -> None:
    """A running player gets damaged pictures within ten seconds, and good ones again after resume."""
    with av.open(relay.url("cam1"), options=OPTIONS, timeout=10) as container:
        next(container.decode(video=0))
        relay.faults("cam1").garbage()
        packets = islice(container.demux(video=0), 250)
        assert any(_is_damaged(packet) for packet in packets)
    relay.faults("cam1").resume()
    assert probe(relay.url("cam1"))["width"] == 320


def _is_damaged(packet: av.Packet) -> bool:
    try:
        return any(frame.is_corrupt for frame in packet.decode())
    except av.error.InvalidDataError:
        return True


def test_a_closed_publisher_ends(clip: Path) -> None:
    """FFmpeg that publishes notices and exits, so that its supervisor can start it again."""
    with RtspRelay() as relay, publishing(relay.url("cam1"), clip=clip) as publisher:
        relay.wait_for_publisher("cam1", 10)
        relay.faults("cam1").close_publisher()
        assert publisher.wait(10) != 0
        assert not relay.wait_until_idle("cam1", 5).publishing


def _probe_when_published(url: str) -> dict[str, Any]:
    """Nobody tells when a relay in another process has its publisher: ask until the answer is no longer 404."""
    deadline = time.monotonic() + 10
    while True:
        try:
            return probe(url)
        except ProbeError as exc:
            if "404" not in str(exc) or time.monotonic() > deadline:
                raise


def test_the_relay_runs_as_a_program_until_it_is_told_to_stop(clip: Path) -> None:
    """``python -m`` prints one line with the URL, demands the credentials, and SIGTERM ends it with code 0."""
    command = [sys.executable, "-m", "sentinel_pipeline.lab", "--port", "0", "--user", "me"]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, env={**os.environ, "SENTINEL_LAB_PASSWORD": "p@ss"}, text=True
    )
    assert process.stdout is not None
    try:
        line = next(line for line in process.stdout if line.startswith("publish and play: "))
        url = line.split()[3].replace("NAME", "cam1")
        with_login = url.replace("rtsp://", "rtsp://me:p%40ss@")
        with publishing(with_login, clip=clip):
            assert _probe_when_published(with_login)["width"] == 320
            with pytest.raises(ProbeError, match="401"):
                probe(url)
            process.send_signal(signal.SIGTERM)
            assert process.wait(5) == 0
    finally:
        stop(process)
        process.stdout.close()


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [(["--user", "me"], 2, "SENTINEL_LAB_PASSWORD"), (["--host", "192.0.2.1"], 1, "cannot listen on 192.0.2.1:8554")],
)
def test_the_program_says_what_is_wrong(arguments: list[str], code: int, said: str) -> None:
    """Bad usage ends with 2, an address that cannot be used with 1, each with a sentence."""
    environment = {name: value for name, value in os.environ.items() if name != "SENTINEL_LAB_PASSWORD"}
    done = subprocess.run(
        [sys.executable, "-m", "sentinel_pipeline.lab", *arguments],
        capture_output=True, check=False, timeout=20, text=True, env=environment,
    )  # fmt: skip
    assert done.returncode == code
    assert said in done.stderr
