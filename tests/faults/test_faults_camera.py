"""Cameras that are away, mute, broken or slow, while another one works: the program as a process."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest

from faults.clips import Clips
from faults.notebook import Notebook
from faults.site import END, LATE_PICTURE, NOTICED, POLL, end_well, site, stream
from sentinel_pipeline.lab.rtsp_relay import RtspRelay
from support.program import wait_until
from support.streams import probe, publishing, stop

pytestmark = [pytest.mark.ffmpeg, pytest.mark.ffprobe]
SILENCES = {
    "stops sending": "stall",
    "stops in the middle of a packet": "half_frame",
    "sends garbage": "garbage",
}
CUTS = {"closes the connection": "close_readers", "resets the connection (RST)": "reset_readers"}


@pytest.mark.parametrize("what", SILENCES)
def test_a_camera_that_falls_silent(what: str, tmp_path: Path, clips: Clips, notebook: Notebook) -> None:
    """Noticed within read_timeout + 0.5 s with a reason, back within 2 s, the other camera unharmed, ends in time.

    pain 7: corrupt frames pass as good, nothing restarts; pain 8: `read()` returns True with corrupted frames;
    pain 11: 30 s freezes; pain 24: froze on connection loss.
    """
    with site(tmp_path, clips) as it:
        faults = it.relay.faults("bad")
        getattr(faults, SILENCES[what])()
        said, noticed = it.left("bad")
        assert noticed < NOTICED + POLL + (LATE_PICTURE if "garbage" in what else 0.0)
        assert said["state"] == "RECONNECTING"
        assert "no picture for 1 s" in said["reason"]
        it.unharmed()
        assert probe(it.relay.url("bad-out"))["width"] == 320  # the last picture is still published
        faults.resume()
        recovered = it.back("bad")
        assert recovered < 2.0 + END / 5  # up to 1 s of a try that had begun before
        it.more_events("bad")
        getattr(faults, SILENCES[what])()
        ended = it.end()
        notebook.fault(
            "camera", what, seen=f"{said['state']}: {said['reason']}",
            noticed_s=noticed, recovered_s=recovered, ended_s=ended,
        )  # fmt: skip


@pytest.mark.parametrize("what", CUTS)
def test_a_camera_that_hangs_up(what: str, tmp_path: Path, clips: Clips, notebook: Notebook) -> None:
    """Seen at once, connected again at once; a camera that does so all the time does no harm to the other.

    pain 22: no automatic reconnect; pain 23: not reconnected after loss.
    """
    with site(tmp_path, clips) as it:
        started = time.monotonic()
        reason = ""
        for turn in range(1, 6):
            getattr(it.relay.faults("bad"), CUTS[what])()
            said = it.program.until(lambda s, turn=turn: s["streams"]["bad"]["reconnects"] >= turn, 10, "back again")
            it.relay.wait_for_reader("bad", 5)
            reason = said["streams"]["bad"]["reason"] or reason
        took = (time.monotonic() - started) / 5
        assert took < 2.0
        it.unharmed()
        getattr(it.relay.faults("bad"), CUTS[what])()
        notebook.fault(
            "camera", f"{what}, five times", seen="RECONNECTING, then RUNNING", noticed_s=0.0, recovered_s=took,
            ended_s=it.end(),
        )  # fmt: skip


def test_a_camera_that_is_unplugged_and_comes_back(tmp_path: Path, clips: Clips, notebook: Notebook) -> None:
    """A camera that is gone for many time-outs comes back by itself, within 2 s of its return; events say both.

    pain 4: RAM climbs when one camera stops working; pain 22, 23, 25: reconnecting is left to the user.
    """
    with site(tmp_path, clips) as it:
        stop(it.cameras["bad"])
        said, noticed = it.left("bad")
        assert said["state"] == "RECONNECTING"
        assert said["reason"]
        it.unharmed()
        away = time.monotonic()
        while time.monotonic() - away < 8:  # more than ten tries
            assert it.stream("bad")["state"] in {"RECONNECTING", "CONNECTING"}
            it.more_events()
        with publishing(it.relay.url("bad"), clip=clips.blink):
            it.relay.wait_for_publisher("bad", 10)
            recovered = it.back("bad")
            assert recovered < 2.0
            it.more_events("bad")
            ended = it.end()
        notebook.fault(
            "camera", "unplugged, and back after ten tries", seen=f"{said['state']}: {said['reason']}",
            noticed_s=noticed, recovered_s=recovered, ended_s=ended,
        )  # fmt: skip


ABSENCES: dict[str, tuple[Callable[[RtspRelay], Any], str]] = {
    "answers nothing": (lambda relay: relay.mute_all(), "did not answer with video within 1 s"),
    "answers every request after 700 ms": (lambda relay: relay.faults("late").answer_late(0.7), "did not answer"),
    "is switched off": (lambda relay: relay.close(), "refused"),
}


@pytest.mark.parametrize("what", ABSENCES)
def test_a_camera_that_is_absent_from_the_start(what: str, tmp_path: Path, clips: Clips, notebook: Notebook) -> None:
    """The program starts without it, says why it is away, runs the other one, and ends in time all the same.

    pain 20: cannot be terminated once the first connect failed; pain 25: the first connect is never repeated;
    pain 11: opens that hang for 30 s to 2 min; pain 13: a blocked open blocks every other open.
    """
    make, reason = ABSENCES[what]
    with RtspRelay() as other, publishing(other.url("late"), clip=clips.blink):
        other.wait_for_publisher("late", 10)
        url = other.url("late")
        make(other)
        started = time.monotonic()
        with site(tmp_path, clips, bad=stream(url), ready=False) as it:
            it.program.until(lambda s: reason in s["streams"]["bad"]["reason"], 10, f"bad says {reason!r}")
            noticed = time.monotonic() - started
            it.back("good")
            it.unharmed()
            said = it.stream("bad")
            assert said["state"] == "RECONNECTING"
            assert said["frames_decoded"] == 0
            ended = it.end()
        notebook.fault(
            "camera", f"at the start: {what}", seen=f"{said['state']}: {said['reason']}",
            noticed_s=noticed, ended_s=ended,
        )  # fmt: skip


LOGINS = {
    "401 Unauthorized": (401, "FAILED", "401"),
    "403 Forbidden": (403, "FAILED", "403"),
    "404 Not Found": (404, "FAILED", "404"),
    "503 Service Unavailable": (503, "RECONNECTING", "5"),
}


@pytest.mark.parametrize("what", LOGINS)
def test_a_camera_that_refuses(what: str, tmp_path: Path, clips: Clips, notebook: Notebook) -> None:
    """A refusal is FAILED with the camera's own answer and what to do; a camera that is busy is only tried again.

    pain 21: a wrong key leaves a phantom process; pain 20: cannot be ended after the first failure.
    """
    status, state, answer = LOGINS[what]
    with RtspRelay() as other, publishing(other.url("cam"), clip=clips.blink):
        other.wait_for_publisher("cam", 10)
        other.faults("cam").refuse(status)
        with site(tmp_path, clips, bad=stream(other.url("cam")), ready=False) as it:
            said = it.program.until(lambda s: s["streams"]["bad"]["reason"], 10, "a reason")["streams"]["bad"]
            assert (said["state"], answer in said["reason"]) == (state, True)
            assert "(" in said["reason"], "the remedy stands behind the reason"
            it.back("good")
            it.unharmed()
            recovered = None
            if status not in {401, 403}:  # a refused login is repeated once a minute: cameras lock accounts
                other.faults("cam").resume()
                recovered = it.back("bad")
                assert recovered < 2.0
            ended = it.end()
        notebook.fault("login", what, seen=f"{said['state']}: {said['reason']}", recovered_s=recovered, ended_s=ended)


def test_a_bad_line_is_no_reason_to_hang_up(tmp_path: Path, clips: Clips, notebook: Notebook) -> None:
    """Packets in bursts, lost packets and timestamps that jump leave the stream RUNNING, its rate and its events.

    pain 16, 17, 18: growing delay, drift; pain 27: nobody notices the missing video.
    """
    with site(tmp_path, clips) as it:
        faults = it.relay.faults("bad")
        faults.burst(0.5)
        it.more_events("bad", 6)
        faults.jump(3600)
        it.more_events("bad", 6)
        faults.jump(-3600)
        it.more_events("bad", 6)
        faults.jump(40_000)  # beyond the wrap of 32 bits
        it.more_events("bad", 6)
        faults.resume()
        it.more_events("bad", 6)
        faults.lose(0.2)
        it.more_events("bad", 3)
        faults.resume()
        wait_until(lambda: it.stream("bad")["fps"] > 22, 15, "the full rate again")
        now = it.stream("bad")
        assert (now["state"], now["reconnects"]) == ("RUNNING", 0), now
        it.unharmed()
        faults.lose(0.5)
        ended = it.end()
    stamps = [event["ts"] for event in it.vms.stored if event["stream_id"] == "bad"]
    assert max(abs(time.time() - ts) for ts in stamps) < 120, "events carry the time of day, not the camera's jump"
    notebook.fault(
        "camera", "bursts of 0.5 s, timestamps that jump by an hour and back, a fifth of the packets lost",
        seen="RUNNING, events go on", ended_s=ended,
    )  # fmt: skip


def test_a_stop_while_everything_is_dark(tmp_path: Path, notebook: Notebook) -> None:
    """Ten cameras that never answer, one that refuses, one that is off: SIGTERM in the first second ends it at once.

    pain 28: 2-minute shutdown; pain 20: cannot be terminated.
    """
    from faults.site import configuration
    from support.program import running

    with RtspRelay() as mute:
        mute.mute_all()
        streams = {f"mute{n}": stream(mute.url(f"m{n}"), analyse=False) for n in range(10)}
        streams["off"] = stream("rtsp://127.0.0.1:1/x", analyse=False)
        settings = configuration(tmp_path, streams, {})
        with running(settings, tmp_path / "run") as program:
            program.until(lambda s: s["streams"], 10, "it is up")
            took = end_well(program, tmp_path / "outbox.db")
    notebook.fault("camera", "ten mute cameras, SIGTERM at once", seen="CONNECTING", ended_s=took)


OTHER_WAYS = {
    "over UDP": {"transport": "udp"},
    "through OpenCV": {"backend": "opencv"},
}


@pytest.mark.parametrize("what", OTHER_WAYS)
def test_other_ways_to_read_a_camera_notice_as_soon(
    what: str, tmp_path: Path, clips: Clips, notebook: Notebook
) -> None:
    """UDP, where silence is no error, and OpenCV, whose time-outs are its own, keep the same promise.

    pain 11: OpenCV's time-outs of 30 s; pain 12: stale frames; pain 8: `read()` returns True.
    """
    decode = {"open_timeout": "1s", "read_timeout": "1s", **OTHER_WAYS[what]}
    with site(tmp_path, clips, bad={"decode": decode}, publish=False) as it:
        faults = it.relay.faults("bad")
        faults.stall()
        said, noticed = it.left("bad")
        assert noticed < NOTICED + POLL
        assert said["reason"]
        it.unharmed()
        faults.resume()
        recovered = it.back("bad", 15)
        it.more_events("bad")
        faults.stall()
        ended = it.end()
    notebook.fault(
        "camera", f"stops sending, read {what}", seen=f"{said['state']}: {said['reason']}", noticed_s=noticed,
        recovered_s=recovered, ended_s=ended,
    )  # fmt: skip


class DrippingCamera:
    """Answers every request with a header that never ends, one byte after the other."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.settimeout(0.1)
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._serve, name="dripping camera")
        self._thread.start()
        self.url = f"rtsp://127.0.0.1:{self._listener.getsockname()[1]}/x"

    def close(self) -> None:
        self._end.set()
        self._thread.join(5)
        self._listener.close()

    def _serve(self) -> None:
        while not self._end.is_set():
            with suppress(OSError):
                client, _ = self._listener.accept()
                with client:
                    client.recv(4096)
                    client.sendall(b"RTSP/1.0 200 OK\r\nCSeq: 1\r\nX-Long: ")
                    while not self._end.wait(0.05):
                        client.sendall(b"x")


def test_a_camera_that_drips_its_answers(tmp_path: Path, clips: Clips, notebook: Notebook) -> None:
    """Every byte comes in time and the answer never ends: the open time-out counts for all of it.

    pain 26: no time-out; pain 51: an open that is blocked although a time-out was set.
    """
    with closing(DrippingCamera()) as camera, site(tmp_path, clips, bad=stream(camera.url), ready=False) as it:
        it.back("good")
        started = time.monotonic()
        it.program.until(lambda s: "1 s" in s["streams"]["bad"]["reason"], 5, "the dripping camera is given up")
        noticed = time.monotonic() - started
        said = it.stream("bad")
        it.unharmed()
        ended = it.end()
    notebook.fault(
        "camera", "drips its answers", seen=f"{said['state']}: {said['reason']}", noticed_s=noticed, ended_s=ended
    )
