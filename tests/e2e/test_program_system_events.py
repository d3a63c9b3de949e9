"""The program as a process: what it says of its cameras and receivers, over all three transports, and commands."""

from __future__ import annotations

import base64
import json
import signal
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from sentinel_pipeline.domain.events import Event
from sentinel_pipeline.lab.receivers import HttpReceiver
from sentinel_pipeline.lab.rtsp_relay import RtspRelay
from support.mqtt_peer import Broker, subscribed
from support.peers import free_port
from support.program import running, sentinel, wait_until
from support.receivers import FaultyWebSocketServer, Session
from support.streams import make_clip, publishing, stop

pytestmark = [pytest.mark.ffmpeg, pytest.mark.ffprobe]

WHOLE_PICTURE = [[0, 0], [1, 0], [1, 1], [0, 1]]
RULE = {"name": "anybody", "when": "zone", "polygon": WHOLE_PICTURE, "classes": ["person"], "event": "INTRUSION"}
ANALYSE = {"fps": 5, "detect": {"model": "nanodet-g-416", "classes": ["person"]}, "rules": [RULE]}


def config(folder: Path, source: str, sinks: dict[str, Any], **stream: Any) -> dict[str, Any]:
    gate = {"source": source, "reconnect": {"base_delay": "300ms", "max_delay": "500ms"}, **stream}
    return {
        "version": 1,
        "streams": {"gate": gate},
        "sinks": sinks,
        "outbox": {"path": str(folder / "outbox.db")},
        "api": {"listen": f"127.0.0.1:{free_port()}"},
    }


def assert_in_order(events: list[dict[str, Any]]) -> None:
    parsed = [Event.from_wire(event) for event in events]
    assert len({event.event_id for event in parsed}) == len(parsed)
    for stream_id in {event.stream_id for event in parsed}:
        times = [event.ts for event in parsed if event.stream_id == stream_id]
        assert times == sorted(times)


def kinds(events: list[dict[str, Any]]) -> list[str]:
    return [event["type"] for event in events if event["type"].startswith("SYSTEM_STREAM")]


@pytest.mark.mosquitto
def test_program_tells_of_a_lost_camera_on_every_transport(tmp_path: Path) -> None:
    """A camera that is lost twice is told twice, in order, between its other events, to HTTP, WebSocket and MQTT."""
    (tmp_path / "broker").mkdir()
    with (
        Broker(tmp_path / "broker") as broker,
        subscribed(broker) as subscriber,
        RtspRelay() as relay,
        HttpReceiver() as http,
        FaultyWebSocketServer(then=Session(hello=True, ack=True)) as websocket,
    ):
        sinks = {
            "vms": {"type": "http", "url": http.url},
            "live": {"type": "websocket", "url": websocket.url},
            "broker": {"type": "mqtt", "url": broker.url, "discovery": True},
        }
        with running(config(tmp_path, relay.url("cam"), sinks, analyse=ANALYSE), tmp_path / "run") as program:
            wait_until(lambda: kinds(http.events) == ["SYSTEM_STREAM_DOWN"], 15, "told that it is not there")
            for turn in range(2):
                with publishing(relay.url("cam")) as camera:
                    program.until_running("gate")
                    before = len(http.events)
                    wait_until(
                        lambda before=before: any(e["type"] == "INTRUSION" for e in http.events[before:]),
                        20,
                        "people seen",
                    )
                    stop(camera)
                wait_until(lambda turn=turn: len(kinds(http.events)) == 2 * turn + 3, 15, "told that it is lost again")
            program.until(lambda s: all(sink["pending"] == 0 for sink in s["sinks"].values()), 10, "all delivered")
            code, took = program.end()
            assert (code, took < 5.0) == (0, True)
            assert "Traceback" not in program.stderr
        sent = [event for batch in websocket.batches for event in batch]
        newest = http.events[-1]["event_id"]
        subscriber.wait_for(lambda s: any(event["event_id"] == newest for event in s.events))
        for got in (http.events, sent, subscriber.events):
            assert_in_order(got)
            assert kinds(got) == ["SYSTEM_STREAM_DOWN", *["SYSTEM_STREAM_UP", "SYSTEM_STREAM_DOWN"] * 2]
            assert [event["event_id"] for event in got] == [event["event_id"] for event in http.events]
        states = [message.json["state"] for message in subscriber.on("site/a/streams/gate/state")]
        assert states == ["DOWN", "UP", "DOWN", "UP", "DOWN"]
        assert [m.payload for m in subscriber.on("site/a/status")] == [b"online", b"offline"]
        assert subscriber.below("homeassistant/binary_sensor/")
        by_type = [event for event in http.events if event["type"].startswith("SYSTEM_STREAM")]
        for down, up in zip(by_type[0::2], by_type[1::2], strict=False):
            assert down["details"]["incident_id"] == up["details"]["incident_id"]
            assert up["details"]["down_s"] > 0
            assert down["details"]["reason"]


