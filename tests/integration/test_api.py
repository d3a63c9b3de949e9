"""The read-only API on a real port."""

from __future__ import annotations

import socket
import threading
import time
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn

from sentinel_pipeline.application.stream.manager import StreamManager
from sentinel_pipeline.bootstrap.program import running
from sentinel_pipeline.domain.errors import ConfigError, SentinelError
from sentinel_pipeline.interface.api.app import make_app
from sentinel_pipeline.interface.api.client import ask_status
from sentinel_pipeline.interface.api.server import ApiServer, bind
from sentinel_pipeline.interface.config import load_config
from support.peers import free_port

REPORT: dict[str, Any] = {
    "streams": {"gate": {"state": "RUNNING"}, "yard": {"state": "FAILED"}},
    "sinks": {"vms": {"state": "up"}},
    "outbox": {},
    "models": {},
    "process": {},
}


def serve(report: dict[str, Any] = REPORT, token: str = "", port: int = 0) -> ApiServer:
    return ApiServer(make_app(lambda: report, token), bind("127.0.0.1", port))


def get(server: ApiServer, path: str, **headers: str) -> httpx.Response:
    return httpx.get(server.url + path, headers=headers, trust_env=False, timeout=5)


def test_api_answers_the_report_and_its_parts() -> None:
    """The whole report and each part of it can be read; an unknown stream is a problem document."""
    with serve() as server:
        assert get(server, "/api/v1/status").json() == REPORT
        assert get(server, "/api/v1/streams").json() == REPORT["streams"]
        assert get(server, "/api/v1/streams/gate").json() == {"state": "RUNNING"}
        assert get(server, "/api/v1/sinks").json() == REPORT["sinks"]
        assert get(server, "/api/v1/models").json() == {}
        missing = get(server, "/api/v1/streams/nobody")
        assert (missing.status_code, missing.headers["content-type"]) == (404, "application/problem+json")
        assert missing.json() == {"type": "about:blank", "status": 404, "title": "there is no stream 'nobody'"}
        assert get(server, "/nowhere").headers["content-type"] == "application/problem+json"


def test_api_health_tells_live_from_ready() -> None:
    """Live as soon as it answers; ready while at least one stream runs, 503 otherwise."""
    with serve() as server:
        assert get(server, "/health/live").json() == {"status": "live"}
        assert get(server, "/health/ready").json() == {"status": "ready", "running": 1}
    dark = {**REPORT, "streams": {"gate": {"state": "RECONNECTING"}}}
    with serve(dark) as server:
        reply = get(server, "/health/ready")
        assert (reply.status_code, reply.json()["status"]) == (503, "not ready")


def test_api_token_guards_all_but_health() -> None:
    """With a token everything but the probes asks for it, and the token is nowhere in the answers."""
    with serve(token="s3cret-token") as server:
        refused = get(server, "/api/v1/status")
        assert (refused.status_code, refused.headers["www-authenticate"]) == (401, "Bearer")
        assert "s3cret" not in refused.text
        assert get(server, "/api/v1/status", authorization="Bearer wrong").status_code == 401
        assert get(server, "/api/v1/status", authorization="Bearer s3cret-token").status_code == 200
        assert get(server, "/health/live").status_code == 200
        assert get(server, "/docs").status_code == 401


