"""One stream published to several servers: encoded once, and each on its own."""

from __future__ import annotations

import socket
import time
from pathlib import Path

import av
import pytest

from sentinel_pipeline.domain.overlay import Overlay
from sentinel_pipeline.domain.streams import PublishSpec
from sentinel_pipeline.infrastructure.video.encoded_sink import EncodedSink
from sentinel_pipeline.lab.rtsp_relay import RtspRelay
from support.peers import free_port, nginx_rtmp
from support.pictures import drive, drive_command, frame

pytestmark = pytest.mark.ffmpeg
NOTHING = Overlay()


@pytest.mark.nginx
@pytest.mark.ffprobe
def test_publishing_several_servers_of_several_kinds(tmp_path: Path) -> None:
    """RTSP, RTMP and a file get the same pictures; the report has each by its name, and counts a picture once."""
    path = tmp_path / "out.mkv"
    with RtspRelay() as relay, nginx_rtmp() as rtmp:
        sink = EncodedSink(PublishSpec(relay.url("gate"), also=(rtmp, str(path))), "gate", "ffmpeg")
        try:
            drive(
                lambda slot: sink.write(frame(320, 180), NOTHING, slot),
                lambda: len(sink.report().outputs) == 3 and min(o.published for o in sink.report().outputs) >= 30,
            )
            report = sink.report()
            assert report.state == "running"
            assert relay.paths()["gate"].packets_in > 10
            ask = ["ffprobe", "-v", "error", "-show_entries", "stream=codec_name,width", "-of", "csv=p=0", rtmp]
            told = drive_command(lambda slot: sink.write(frame(320, 180), NOTHING, 10_000 + slot), ask)
        finally:
            sink.close()
    assert told.strip() == "h264,320"
    assert [output.url for output in report.outputs] == [relay.url("gate"), rtmp, str(path)]
    most = max(output.published for output in report.outputs)
    assert most <= report.published <= most + 5
    with av.open(str(path)) as container:
        assert sum(1 for _ in container.decode(video=0)) >= 30


def test_publishing_several_a_dead_one_hurts_no_other() -> None:
    """A closed port and a server that never answers leave the healthy output at its rate, without a drop; the report
    shows the worst state, whose it is, and no password."""
    with socket.create_server(("127.0.0.1", 0)) as mute, RtspRelay() as relay:
        dead = f"rtsp://user:s3cret@127.0.0.1:{free_port()}/x"
        silent = f"rtsp://127.0.0.1:{mute.getsockname()[1]}/x"
        sink = EncodedSink(PublishSpec(dead, also=(relay.url("gate"), silent)), "gate", "ffmpeg")
        slowest = 0.0

        def timed(slot: int) -> None:
            nonlocal slowest
            started = time.thread_time()
            sink.write(frame(320, 180), NOTHING, slot)
            slowest = max(slowest, time.thread_time() - started)

        try:
            drive(timed, lambda: sink.report().published >= 100)
            report = sink.report()
            dropped_before = report.outputs[1].dropped
        finally:
            started = time.monotonic()
            sink.close()
            closing = time.monotonic() - started
        states = [output.state for output in report.outputs]
        assert states[0] == "retrying"
        assert states[1] == "running"
        assert states[2] in ("starting", "retrying")
        assert (report.state, "refused" in report.reason) == ("retrying", True)
        assert report.reason.startswith("rtsp://user:****@127.0.0.1:")
        assert "s3cret" not in repr(report)
        assert report.outputs[1].dropped == dropped_before <= 25, "only what came before the server was connected"
        assert report.dropped <= report.outputs[1].dropped
        assert report.published >= report.outputs[1].published >= 100 - report.outputs[1].dropped
        assert slowest < 0.2
        assert closing < 3.5, "all outputs end together"


def test_publishing_several_survives_the_loss_of_one() -> None:
    """When one of two servers goes away the other stays; the picture count goes on, and a picture counts once."""
    with RtspRelay() as one, RtspRelay() as two:
        sink = EncodedSink(PublishSpec(one.url("a"), also=(two.url("b"),)), "gate", "ffmpeg")
        try:
            drive(
                lambda slot: sink.write(frame(320, 180), NOTHING, slot),
                lambda: [o.state for o in sink.report().outputs] == ["running", "running"],
            )
            two.close()
            drive(
                lambda slot: sink.write(frame(320, 180), NOTHING, 1000 + slot),
                lambda: sink.report().outputs[1].state == "retrying" and sink.report().published > 100,
            )
            report = sink.report()
        finally:
            sink.close()
    assert report.state == "retrying"
    assert report.outputs[0].state == "running"
    assert report.outputs[0].restarts == 0
    assert abs(report.published - report.outputs[0].published) <= 30
