"""What a usable configuration becomes."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest

from sentinel_pipeline.domain.models import ModelSpec
from sentinel_pipeline.domain.settings import ApiSpec, OutboxSpec, RuntimeSpec, SinkSpec
from sentinel_pipeline.domain.streams import (
    AnalyseSpec,
    DetectSpec,
    DwellRuleSpec,
    LineRuleSpec,
    PrivacySpec,
    PublishSpec,
    StreamSpec,
    ZoneRuleSpec,
)
from sentinel_pipeline.interface.config import Config

Load = Callable[..., Config]

MINIMAL = """\
version: 1
streams:
  gate:
    source: rtsp://10.0.0.5/stream1
    analyse: {detect: {model: nanodet-g-416}}
    publish: {url: "rtsp://127.0.0.1:8554/gate"}
sinks:
  vms: {type: http, url: "https://vms.example/events"}
"""


def test_config_minimal_file_has_the_defaults_of_the_domain(load: Load, tmp_path: Path) -> None:
    """Everything that a small file leaves out is what the domain's own values have as defaults."""
    config = load(MINIMAL)
    assert config == Config(
        models=(ModelSpec("nanodet-g-416", builtin="nanodet-g-416"),),
        streams=(
            StreamSpec(
                "gate",
                "rtsp://10.0.0.5/stream1",
                analyse=AnalyseSpec(DetectSpec("nanodet-g-416")),
                publish=PublishSpec("rtsp://127.0.0.1:8554/gate"),
            ),
        ),
        sinks=(SinkSpec("vms", "http", "https://vms.example/events"),),
        outbox=OutboxSpec(tmp_path / "var/outbox.db"),
        api=ApiSpec(),
        runtime=RuntimeSpec(),
        path=tmp_path / "site.yaml",
    )


def test_config_rules_with_defaults_are_the_defaults_of_the_domain(load: Load) -> None:
    """A rule that says only what it must has the domain's defaults, and the event type of its kind."""
    rules = """
      rules:
        - {name: a, when: zone, polygon: [[0, 0], [1, 0], [1, 1]]}
        - {name: b, when: line, from: [0.5, 0], to: [0.5, 1]}
        - {name: c, when: dwell, polygon: [[0, 0], [1, 0], [1, 1]], longer_than: 30s}
"""
    text = MINIMAL.replace(
        "    analyse: {detect: {model: nanodet-g-416}}\n", "    analyse:\n      detect: {model: centerface}" + rules
    )
    analyse = load(text).streams[0].analyse
    polygon = ((0.0, 0.0), (1.0, 0.0), (1.0, 1.0))
    assert analyse is not None
    assert analyse.rules == (
        ZoneRuleSpec("a", polygon, "INTRUSION"),
        LineRuleSpec("b", (0.5, 0.0), (0.5, 1.0), "LINE_CROSSED"),
        DwellRuleSpec("c", polygon, "LOITERING", 30.0),
    )


FULL = """\
version: 1
models:
  mine:
    path: models/mine.onnx
    labels: labels.txt
    device: cpu
    batch: {max_size: 4, max_wait: 10ms}
    sha256: "%s"
    resize: stretch
    input_size: 640x384
    threads: 2
    timeout: 500ms
streams:
  gate:
    source: clips/a.mp4
    decode: {backend: opencv, transport: udp, open_timeout: 3s, read_timeout: 2, buffer_size: 3, hwaccel: none}
    reconnect: {base_delay: 500ms, max_delay: 1m, max_retries: 7}
    analyse:
      fps: 2.5
      max_age: 1s
      motion: {enabled: true, threshold: 0.1, hold: 5s}
      detect: {model: mine, classes: [cat], confidence: 0.5, iou: 0.7}
      track: {enabled: false, lost_after: 4s}
      rules:
        - {name: a, when: zone, polygon: [[0, 0], [1, 0], [1, 1]], event: E1, classes: [cat], confirm_after: 1s,
           clear_after: 3s, cooldown: 4s}
    privacy: {blur: [dog], method: fill, model: mine, fps: 8, confidence: 0.2}
    publish: {url: out.mkv, fps: 10, size: 640x480, codec: libx265, preset: fast, bitrate: 800k, overlay: no,
              tracks: yes, time: yes, on_signal_loss: stop}
  off: {enabled: false, source: "test:"}
  pattern: {source: "test:@10"}
sinks:
  vms: {type: http, url: "HTTP://u:p@ss@vms/e", headers: {X-A: b}, batch: {max_events: 5, max_wait: 1s}, timeout: 3s,
        format: cloudevents, verify_tls: false}
  live: {type: websocket, url: "ws://live/x"}
outbox: {path: /tmp/o.db, max_size: 1GiB, max_age: 1h, when_full: refuse}
api: {listen: "[::1]:0", token: t}
runtime: {ffmpeg: ./bin/ffmpeg, log: {format: json, level: debug}}
""" % ("AB" * 32)