def test_api_port_in_use_is_one_sentence() -> None:
    """A taken port is found at the start, with a remedy."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with (
            pytest.raises(SentinelError, match=r"cannot listen.*in use.*api\.listen"),
            serve(port=taken.getsockname()[1]),
        ):
            pass


def test_api_client_says_what_answers() -> None:
    """``sentinel status`` tells nobody, a refusal and a stranger apart."""
    with serve() as server:
        port = int(server.url.rpartition(":")[2])
        assert ask_status("127.0.0.1", port, "") == REPORT
        assert ask_status("0.0.0.0", port, "") == REPORT
    with pytest.raises(SentinelError, match="no program answers"):
        ask_status("127.0.0.1", port, "")
    with serve(token="t") as server, pytest.raises(SentinelError, match=r"401.*SENTINEL_TOKEN"):
        ask_status("127.0.0.1", int(server.url.rpartition(":")[2]), "")
    with serve({"sinks": {}}) as server, pytest.raises(SentinelError, match="not sentinel"):  # type: ignore[arg-type]
        ask_status("127.0.0.1", int(server.url.rpartition(":")[2]), "")


@pytest.mark.parametrize(
    "report", [{"streams": {}}, {"streams": 5, "sinks": {}, "outbox": {}, "models": {}, "process": {}}]
)
def test_status_tells_another_programs_answer(report: dict[str, Any]) -> None:
    """An answer that lacks parts of the report is not taken for one."""
    with serve(report) as server, pytest.raises(SentinelError, match="is not sentinel"):
        ask_status("127.0.0.1", int(server.url.rpartition(":")[2]), "")


def test_status_refuses_a_token_that_no_header_can_carry() -> None:
    """It says so, instead of blaming whoever answers."""
    with pytest.raises(ConfigError, match="characters that HTTP cannot carry"):
        ask_status("127.0.0.1", 1, "p\u00e4ss")


def test_api_says_that_a_host_name_is_impossible() -> None:
    """Not a traceback: one sentence with the remedy."""
    with pytest.raises(SentinelError, match="not the name of a host"):
        bind("\u00e4..b", 0)


def test_api_own_failure_is_a_problem_document() -> None:
    """A report that cannot be made is answered with 500 and problem details, without the exception's text."""

    def broken() -> dict[str, Any]:
        raise RuntimeError("secret inside")

    with ApiServer(make_app(broken, ""), bind("127.0.0.1", 0)) as server:
        reply = get(server, "/api/v1/status")
    assert (reply.status_code, reply.headers["content-type"]) == (500, "application/problem+json")
    assert "secret" not in reply.text


def test_api_is_idle_while_nobody_asks_and_ends_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The server wakes up once a second, not ten times, keeps the Date header true, and still ends without a wait."""
    woken: list[float] = []
    look = uvicorn.Server.on_tick

    async def on_tick(self: uvicorn.Server, counter: int) -> bool:
        woken.append(time.monotonic())
        return await look(self, counter)

    monkeypatch.setattr(uvicorn.Server, "on_tick", on_tick)
    with serve() as server:
        first = parsedate_to_datetime(get(server, "/health/live").headers["date"])
        threading.Event().wait(1.3)
        later = parsedate_to_datetime(get(server, "/health/live").headers["date"])
        started = time.monotonic()
    assert time.monotonic() - started < 0.5
    assert first < later
    assert len(woken) <= 4


def test_api_knows_all_streams_when_it_answers_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who asks while the streams are being started waits for the answer, and it names them."""
    port = free_port()
    path = tmp_path / "sentinel.yaml"
    path.write_text(
        f"version: 1\nstreams: {{gate: {{source: 'rtsp://127.0.0.1:1/x'}}}}\n"
        f"outbox: {{path: {tmp_path / 'outbox.db'}}}\napi: {{listen: '127.0.0.1:{port}'}}\n"
    )
    apply, asked = StreamManager.apply, []

    def slow_apply(manager: StreamManager, specs: Any) -> None:
        with pytest.raises(httpx.ReadTimeout):
            httpx.get(f"http://127.0.0.1:{port}/api/v1/streams", timeout=0.3, trust_env=False)
        asked.append(True)
        apply(manager, specs)

    monkeypatch.setattr(StreamManager, "apply", slow_apply)
    with running(load_config(path, {})):
        first = httpx.get(f"http://127.0.0.1:{port}/api/v1/streams", timeout=5, trust_env=False).json()
    assert asked
    assert set(first) == {"gate"}
    assert first["gate"]["state"] in {"CONNECTING", "RECONNECTING"}
