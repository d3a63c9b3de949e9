"""Publishing while somebody watches, with a real relay, a real player and an endpoint shaped like MediaMTX's."""

from __future__ import annotations

import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from sentinel_pipeline.application.pipeline.publishing import Publishing
from sentinel_pipeline.application.ports import Audience
from sentinel_pipeline.application.stream.health import StreamHealth
from sentinel_pipeline.domain.overlay import Overlay
from sentinel_pipeline.domain.streams import PublishSpec, StreamState
from sentinel_pipeline.infrastructure.transport.audience import AudienceWatch
from sentinel_pipeline.infrastructure.video.encoded_sink import EncodedSink
from sentinel_pipeline.lab.rtsp_relay import RtspRelay
from support.path_status import path_status
from support.pictures import frame
from support.streams import stop

pytestmark = pytest.mark.ffmpeg


def until(reached: Callable[[], bool], what: str, timeout: float = 10.0) -> float:
    """Poll with a deadline; return how long it took."""
    started = time.monotonic()
    while not reached():
        assert time.monotonic() - started < timeout, what
        threading.Event().wait(0.02)
    return time.monotonic() - started


@contextmanager
def publishing(spec: PublishSpec, watch: AudienceWatch) -> Iterator[Publishing]:
    """Publish one picture over and over, as the stream of an idle camera does."""
    health = StreamHealth("gate")
    health.move(StreamState.CONNECTING)
    health.move(StreamState.RUNNING)
    stage = Publishing(
        "gate", spec, 2, lambda made: EncodedSink(made, "gate", "ffmpeg"), lambda _: Overlay(), health,
        watch.follow(spec.watch),
    )  # fmt: skip
    stage.start()
    try:
        stage.offer(frame(320, 180))
        yield stage
    finally:
        stage.close()
        assert stage.join(5)


def player(url: str, pictures: int) -> subprocess.Popen[bytes]:
    """Play with the plain ffmpeg program until so many pictures have been decoded."""
    command = ["ffmpeg", "-nostdin", "-v", "error", "-rtsp_transport", "tcp", "-i", url, "-frames:v", str(pictures)]
    return subprocess.Popen([*command, "-f", "null", "-"], stdin=subprocess.DEVNULL, stderr=subprocess.PIPE)


def test_publishing_follows_the_audience() -> None:
    """Unwatched, the path lives on a picture in two seconds; a player gets the full rate within 1 s of being counted,
    and a decodable picture at once; when it leaves the rate sinks again."""
    with RtspRelay() as relay, path_status(relay) as status, AudienceWatch() as watch:
        spec = PublishSpec(relay.url("gate"), fps=25, when="watched", watch=(status.url("gate"),))
        with publishing(spec, watch) as stage:
            until(lambda: stage.report().audience == Audience(watched=False), "nobody watches")
            before, started = stage.report().published, time.monotonic()
            until(lambda: stage.report().published >= before + 2, "two pictures", 6)
            assert time.monotonic() - started > 1.5
            viewer = player(relay.url("gate"), 60)
            try:
                relay.wait_for_reader("gate", 10)
                seen = until(lambda: stage.report().audience == Audience(watched=True), "somebody watches", 3)
                assert seen < 2.5  # a second between two questions, and this machine is busy
                assert viewer.wait(15) == 0
                assert viewer.stderr is not None
                assert b"no frame" not in viewer.stderr.read()
            finally:
                stop(viewer)
                if viewer.stderr is not None:
                    viewer.stderr.close()
            until(lambda: stage.report().audience == Audience(watched=False), "it left", 5)
            assert stage.report().restarts == 0, "the path was there all the time"
            assert stage.report().dropped <= 2, "at most what came before the first connection"


def test_publishing_goes_on_when_the_server_cannot_be_asked() -> None:
    """A wrong path, a refusal and a closed port each mean publishing at the full rate; the report says why."""
    with RtspRelay() as relay, path_status(relay) as status, AudienceWatch(period=0.1) as watch:
        spec = PublishSpec(relay.url("gate"), fps=25, when="watched", watch=(status.url("other"),))
        with publishing(spec, watch) as stage:

            def told(words: str) -> bool:
                audience = stage.report().audience
                return audience is not None and audience.watched and words in audience.reason

            until(lambda: told("no such path"), "404 is told")
            before = stage.report().published
            until(lambda: stage.report().published >= before + 40, "full rate", 5)
            status.fault = 401
            until(lambda: told("put user and password into"), "401 is told")
            status.close()
            until(lambda: told("cannot be asked"), "the closed port is told")
            before = stage.report().published
            until(lambda: stage.report().published >= before + 40, "full rate", 5)


def test_audience_sends_credentials_and_shows_them_nowhere() -> None:
    """User and password of the URL go out as Basic authentication; no state has them in it."""
    with RtspRelay() as relay, path_status(relay) as status, AudienceWatch(period=0.05) as watch:
        audience = watch.follow([status.url("gate", "admin:s3cret@")])
        until(lambda: status.authorization is not None, "a question")
        assert status.authorization == "Basic YWRtaW46czNjcmV0"
        until(lambda: "no such path" in audience().reason, "the answer")
        assert "s3cret" not in audience().reason


def test_audience_is_not_delayed_by_a_mute_server() -> None:
    """A server that accepts and never answers is given up after its time, and the others are asked meanwhile."""
    with (
        socket.create_server(("127.0.0.1", 0)) as mute,
        RtspRelay() as relay,
        path_status(relay) as status,
        AudienceWatch(period=0.05, timeout=0.5) as watch,
    ):
        silent = watch.follow([f"http://127.0.0.1:{mute.getsockname()[1]}/"])
        other = watch.follow([status.url("gate")])
        until(lambda: "no such path" in other().reason, "the other's answer", 0.45)
        until(lambda: "did not answer within 0.5 s" in silent().reason, "the silence is told", 3)
        assert silent().watched


def test_audience_is_asked_no_more_when_nobody_wants_to_know() -> None:
    """A stream that is gone leaves no questions behind, and one thread serves all streams."""
    with RtspRelay() as relay, path_status(relay) as status, AudienceWatch(period=0.02) as watch:
        followers = [watch.follow([status.url(f"p{number}")]) for number in range(5)]
        until(lambda: status.asked > 10, "questions")
        assert sum(thread.name == "audience" for thread in threading.enumerate()) == 1
        followers.clear()
        threading.Event().wait(0.2)
        asked = status.asked
        threading.Event().wait(0.2)
        assert status.asked == asked
