"""The program as a process: cameras in, annotated streams out, events at the receivers, faults on the way."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psutil
import pytest

from sentinel_pipeline.domain.events import Event
from sentinel_pipeline.lab.receivers import HttpReceiver
from sentinel_pipeline.lab.rtsp_relay import RtspRelay
from support.incidents import open_incidents
from support.peers import free_port, gstreamer_camera, nginx_rtmp
from support.program import COMMAND, SentinelProcess, running, sentinel, wait_until
from support.receivers import FaultyHttpServer, FaultyWebSocketServer
from support.streams import CLIP, probe, publishing, stop

pytestmark = [pytest.mark.ffmpeg, pytest.mark.ffprobe]

WHOLE_PICTURE = [[0, 0], [1, 0], [1, 1], [0, 1]]
RULE = {"name": "anybody", "when": "zone", "polygon": WHOLE_PICTURE, "classes": ["person"], "event": "INTRUSION"}
ANALYSE = {"fps": 5, "detect": {"model": "nanodet-g-416", "classes": ["person"]}, "rules": [RULE]}
STREAM_KEYS = {
    "state", "since", "reason", "frames_decoded", "frames_analysed", "frames_published", "frames_dropped",
    "reconnects", "fps", "latency_ms",
}  # fmt: skip
SINK_KEYS = {"state", "delivered", "retried", "dead", "pending", "oldest_pending_s"}


def config(folder: Path, streams: dict[str, Any], sinks: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    """A configuration with an outbox in ``folder`` and an API on a free port."""
    return {
        "version": 1,
        "streams": streams,
        "sinks": sinks or {},
        "outbox": {"path": str(folder / "outbox.db")},
        "api": {"listen": f"127.0.0.1:{free_port()}"},
        **more,
    }


def camera(source: str, publish: str | None = None, **more: Any) -> dict[str, Any]:
    """A stream that analyses ``source``, publishes at 10 fps when told where to, and reconnects quickly."""
    stream: dict[str, Any] = {
        "source": source,
        "analyse": ANALYSE,
        "reconnect": {"base_delay": "500ms", "max_delay": "1s"},
        **more,
    }
    return stream | ({"publish": {"url": publish, "fps": 10}} if publish else {})


def assert_valid(events: list[dict[str, Any]]) -> None:
    """All are wire form 1, unique by id and in order per stream."""
    parsed = [Event.from_wire(event) for event in events]
    assert len({event.event_id for event in parsed}) == len(parsed)
    for stream_id in {event.stream_id for event in parsed}:
        times = [event.ts for event in parsed if event.stream_id == stream_id]
        assert times == sorted(times)


def ours(events: Iterable[dict[str, Any]]) -> list[str]:
    """The ids of the rules' events: what the program says of its cameras and receivers comes in between."""
    return [event["event_id"] for event in events if not event["type"].startswith("SYSTEM_")]


def test_program_demo_ends_by_itself_with_a_whole_report(tmp_path: Path) -> None:
    """The demo runs several cameras at once, delivers the same events to both sinks and writes the report."""
    report_file = tmp_path / "r.json"
    done = sentinel("demo", "--streams", "2", "--duration", "12s", "--report", report_file, timeout=40)
    assert done.returncode == 0, done.stderr
    report = json.loads(report_file.read_text())
    assert set(report["streams"]) == {"camera1", "camera2"}
    for stream in report["streams"].values():
        assert set(stream) >= STREAM_KEYS
        assert set(stream["latency_ms"]) >= {"p50", "p95", "p99"}
        assert min(stream["frames_decoded"], stream["frames_analysed"], stream["frames_published"]) > 10
        assert stream["state"] == "RUNNING"
    assert all(set(sink) >= SINK_KEYS for sink in report["sinks"].values())
    delivered = {sink["delivered"] for sink in report["sinks"].values()}
    assert len(delivered) == 1
    assert delivered.pop() > 0
    (model,) = report["models"].values()
    assert set(model) >= {"provider", "inferences", "latency_ms", "batch_mean"}
    assert set(model["latency_ms"]) >= {"mean", "p50", "p95", "p99"}
    assert set(report["process"]) >= {"cpu_s", "rss_bytes", "threads", "fds", "uptime_s"}


