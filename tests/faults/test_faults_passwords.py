"""Passwords from a fuzzed set, in every place where one can stand: seen by the peers, and nowhere else."""

from __future__ import annotations

import base64
import json
import random
from contextlib import suppress
from pathlib import Path
from urllib.parse import quote

import httpx
import psutil
import pytest

from faults.clips import Clips
from faults.notebook import Notebook
from faults.scale import scaled
from faults.site import configuration, stream
from sentinel_pipeline.lab.rtsp_relay import RtspRelay
from support.program import SentinelProcess, running, sentinel, wait_until
from support.receivers import FaultyHttpServer, FaultyWebSocketServer, Reply, Session
from support.streams import publishing

pytestmark = [pytest.mark.ffmpeg, pytest.mark.timeout(1200)]

LETTERS = "abcXYZ019@:/%#?!^()[]{}&=+,;'~|<>*_-. é"
PLACES = ["camera", "wrong", "output", "http", "header", "websocket", "token"]

API = ["/api/v1/status", "/api/v1/streams", "/api/v1/streams/right", "/api/v1/sinks", "/api/v1/models"]
API += ["/health/ready", "/health/live", "/openapi.json", "/docs", "/api/v1/streams/nobody", "/nowhere"]


def fuzzed(seed: int) -> dict[str, str]:
    """Return a password for each place; a marker at both ends makes a chance hit impossible."""
    chance = random.Random(seed)
    letters = dict.fromkeys(PLACES, LETTERS) | dict.fromkeys(("header", "token"), "abcXYZ019-._~+/")
    return {
        place: f"zQ{n}" + "".join(chance.choice(letters[place]) for _ in range(chance.randrange(4, 16))) + f"Wk{n}"
        for n, place in enumerate(PLACES)
    }


def forms(secret: str) -> set[str]:
    """Return how a secret may be written: as it is, percent-encoded in some ways, in JSON, in Basic authentication."""
    found = {
        secret,
        quote(secret, safe=""),
        quote(secret),
        quote(secret, safe="").lower(),
        quote(secret, safe="!()*'~"),
    }
    found |= {json.dumps(secret)[1:-1], json.dumps(secret, ensure_ascii=False)[1:-1], repr(secret)[1:-1]}
    return found | {base64.b64encode(f"viewer:{secret}".encode()).decode()}


def everything_said(program: SentinelProcess, token: str, folder: Path) -> dict[str, str]:
    """Return all that the program has shown anywhere."""
    said = {"stdout": program.stdout, "stderr": program.stderr}
    headers = {"Authorization": f"Bearer {token}"}
    for path in API:
        for auth in (headers, {}, {"Authorization": "Bearer wrong"}):
            with suppress(httpx.HTTPError):
                answer = httpx.get(program.api + path, headers=auth, timeout=5, trust_env=False)
                said[f"GET {path} {len(auth)}"] = answer.text + repr(answer.headers)
    process = psutil.Process(program.process.pid)
    said["command line"] = " ".join(process.cmdline())
    said["outbox"] = "".join(path.read_bytes().decode("latin-1") for path in folder.glob("outbox.db*"))
    return said


def test_no_password_is_shown_anywhere(tmp_path: Path, clips: Clips, notebook: Notebook) -> None:
    """Right and wrong passwords of cameras, outputs, receivers and the API, at log level debug, with failures.

    pain 31: passwords with special characters fail, each tool differently; bar 11.
    """
    rounds, places = scaled(2, 25), 0
    for seed in range(rounds):
        secrets = fuzzed(seed)
        folder = tmp_path / str(seed)
        folder.mkdir()
        encoded = {place: quote(secret, safe="") for place, secret in secrets.items()}
        with (
            RtspRelay(credentials={"viewer": secrets["camera"]}, auth="digest" if seed % 2 else "basic") as cameras,
            RtspRelay(credentials={"viewer": secrets["output"]}) as outputs,
            publishing(cameras.url("cam", user="viewer", password=secrets["camera"]), clip=clips.blink),
            FaultyHttpServer(Reply(500), Reply(silent=True), then=Reply()) as http,
            FaultyWebSocketServer(Session(status=503), then=Session(hello=True, ack=True)) as live,
        ):
            cameras.wait_for_publisher("cam", 10)
            login = {place: f"viewer:{encoded[place]}@127.0.0.1" for place in secrets}
            streams = {
                "right": stream(
                    f"rtsp://{login['camera']}:{cameras.port}/cam", f"rtsp://{login['output']}:{outputs.port}/o"
                ),
                "wrong": stream(
                    f"rtsp://{login['wrong']}:{cameras.port}/cam", f"rtsp://{login['wrong']}:{outputs.port}/p"
                ),
                "off": stream(f"rtsp://{login['camera']}:1/cam"),
            }
            sinks = {
                "vms": {"type": "http", "url": f"http://{login['http']}:{http.port}/events?token={encoded['http']}"},
                "two": {"type": "http", "url": http.url, "headers": {"Authorization": f"Bearer {secrets['header']}"}},
                "live": {"type": "websocket", "url": f"ws://{login['websocket']}:{live.port}/ws"},
            }
            settings = configuration(folder, streams, sinks, runtime={"log": {"level": "debug"}})
            settings["api"]["token"] = secrets["token"]
            with running(settings, folder / "run") as program:
                status = {"Authorization": f"Bearer {secrets['token']}"}

                def works(program: SentinelProcess = program, status: dict[str, str] = status) -> bool:
                    with suppress(httpx.HTTPError):
                        now = httpx.get(f"{program.api}/api/v1/status", headers=status, trust_env=False).json()
                        return (
                            bool(now["streams"])  # none in the first moments of the API
                            and now["streams"]["right"]["frames_published"] > 5
                            and now["streams"]["wrong"]["state"] == "FAILED"
                            and min(sink["delivered"] for sink in now["sinks"].values()) > 0
                        )
                    return False

                wait_until(works, 30, "the right passwords work, the wrong one fails")
                said = everything_said(program, secrets["token"], folder)
                program.end()
                said |= {"report": program.report.read_text(), "stderr": program.stderr, "stdout": program.stdout}
            for command in (["check"], ["events", "list", "--config"], ["status", "--config"]):
                done = sentinel(*command, folder / "run" / "sentinel.yaml")
                said[" ".join(command)] = done.stdout + done.stderr
        places += len(said)
        shown = [f"{place} in {where}" for place, secret in secrets.items() for where, text in said.items()
                 for form in forms(secret) if form in text]  # fmt: skip
        assert shown == []
        assert any("basic" in request.headers.get("authorization", "").lower() for request in http.requests)
    notebook.figure(
        "fuzzed passwords that appear in a log, exception, report, API answer, event or command line", "0",
        f"0 of {rounds * len(PLACES):,} passwords in {places:,} texts",
    )  # fmt: skip