@pytest.fixture
def full(load: Load, tmp_path: Path) -> Config:
    for name in ("models/mine.onnx", "clips/a.mp4", "bin/ffmpeg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch(mode=0o755)
    (tmp_path / "labels.txt").write_text("cat\ndog\n\n")
    return load(FULL)


def test_config_every_setting_of_a_model_arrives(full: Config, tmp_path: Path) -> None:
    """A model's settings arrive in base units, its file as an absolute path, its labels read from their file."""
    assert full.models == (
        ModelSpec(
            "mine",
            path=str(tmp_path / "models/mine.onnx"),
            family="yolov8",
            labels=("cat", "dog"),
            device="cpu",
            max_size=4,
            max_wait=0.01,
            sha256="ab" * 32,
            resize="stretch",
            input_size=(640, 384),
            threads=2,
            timeout=0.5,
        ),
    )


def test_config_every_setting_of_a_stream_arrives(full: Config, tmp_path: Path) -> None:
    """No setting of a stream keeps its default when the file says otherwise, and a disabled stream is left out."""
    gate, pattern = full.streams
    assert (gate.id, gate.source) == ("gate", str(tmp_path / "clips/a.mp4"))
    assert gate.publish == PublishSpec(
        str(tmp_path / "out.mkv"),
        10.0,
        (640, 480),
        "libx265",
        "fast",
        800_000,
        overlay=False,
        tracks=True,
        time=True,
        on_signal_loss="stop",
    )
    assert gate.privacy == PrivacySpec(("dog",), "mine", "fill", 8.0, 0.2)
    assert gate.analyse is not None
    polygon = ((0.0, 0.0), (1.0, 0.0), (1.0, 1.0))
    assert gate.analyse.rules == (ZoneRuleSpec("a", polygon, "E1", ("cat",), 1.0, 3.0, 4.0),)
    assert gate.analyse.detect == DetectSpec("mine", ("cat",), 0.5, 0.7)
    assert (gate.analyse.fps, gate.analyse.max_age) == (2.5, 1.0)
    assert dataclasses.astuple(gate.analyse.motion) == (True, 0.1, 5.0)
    assert dataclasses.astuple(gate.analyse.track) == (False, 4.0)
    assert dataclasses.astuple(gate.decode) == ("opencv", "udp", 3.0, 2.0, 3, "none", "none")
    assert dataclasses.astuple(gate.reconnect) == (0.5, 60.0, 7)
    assert pattern == StreamSpec("pattern", "test:1280x720@10")


def test_config_every_setting_of_the_rest_arrives(full: Config, tmp_path: Path) -> None:
    """Sinks, outbox, API and runtime arrive in base units; a raw password in a URL is percent-encoded."""
    assert full.sinks == (
        SinkSpec("vms", "http", "http://u:p%40ss@vms/e", {"X-A": "b"}, 5, 1.0, 3.0, "cloudevents", verify_tls=False),
        SinkSpec("live", "websocket", "ws://live/x"),
    )
    assert full.outbox == OutboxSpec(Path("/tmp/o.db"), 2**30, 3600.0, "refuse")
    assert full.api == ApiSpec("::1", 0, "t")
    assert full.runtime == RuntimeSpec("json", "debug", str(tmp_path / "bin/ffmpeg"))


@pytest.mark.parametrize(
    ("raw", "encoded"),
    [
        ("s3cret", "s3cret"),
        ("p@ss", "p%40ss"),
        ("a/b", "a%2Fb"),
        ("a#b?c", "a%23b%3Fc"),
        ("a:b", "a%3Ab"),
        ("50%", "50%25"),
        ("p%40ss", "p%40ss"),
        ("with space", "with%20space"),
    ],
)
def test_config_camera_passwords_may_be_raw(raw: str, encoded: str, load: Load) -> None:
    """A password from the environment reaches the camera whatever characters it has."""
    text = MINIMAL.replace("rtsp://10.0.0.5/", "RTSP://viewer:${PASSWORD}@10.0.0.5:554/")
    assert load(text, {"PASSWORD": raw}).streams[0].source == f"rtsp://viewer:{encoded}@10.0.0.5:554/stream1"


def test_config_substituted_values_take_the_type_of_their_field(load: Load) -> None:
    """Numbers, truth values, nothing and choices may come from the environment."""
    text = """\
version: ${VERSION}
streams:
  gate:
    enabled: ${ON}
    source: "test:"
    decode: {buffer_size: "${TWO}", open_timeout: "${TWO}", transport: "${TRANSPORT}"}
    reconnect: {max_retries: "${NULL}"}
    analyse: {fps: "${TWO}", motion: {enabled: "${OFF}"}, detect: {model: "${M:-centerface}", confidence: "0.${TWO}"}}
"""
    environ = {"VERSION": "1", "ON": "true", "OFF": "no", "TWO": "2", "TRANSPORT": "udp", "NULL": "null"}
    (stream,) = load(text, environ).streams
    assert (stream.decode.buffer_size, stream.decode.open_timeout, stream.decode.transport) == (2, 2.0, "udp")
    assert stream.reconnect.max_retries is None
    assert stream.analyse == AnalyseSpec(DetectSpec("centerface", confidence=0.2), fps=2.0)


@pytest.mark.parametrize(
    "written", ["clips/a b.mp4", "./clips/a b.mp4", "file:clips/a b.mp4", "file://{}/clips/a%20b.mp4"]
)
def test_config_footage_is_named_in_several_ways(written: str, load: Load, tmp_path: Path) -> None:
    """A path, a ``file:`` path and a ``file://`` URL of the same footage give the same absolute path."""
    (tmp_path / "clips").mkdir()
    (tmp_path / "clips/a b.mp4").touch()
    text = MINIMAL.replace("rtsp://10.0.0.5/stream1", f"'{written.format(tmp_path)}'")
    assert load(text).streams[0].source == str(tmp_path / "clips/a b.mp4")


@pytest.mark.parametrize("empty", ["models:", "sinks:", "outbox:", "api:", "runtime:", "runtime: {log: }"])
def test_config_empty_sections_have_their_defaults(empty: str, load: Load) -> None:
    """A section whose content is commented out is the same as no section."""
    text = "version: 1\nstreams: {gate: {source: 'test:', decode: , analyse: , publish: }}\n"
    assert load(text + empty) == load(text)


def test_config_equal_files_give_equal_values(load: Load) -> None:
    """Reloading an unchanged file changes nothing, so that nothing restarts; another URL is another stream."""
    assert load(MINIMAL) == load(MINIMAL)
    assert load(MINIMAL).streams != load(MINIMAL.replace("stream1", "stream2")).streams


def test_config_values_do_not_show_secrets(load: Load) -> None:
    """The configuration can be logged: no password, token or header is in its ``repr``."""
    text = MINIMAL.replace("10.0.0.5", "u:s3cret@10.0.0.5").replace("127.0.0.1", "u:s3cret@127.0.0.1")
    text = text.replace("vms.example/events", "vms.example/events?key=s3cret")
    text = text.replace('events?key=s3cret"', 'events?key=s3cret", headers: {X-Key: s3cret}') + "api: {token: s3cret}\n"
    config = load(text)
    assert config.api.token == "s3cret"
    assert "s3cret" not in repr(config)


def test_config_files_are_found_beside_a_relative_file(
    load: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Relative names are below the folder of the configuration file, whatever folder the program is started in."""
    from sentinel_pipeline.interface.config import load_config

    folder = tmp_path / "site"
    folder.mkdir()
    (folder / "site.yaml").write_text(MINIMAL)
    monkeypatch.chdir(tmp_path)
    assert load_config(Path("site/site.yaml"), {}).outbox.path == folder / "var/outbox.db"