def test_program_demo_ends_its_cameras_after_itself_at_ctrl_c(tmp_path: Path) -> None:
    """Ctrl-C reaches the whole group of the terminal; the cameras play on until the demo has written its report."""
    report = tmp_path / "r.json"
    with subprocess.Popen(
        [*COMMAND, "demo", "--report", str(report)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        start_new_session=True,
    ) as demo:
        assert demo.stdout is not None
        assert json.loads(demo.stdout.readline())["streams"]["camera1"]["state"] == "RUNNING"
        children = psutil.Process(demo.pid).children()
        outside = [child for child in children if os.getpgid(child.pid) != demo.pid]
        os.killpg(demo.pid, signal.SIGINT)
        assert demo.wait(10) == 0
    assert len(children) >= 2  # the camera's player, and what copies the annotated stream
    assert outside == children
    assert json.loads(report.read_text())["streams"]["camera1"]["state"] == "RUNNING"


@pytest.mark.gstreamer
@pytest.mark.nginx
def test_program_runs_between_peers_that_are_not_ours(tmp_path: Path) -> None:
    """GStreamer's camera in, nginx's RTMP out, receivers of other libraries; SIGTERM ends it with 0 within 5 s."""
    with (
        gstreamer_camera(clip=CLIP) as source,
        nginx_rtmp() as rtmp,
        FaultyHttpServer() as http,
        FaultyWebSocketServer() as websocket,
    ):
        sinks = {"vms": {"type": "http", "url": http.url}, "live": {"type": "websocket", "url": websocket.url}}
        with running(config(tmp_path, {"gate": camera(source, rtmp)}, sinks), tmp_path / "run") as program:
            program.until(
                lambda s: (
                    s["streams"]["gate"]["frames_published"] > 30
                    and min(sink["delivered"] for sink in s["sinks"].values()) >= 3
                ),
                40,
                "published frames, and events at both sinks",
            )
            published = subprocess.run(
                ["ffprobe", "-v", "error", "-show_entries", "stream=width,height,avg_frame_rate", "-of", "json", rtmp],
                capture_output=True,
                check=True,
                timeout=30,
            )
            (stream,) = json.loads(published.stdout)["streams"]
            assert (stream["width"], stream["height"], stream["avg_frame_rate"]) == (768, 576, "10/1")
            code, took = program.end()
            assert (code, took < 5.0) == (0, True)
        posted = [event for request in http.requests for event in request.json]
        sent = [event for batch in websocket.batches for event in batch]
        assert_valid(posted)
        assert_valid(sent)
        assert [e["event_id"] for e in posted] == [e["event_id"] for e in sent]
        report = json.loads(program.report.read_text())
        assert report["sinks"]["vms"]["delivered"] == report["sinks"]["live"]["delivered"] == len(posted)
        assert "Traceback" not in program.stderr


def test_program_reconnects_a_lost_camera_and_spares_the_others(tmp_path: Path) -> None:
    """A camera that is gone says RECONNECTING with a reason and comes back; the other one keeps its rate."""
    with RtspRelay() as relay, publishing(relay.url("a")), publishing(relay.url("b")) as lost:
        relay.wait_for_publisher("a", 10)
        relay.wait_for_publisher("b", 10)
        streams = {name: camera(relay.url(name), relay.url(f"{name}-out")) for name in ("a", "b")}
        with running(config(tmp_path, streams), tmp_path / "run") as program:
            program.until_running("a")
            program.until_running("b")
            stop(lost)
            gone = program.until(lambda s: s["streams"]["b"]["state"] == "RECONNECTING", 10, "b RECONNECTING")
            assert gone["streams"]["b"]["reason"]
            # The published stream goes on with the last picture while the camera is away.
            assert probe(relay.url("b-out"))["width"] == 768
            still = program.until(lambda s: s["streams"]["b"]["publish"]["state"] == "running", 10, "b-out goes on")
            assert still["streams"]["a"]["fps"] == pytest.approx(10, abs=1)
            with publishing(relay.url("b")):
                back = program.until_running("b", 10)
                assert back["streams"]["b"]["reconnects"] == 1
                assert back["streams"]["a"]["reconnects"] == 0
                assert back["streams"]["a"]["fps"] == pytest.approx(10, abs=1)
            code, took = program.end()
            assert (code, took < 5.0) == (0, True)


NASTY = "p@ss:w/rd%#1?x"


def leaks(program: SentinelProcess, *secrets: str) -> list[str]:
    """Where one of the secrets appears in anything that the program has said."""
    said = {
        "stdout": program.stdout,
        "stderr": program.stderr,
        "status": json.dumps(program.status()),
        "report": program.report.read_text() if program.report.exists() else "",
    }
    return [f"{secret} in {place}" for place, text in said.items() for secret in secrets if secret in text]


@pytest.mark.parametrize("auth", ["basic", "digest"])
def test_program_takes_any_password_and_never_shows_it(auth: Any, tmp_path: Path) -> None:
    """A password with @ : / % # ? works as it is, and appears nowhere; a wrong one fails with the server's answer."""
    with (
        RtspRelay(credentials={"viewer": NASTY}, auth=auth) as relay,
        publishing(relay.url("cam", user="viewer", password=NASTY)),
    ):
        relay.wait_for_publisher("cam", 10)
        place = relay.url("cam").removeprefix("rtsp://")
        streams = {
            "good": camera(f"rtsp://viewer:${{CAMERA_PASSWORD}}@{place}"),
            "bad": camera(f"rtsp://viewer:wr0ng@secret@{place}"),
        }
        settings = config(tmp_path, streams, runtime={"log": {"level": "debug"}})
        with running(settings, tmp_path / "run", env={"CAMERA_PASSWORD": NASTY}) as program:
            program.until_running("good")
            failed = program.until(lambda s: s["streams"]["bad"]["state"] == "FAILED", 20, "bad FAILED")
            assert "401" in failed["streams"]["bad"]["reason"]
            secrets = (NASTY, quote(NASTY, safe=""), "wr0ng", quote("wr0ng@secret", safe=""))
            assert leaks(program, *secrets) == []
            program.end()
            assert leaks(program, *secrets) == []


def test_program_loses_no_event_to_kill_9_and_a_dead_receiver(tmp_path: Path) -> None:
    """Events accepted while the receiver is down survive kill -9 and are delivered, once, when both are back.

    The incidents that were open are closed at the next start, although the camera is gone.
    """
    port = free_port()
    with RtspRelay() as relay, publishing(relay.url("a")):
        relay.wait_for_publisher("a", 10)
        sinks = {"vms": {"type": "http", "url": f"http://127.0.0.1:{port}/events"}}
        settings = config(tmp_path, {"a": camera(relay.url("a"))}, sinks)
        with running(settings, tmp_path / "first") as program:
            program.until(
                lambda s: s["sinks"]["vms"]["pending"] >= 5 and s["sinks"]["vms"]["state"] == "retrying",
                30,
                "five events pending",
            )
            program.process.send_signal(signal.SIGKILL)
            program.process.wait(5)
    listed = sentinel("events", "list", "--config", tmp_path / "first" / "sentinel.yaml", "--json", "--limit", "10000")
    accepted = ours(map(json.loads, listed.stdout.splitlines()))
    assert len(accepted) >= 5
    with HttpReceiver(port) as vms:
        dark = {**settings, "streams": {"a": camera("rtsp://127.0.0.1:1/nobody")}}
        with running(dark, tmp_path / "second") as program:
            program.until(lambda s: s["sinks"]["vms"]["pending"] == 0, 30, "nothing pending")
            wait_until(lambda: not open_incidents(vms.events), 10, "all incidents closed")
            program.end()
        assert ours(vms.events)[: len(accepted)] == accepted
        closed = {*ours(vms.events)[len(accepted) :]}
        assert {event["stage"] for event in vms.events if event["event_id"] in closed} <= {"CLEARED"}
        assert_valid(vms.events)


def test_program_stops_in_time_with_everything_hanging(tmp_path: Path) -> None:
    """SIGTERM ends it within 5 s while a camera never answers, one stalls, and a receiver holds its answer back."""
    with (
        RtspRelay() as relay,
        RtspRelay() as mute,
        publishing(relay.url("a")),
        FaultyHttpServer() as slow,
    ):
        mute.mute_all()
        relay.wait_for_publisher("a", 10)
        streams = {
            "a": camera(relay.url("a"), relay.url("a-out")),
            "mute": camera(mute.url("x")),
        }
        sinks = {"vms": {"type": "http", "url": slow.url}}
        with running(config(tmp_path, streams, sinks), tmp_path / "run") as program:
            program.until_running("a")
            wait_until(lambda: slow.requests, 20, "a first event")
            relay.faults("a").stall()
            code, took = program.end()
            assert (code, took < 5.0) == (0, True)


def broken(folder: Path, **changes: Any) -> Path:
    """Write a configuration that would work but for ``changes``."""
    path = folder / "sentinel.yaml"
    stream = camera("rtsp://127.0.0.1:1/nobody", "rtsp://127.0.0.1:1/out")
    path.write_text(json.dumps({**config(folder, {"gate": stream}), **changes}))
    return path


NO_FFMPEG = {"PATH": "/nowhere", "IMAGEIO_FFMPEG_EXE": "/nowhere/ffmpeg"}


def complaint(path: Path, env: dict[str, str] | None = None) -> tuple[int, str]:
    """Run ``sentinel run`` on a configuration that cannot start; return its code and what it said."""
    done = sentinel("run", path, "--duration", "5s", timeout=30, env=env)
    assert "Traceback" not in done.stderr + done.stdout
    return done.returncode, done.stderr


def test_program_says_what_keeps_it_from_starting(tmp_path: Path) -> None:
    """Missing FFmpeg, a model that is no model, a taken port, an outbox in a bad place: one sentence and a remedy."""
    code, said = complaint(broken(tmp_path), NO_FFMPEG)
    assert (code, "FFmpeg was not found" in said, "apt-get install ffmpeg" in said) == (1, True, True)

    (tmp_path / "model.onnx").write_text("not a model")
    models = {"m": {"path": str(tmp_path / "model.onnx"), "family": "yolov8", "labels": "coco"}}
    detect = {"gate": {"source": "rtsp://127.0.0.1:1/x", "analyse": {"detect": {"model": "m"}}}}
    code, said = complaint(broken(tmp_path, models=models, streams=detect))
    assert (code, "model.onnx" in said, "remedy" in said) == (1, True, True)

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        code, said = complaint(broken(tmp_path, api={"listen": f"127.0.0.1:{taken.getsockname()[1]}"}))
    assert (code, "cannot listen" in said, "api.listen" in said) == (1, True, True)

    (tmp_path / "file").touch()
    code, said = complaint(broken(tmp_path, outbox={"path": str(tmp_path / "file" / "outbox.db")}))
    assert (code, "outbox" in said, "remedy" in said) == (2, True, True)

    path = broken(tmp_path)
    code = sentinel("run", path, "--report", tmp_path / "nowhere" / "r.json").returncode
    assert code == 2


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small file system needs root")
def test_program_says_that_the_disk_is_full(tmp_path: Path) -> None:
    """A full disk is one sentence with a remedy, not a traceback."""
    small = tmp_path / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(small)], check=True, timeout=10)
    try:
        (small / "filler").write_bytes(b"x" * 60 * 1024)
        code, said = complaint(broken(tmp_path, outbox={"path": str(small / "outbox.db")}))
        assert (code, "full" in said, "remedy" in said) == (1, True, True)
    finally:
        subprocess.run(["umount", str(small)], check=True, timeout=10)


