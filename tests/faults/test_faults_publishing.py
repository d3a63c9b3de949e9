"""Media servers that are down, mute, slow or refuse, and an FFmpeg that dies, hangs or is missing."""

from __future__ import annotations

import os
import shutil
import signal
import time
from pathlib import Path

import psutil
import pytest

from faults.clips import Clips
from faults.notebook import Notebook
from faults.site import Site, configuration, site, stream
from sentinel_pipeline.lab.rtsp_relay import RtspRelay
from support.program import running, wait_until
from support.streams import publishing

pytestmark = [pytest.mark.ffmpeg]


def ffmpeg_of(it: Site, stream_id: str) -> psutil.Process | None:
    """Return the FFmpeg child that publishes a stream."""
    for child in psutil.Process(it.program.process.pid).children(recursive=True):
        try:
            if any(f"/{stream_id}-out" in part for part in child.cmdline()):
                return child
        except psutil.Error:
            continue
    return None


def publish_state(it: Site, stream_id: str, state: str, timeout: float) -> tuple[str, float]:
    """Wait until a stream's output says ``state``; return the reason, and how long that took."""
    started = time.monotonic()
    status = it.program.until(
        lambda s: s["streams"][stream_id]["publish"]["state"] == state, timeout, f"{stream_id}'s output is {state}"
    )
    return str(status["streams"][stream_id]["publish"]["reason"]), time.monotonic() - started


def published_again(it: Site, timeout: float = 15.0) -> float:
    """Wait until the bad camera's output runs and counts on; return the seconds."""
    started = time.monotonic()
    publish_state(it, "bad", "running", timeout)
    before = it.stream("bad")["frames_published"]
    wait_until(lambda: it.stream("bad")["frames_published"] > before + 10, timeout, "published pictures")
    return time.monotonic() - started


def analysis_goes_on(it: Site) -> None:
    """Assert that both cameras are analysed and their events arrive, whatever the output does."""
    it.more_events("bad")
    it.unharmed()
    assert it.stream("bad")["state"] == "RUNNING"
    assert it.stream("bad")["fps"] > 22


KILLS = {"killed": signal.SIGKILL, "hung (SIGSTOP)": signal.SIGSTOP, "terminated by somebody": signal.SIGTERM}


@pytest.mark.parametrize("what", KILLS)
def test_an_ffmpeg_that_is_killed_or_hangs(what: str, tmp_path: Path, clips: Clips, notebook: Notebook) -> None:
    """It is replaced and reaped, the reason named; the cameras, the analysis and the events notice nothing.

    pain 3: FFmpeg grows until it is killed; pain 26: ghost processes; pain 28: waiting for it to exit gracefully;
    pain 30: zombies.
    """
    with site(tmp_path, clips) as it:
        child = ffmpeg_of(it, "bad")
        assert child is not None
        child.send_signal(KILLS[what])
        reason, noticed = publish_state(it, "bad", "retrying", 15)
        assert "FFmpeg" in reason
        analysis_goes_on(it)
        recovered = published_again(it)
        assert not child.is_running()
        fresh = ffmpeg_of(it, "bad")
        assert fresh is not None
        fresh.send_signal(KILLS[what])
        ended = it.end()
        assert not fresh.is_running()
    notebook.fault(
        "publish", f"FFmpeg is {what}", seen=f"output retrying: {reason}", noticed_s=noticed, recovered_s=recovered,
        ended_s=ended,
    )  # fmt: skip


def test_an_ffmpeg_that_is_deleted(tmp_path: Path, clips: Clips, notebook: Notebook) -> None:
    """A binary that an upgrade takes away is named as missing; when it is there again publishing goes on."""
    real = shutil.which("ffmpeg")
    assert real is not None
    binary = tmp_path / "bin" / "ffmpeg"
    binary.parent.mkdir()
    binary.symlink_to(real)
    with site(tmp_path, clips, runtime={"ffmpeg": str(binary)}) as it:
        binary.unlink()
        child = ffmpeg_of(it, "bad")
        assert child is not None
        child.kill()
        it.program.until(lambda s: "not found" in s["streams"]["bad"]["publish"]["reason"], 15, "FFmpeg is missed")
        reason = it.stream("bad")["publish"]["reason"]
        analysis_goes_on(it)
        (down,) = it.told("SYSTEM_PUBLISHER_DOWN", 15)
        assert (down["stream_id"], "not found" in down["details"]["reason"]) == ("bad", True)
        assert down["details"]["publisher"].endswith("/bad-out")
        binary.symlink_to(real)
        recovered = published_again(it)
        (up,) = it.told("SYSTEM_PUBLISHER_UP", 5)
        assert up["details"]["incident_id"] == down["details"]["incident_id"]
        binary.unlink()
        ended = it.end()
    notebook.fault(
        "publish", "FFmpeg is deleted while running", seen=f"output retrying: {reason}", recovered_s=recovered,
        ended_s=ended,
    )  # fmt: skip


