"""The program with an idle camera, an audience and two addresses."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest

from sentinel_pipeline.lab.rtsp_relay import RtspRelay
from support.path_status import path_status
from support.peers import free_port
from support.program import running
from support.streams import make_clip, publishing, stop

pytestmark = [pytest.mark.ffmpeg, pytest.mark.ffprobe]


def test_program_spares_an_idle_camera_that_nobody_watches(tmp_path: Path) -> None:
    """A still picture is decoded by its key frames, and published now and then; a viewer brings back the full rate;
    the report says all of it; SIGTERM ends it in time."""
    still = make_clip(tmp_path / "still.mp4", size=(320, 180), fps=25, seconds=4, gop=50, pattern="smptebars")
    with RtspRelay() as relay, path_status(relay) as status, publishing(relay.url("cam"), clip=still):
        relay.wait_for_publisher("cam", 15)
        gate: dict[str, Any] = {
            "source": relay.url("cam"),
            "decode": {"skip": "idle"},
            "analyse": {"motion": {"enabled": True, "hold": "500ms"}, "detect": {"model": "nanodet-g-416"}},
            "publish": {
                "url": [relay.url("out"), relay.url("copy")],
                "when": "watched",
                "watch": {"url": [status.url("out"), status.url("copy")]},
            },
        }
        config = {
            "version": 1,
            "streams": {"gate": gate},
            "outbox": {"path": str(tmp_path / "outbox.db")},
            "api": {"listen": f"127.0.0.1:{free_port()}"},
        }
        with running(config, tmp_path / "run") as program:
            program.until(
                lambda s: (
                    s["streams"]["gate"]["idle"]
                    and s["streams"]["gate"]["fps"] < 2
                    and s["streams"]["gate"]["received_fps"] > 20
                    and s["streams"]["gate"]["publish"]["audience"] == {"watched": False, "reason": ""}
                ),
                40,
                "an idle camera that nobody watches",
            )
            viewer = subprocess.Popen(
                ["ffmpeg", "-nostdin", "-v", "quiet", "-i", relay.url("copy"), "-f", "null", "-"],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            try:
                program.until(
                    lambda s: s["streams"]["gate"]["publish"]["audience"]["watched"], 20, "the viewer is seen"
                )
                before = program.until(lambda _: True, 5, "a report")["streams"]["gate"]["frames_published"]
                after = program.until(
                    lambda s: s["streams"]["gate"]["frames_published"] >= before + 50, 10, "the full rate"
                )["streams"]["gate"]
            finally:
                stop(viewer)
            assert after["state"] == "RUNNING"
            assert after["idle"], "watching moves nothing"
            assert after["reconnects"] == 0
            assert [output["state"] for output in after["publish"]["outputs"]] == ["running", "running"]
            code, took = program.end()
            assert (code, took < 5.0) == (0, True)
