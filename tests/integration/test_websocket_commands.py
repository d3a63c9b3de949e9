"""Commands from a real WebSocket server, while events are delivered over the same connection."""

from __future__ import annotations

import json
import threading
from typing import Any

import pytest

from sentinel_pipeline.application.event.delivery import DeliverySettings
from sentinel_pipeline.application.event.emitter import EventEmitter
from sentinel_pipeline.domain.errors import CommandRefused
from sentinel_pipeline.domain.events import Event, EventStage
from sentinel_pipeline.infrastructure.transport.ws_sink import WebSocketSink
from support.receivers import FaultyWebSocketServer, Session

QUICK = DeliverySettings(max_events=10, max_wait=0.005, base_delay=0.05, max_delay=0.2)


def sink(url: str, run: Any, allow: tuple[str, ...]) -> WebSocketSink:
    return WebSocketSink(
        url, commands=run, allow_commands=allow, hello_wait=0.05, reconnect_interval=0.05, healthy_after=0.0
    )


def results(server: FaultyWebSocketServer) -> list[dict[str, Any]]:
    return [message for message in server.messages if message.get("type") == "result"]


def ask(server: FaultyWebSocketServer, **command: Any) -> None:
    server.push(json.dumps({"type": "command", **command}))


def test_commands_are_answered_before_any_event_and_after_a_drop() -> None:
    """An allowed command keeps the connection open from the start; after a drop the server can ask again."""
    with (
        FaultyWebSocketServer() as server,
        EventEmitter(None, {"live": sink(server.url, lambda c, s: {"was": [c, s]}, ("ping",))}, {"live": QUICK}),
    ):
        server.wait_for(lambda s: s._sessions)
        ask(server, id="a", command="ping")
        server.wait_for(results)
        server.drop()
        server.wait_for(lambda s: len(s.dialled) == 2 and s._sessions)
        ask(server, id="b", command="ping")
        server.wait_for(lambda s: len(results(s)) == 2)
        assert results(server) == [
            {"type": "result", "id": i, "ok": True, "command": "ping", "was": ["ping", None]} for i in ("a", "b")
        ]


def test_commands_that_hang_do_not_hold_up_events() -> None:
    """While a command hangs in its thread, events go out and are acknowledged on the same connection."""
    release, inside = threading.Event(), threading.Event()

    def run(command: str, stream: str | None) -> dict[str, Any]:
        inside.set()
        release.wait(20)
        raise CommandRefused("too late")

    with (
        FaultyWebSocketServer(then=Session(hello=True, ack=True)) as server,
        EventEmitter(None, {"live": sink(server.url, run, ("snapshot",))}, {"live": QUICK}) as emitter,
    ):
        try:
            server.wait_for(lambda s: s._sessions)
            ask(server, id=1, command="snapshot", stream="gate")
            assert inside.wait(5)
            emitter.emit([Event("X", EventStage.DETECTED, "gate", "rule", float(n)) for n in range(25)])
            assert emitter.flush(5)
            assert results(server) == []
        finally:
            release.set()
        server.wait_for(results)
        assert results(server) == [{"type": "result", "id": 1, "ok": False, "command": "snapshot", "error": "too late"}]


@pytest.mark.parametrize("code", [1003, 1007, 1009])
def test_commands_whose_answers_the_server_cannot_take_cost_no_event(code: int) -> None:
    """A server that closes over a snapshot while a batch waits has not judged the batch, which comes again."""
    asks = (json.dumps({"type": "command", "id": 1, "command": "snapshot", "stream": "gate"}),)
    sent = Event("X", EventStage.DETECTED, "gate", "rule", 1.0)

    def run(command: str, stream: str | None) -> dict[str, Any]:
        return {"stream": stream, "data": command[0] * 10_000}

    with (
        # The connection ends when both are there, the answer and the batch, in whatever order.
        FaultyWebSocketServer(Session(hello=True, first=asks, take=2, code=code), Session(ack=True)) as server,
        EventEmitter(None, {"live": sink(server.url, run, ("snapshot",))}, {"live": QUICK}) as emitter,
    ):
        emitter.emit([sent])
        assert emitter.flush(5)
        snapshot = emitter.snapshot()["live"]
        assert (snapshot["delivered"], snapshot["dead"], len(server.dialled)) == (1, 0, 2)


def test_commands_excuse_a_batch_three_times_only() -> None:
    """A server that asks at each connection, and refuses an event for good, does not hold up those behind it."""
    asks = (json.dumps({"type": "command", "id": 1, "command": "ping"}),)
    refuses = Session(hello=True, first=asks, take=2, code=1003)
    sent = Event("X", EventStage.DETECTED, "gate", "rule", 1.0)
    with (
        FaultyWebSocketServer(then=refuses) as server,
        EventEmitter(None, {"live": sink(server.url, lambda *_: {}, ("ping",))}, {"live": QUICK}) as emitter,
    ):
        emitter.emit([sent])
        assert emitter.flush(10)
        snapshot = emitter.snapshot()["live"]
        assert (snapshot["delivered"], snapshot["dead"], len(server.dialled)) == (0, 1, 4)


def test_commands_need_the_list() -> None:
    """Without the list nothing is carried out: a command on the open connection is answered with an error."""

    def run(command: str, stream: str | None) -> dict[str, Any]:
        raise AssertionError("must not run")

    with (
        FaultyWebSocketServer() as server,
        EventEmitter(None, {"live": sink(server.url, run, ())}, {"live": QUICK}) as emitter,
    ):
        emitter.emit(Event("X", EventStage.DETECTED, "gate", "rule", 1.0))
        server.wait_for(lambda s: s.batches)
        ask(server, id=1, command="restart_stream", stream="gate")
        server.wait_for(results)
        (answer,) = results(server)
    assert (answer["ok"], "not allowed" in answer["error"]) == (False, True)