def test_program_checks_a_machine(tmp_path: Path) -> None:
    """``check`` accepts what works, and names what this machine lacks, all at once, with code 2."""
    good = sentinel("check", broken(tmp_path))
    assert (good.returncode, json.loads(good.stdout)["ok"]) == (0, True)
    (tmp_path / "model.onnx").write_text("not a model")
    models = {"m": {"path": str(tmp_path / "model.onnx"), "family": "yolov8", "labels": "coco"}}
    outbox = tmp_path / "model.onnx" / "outbox.db"
    bad = sentinel("check", broken(tmp_path, models=models, outbox={"path": str(outbox)}), env=NO_FFMPEG)
    assert bad.returncode == 2
    assert [json.loads(line)["where"] for line in bad.stdout.splitlines()] == [
        "runtime.ffmpeg",
        "models.m",
        "outbox.path",
    ]
    assert bad.stderr.count("remedy:") == 3


def test_program_checks_presets(tmp_path: Path) -> None:
    """A mistyped preset is found by ``check``, once for all streams that have it; the remedy names those there are."""
    stream = camera("rtsp://127.0.0.1:1/nobody", "rtsp://127.0.0.1:1/out")
    typo = {**stream, "publish": {"url": "rtsp://127.0.0.1:1/out2", "preset": "ultrfast"}}
    third = {**typo, "publish": {**typo["publish"], "url": "rtsp://127.0.0.1:1/out3"}}
    bad = sentinel("check", broken(tmp_path, streams={"gate": stream, "yard": typo, "door": third}))
    assert bad.returncode == 2
    (fault,) = [json.loads(line) for line in bad.stdout.splitlines()]
    assert (fault["where"], "no preset ultrfast" in fault["message"]) == ("publish", True)
    assert "ultrafast" in fault["remedy"]