def _down(server: RtspRelay) -> None:
    server.close()


def _mute(server: RtspRelay) -> None:
    server.faults("bad-out").close_publisher()
    server.mute_all()


def _refuse(server: RtspRelay) -> None:
    server.faults("bad-out").refuse(401)
    server.faults("bad-out").close_publisher()


def _stop_reading(server: RtspRelay) -> None:
    server.faults("bad-out").stall_publisher()


SERVERS = {
    "goes down": (_down, "refused", 15.0),
    "accepts and never answers": (_mute, "did not accept the stream", 25.0),
    "refuses (401)": (_refuse, "401", 15.0),
}


@pytest.mark.parametrize("what", SERVERS)
def test_a_media_server_that_fails(what: str, tmp_path: Path, clips: Clips, notebook: Notebook) -> None:
    """The output says why; analysis and events go on; the other output goes on; SIGTERM ends it in time.

    pain 49: one failing output slows the healthy ones; pain 26: no time-out.
    """
    act, words, within = SERVERS[what]
    with RtspRelay(allow_takeover=True) as server:
        publish = {"url": server.url("bad-out"), "fps": 10, "bitrate": "300k"}
        with site(tmp_path, clips, bad={"publish": publish}) as it:
            server.wait_for_publisher("bad-out", 10)
            act(server)
            started = time.monotonic()
            it.program.until(lambda s: words in s["streams"]["bad"]["publish"]["reason"], within, f"{words!r} is said")
            noticed = time.monotonic() - started
            said = it.stream("bad")["publish"]
            analysis_goes_on(it)
            recovered = None
            if what == "refuses (401)":
                server.faults("bad-out").resume()
                recovered = published_again(it, 20)
                act(server)
            ended = it.end()
        assert "Traceback" not in it.program.stderr
    notebook.fault(
        "publish", f"the media server {what}", seen=f"output {said['state']}: {said['reason']}", noticed_s=noticed,
        recovered_s=recovered, ended_s=ended,
    )  # fmt: skip


def test_a_media_server_that_stops_reading(tmp_path: Path, clips: Clips, notebook: Notebook) -> None:
    """Buffers fill up and pictures are dropped there, nowhere else; what is published is never minutes old.

    pain 50: "reader is too slow"; pain 16: frames queue up, the video is minutes behind.
    """
    with RtspRelay(allow_takeover=True) as server:
        publish = {"url": server.url("bad-out"), "fps": 25, "size": "1280x720", "bitrate": "20M"}
        with site(tmp_path, clips, bad={"publish": publish}) as it:
            server.wait_for_publisher("bad-out", 10)
            _stop_reading(server)
            for _ in range(3):
                analysis_goes_on(it)
            said = it.stream("bad")
            ended = it.end()
    notebook.fault(
        "publish", "the media server stops reading", ended_s=ended,
        seen=f"output {said['publish']['state']}, analysis and events go on",
    )  # fmt: skip


def test_an_output_that_is_never_there(tmp_path: Path, clips: Clips, notebook: Notebook) -> None:
    """A media server that is down from the start costs the analysis nothing, and is found when it comes."""
    with RtspRelay() as relay, publishing(relay.url("cam"), clip=clips.blink):
        relay.wait_for_publisher("cam", 10)
        port_holder = RtspRelay()
        port_holder.start()
        port = port_holder.port
        port_holder.close()
        streams = {"bad": stream(relay.url("cam"), f"rtsp://127.0.0.1:{port}/bad-out")}
        settings = configuration(tmp_path, streams, {})
        with running(settings, tmp_path / "run") as program:
            program.until(lambda s: s["streams"], 20, "it is up")
            program.until(lambda s: "refused" in s["streams"]["bad"]["publish"]["reason"], 15, "refused")
            program.until(lambda s: s["streams"]["bad"]["events"] > 3, 10, "events")
            with RtspRelay(port=port) as server:
                started = time.monotonic()
                server.wait_for_publisher("bad-out", 35)
                recovered = time.monotonic() - started
                program.until(lambda s: s["streams"]["bad"]["publish"]["state"] == "running", 5, "publishing")
                code, ended = program.end()
                assert (code, ended < 5) == (0, True)
    notebook.fault(
        "publish", "the media server is down from the start, and comes", seen="output retrying: refused",
        recovered_s=recovered, ended_s=ended,
    )  # fmt: skip


def test_ffmpeg_children_end_with_a_killed_program(tmp_path: Path, clips: Clips, notebook: Notebook) -> None:
    """After ``kill -9`` of the program its FFmpeg children end by themselves, also one that is stopped is told so."""
    from faults.site import kill

    with site(tmp_path, clips) as it:
        child = ffmpeg_of(it, "good")
        assert child is not None
        kill(it.program)
        assert not child.is_running()
        assert os.path.exists(it.outbox)
    notebook.fault("publish", "the program is killed (-9)", seen="its FFmpeg children end by themselves")