def test_program_tells_of_a_dead_receiver_through_the_others_and_closes_it_after_a_restart(tmp_path: Path) -> None:
    """Ten seconds without the VMS are told to the other sink; after kill -9 its return closes the same incident."""
    port = free_port()
    with HttpReceiver() as other, RtspRelay() as relay, publishing(relay.url("cam")):
        relay.wait_for_publisher("cam", 10)
        sinks = {
            "vms": {"type": "http", "url": f"http://127.0.0.1:{port}/events"},
            "other": {"type": "http", "url": other.url},
        }
        settings = config(tmp_path, relay.url("cam"), sinks, analyse=ANALYSE)

        def of_sinks(receiver: HttpReceiver) -> list[dict[str, Any]]:
            return [event for event in receiver.events if event["type"].startswith("SYSTEM_SINK")]

        with running(settings, tmp_path / "first") as program:
            wait_until(lambda: of_sinks(other), 40, "told that the VMS is down")
            (down,) = of_sinks(other)
            assert (down["type"], down["stage"], down["stream_id"]) == ("SYSTEM_SINK_DOWN", "DETECTED", "system")
            assert down["details"]["sink"] == "vms"
            assert "cannot connect" in down["details"]["reason"]
            program.process.send_signal(signal.SIGKILL)
            program.process.wait(5)
        with HttpReceiver(port) as vms, running(settings, tmp_path / "second") as program:
            wait_until(lambda: len(of_sinks(other)) == 2, 20, "told that the VMS is back")
            up = of_sinks(other)[1]
            assert (up["type"], up["stage"]) == ("SYSTEM_SINK_UP", "CLEARED")
            assert up["details"]["incident_id"] == down["details"]["incident_id"]
            wait_until(lambda: len(of_sinks(vms)) == 2, 10, "the VMS itself is told as well, late")
            program.end()
            assert_in_order(vms.events)


def test_program_answers_commands(tmp_path: Path) -> None:
    """The server gets a picture, restarts a stream, and is refused what the list does not have."""
    with (
        RtspRelay() as relay,
        publishing(relay.url("cam")),
        FaultyWebSocketServer(then=Session(hello=True, ack=True)) as server,
    ):
        relay.wait_for_publisher("cam", 10)
        live = {"type": "websocket", "url": server.url, "allow_commands": ["snapshot", "restart_stream"]}

        def ask(number: int, command: str, stream: str) -> dict[str, Any]:
            server.push(json.dumps({"type": "command", "id": number, "command": command, "stream": stream}))
            server.wait_for(lambda s: any(m.get("id") == number for m in s.messages), 15)
            return next(m for m in server.messages if m.get("id") == number)

        with running(config(tmp_path, relay.url("cam"), {"live": live}), tmp_path / "run") as program:
            before = program.until(lambda s: s["streams"]["gate"]["frames_decoded"] > 10, 20, "frames")
            picture = ask(1, "snapshot", "gate")
            assert (picture["ok"], picture["content_type"], picture["frame_size"]) == (True, "image/jpeg", [768, 576])
            decoded = cv2.imdecode(np.frombuffer(base64.b64decode(picture["data"]), np.uint8), cv2.IMREAD_COLOR)
            assert decoded is not None
            assert decoded.shape == (576, 768, 3)
            assert picture["age_s"] < 2
            assert ask(2, "restart_stream", "gate")["ok"]
            program.until(
                lambda s: s["streams"]["gate"]["since"] > before["streams"]["gate"]["since"], 10, "running anew"
            )
            program.until_running("gate")
            assert "no stream" in ask(3, "snapshot", "nobody")["error"]
            assert "not allowed" in ask(4, "ping", "gate")["error"]
            code, took = program.end()
            assert (code, took < 5.0) == (0, True)
            assert "Traceback" not in program.stderr
        # A restart that somebody asked for is no loss.
        assert not any(e["type"] == "SYSTEM_STREAM_DOWN" for batch in server.batches for e in batch)


def test_program_checks_an_mqtt_sink(tmp_path: Path) -> None:
    """``check`` takes a good MQTT sink, and names what is wrong with a bad one, without its password."""
    path = tmp_path / "sentinel.yaml"
    good = config(tmp_path, "rtsp://127.0.0.1:1/x", {"b": {"type": "mqtt", "url": "mqtt://u:s3cret@h/site"}})
    path.write_text(json.dumps(good))
    assert sentinel("check", path).returncode == 0
    good["sinks"]["b"] |= {"url": "mqtt://u:s3cret@h/a/+/b", "headers": {"A": "b"}}
    path.write_text(json.dumps(good))
    bad = sentinel("check", path)
    assert bad.returncode == 2
    assert "topic prefix" in bad.stdout + bad.stderr
    assert "headers" in bad.stdout + bad.stderr
    assert "s3cret" not in bad.stdout + bad.stderr


def changes(receiver: HttpReceiver) -> list[dict[str, Any]]:
    return [event for event in receiver.events if event["type"] == "SYSTEM_RESOLUTION_CHANGED"]


def test_program_tells_of_another_resolution(tmp_path: Path) -> None:
    """A camera that goes over to another size is told to have changed, from what to what, once."""
    small = make_clip(tmp_path / "small.mp4", size=(320, 240), gop=25)
    with (
        HttpReceiver() as http,
        RtspRelay() as relay,
        publishing(relay.url("cam")),
        publishing(relay.url("small"), clip=small),
    ):
        relay.wait_for_publisher("cam", 10)
        relay.wait_for_publisher("small", 10)
        sinks = {"vms": {"type": "http", "url": http.url}}
        with running(config(tmp_path, relay.url("cam"), sinks), tmp_path / "run") as program:
            program.until(lambda s: s["streams"]["gate"]["frames_decoded"] > 10, 20, "frames")
            relay.faults("cam").play("small")
            wait_until(lambda: changes(http), 30, "told")
            program.end()
        (change,) = changes(http)
        assert (change["details"]["from"], change["details"]["to"]) == ([768, 576], [320, 240])
        assert change["stream_id"] == "gate"