@pytest.mark.parametrize("command", ["check", "run"])
def test_program_refuses_a_sink_with_a_name_that_is_taken(tmp_path: Path, command: str) -> None:
    """``sync`` is the program's own name for a callable: line and remedy instead of a traceback."""
    sinks = {"sync": {"type": "http", "url": "http://127.0.0.1:1/events"}}
    done = sentinel(command, broken(tmp_path, sinks=sinks), timeout=30)
    assert (done.returncode, "Traceback" in done.stderr) == (2, False)
    assert "sync is taken" in done.stderr
    assert "another id" in done.stderr


def test_program_small_commands(tmp_path: Path) -> None:
    """version, schema, status, events and bad usage answer as the contract says."""
    assert json.loads(sentinel("version").stdout)["sentinel"]
    schema = json.loads(sentinel("schema").stdout)
    assert "streams" in schema["properties"]
    nobody = sentinel("status", "--config", broken(tmp_path))
    assert (nobody.returncode, "no program answers" in nobody.stderr) == (1, True)
    missing = sentinel("events", "list", "--config", broken(tmp_path))
    assert (missing.returncode, "outbox" in missing.stderr, "Traceback" in missing.stderr) == (1, True, False)
    assert sentinel("run").returncode == 2
    assert sentinel("dance").returncode == 2
    assert sentinel("demo", "--duration", "soon").returncode == 2
    assert "demo" in sentinel("--help").stdout
