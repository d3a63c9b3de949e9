"""Commands over a WebSocket without a socket: what is read, refused, answered, and what may hang."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from sentinel_pipeline.domain.errors import CommandRefused, DeliveryError
from sentinel_pipeline.infrastructure.transport.ws_commands import AT_ONCE, CommandDesk, Run, read_request, request_id
from support.receivers import until


def command(name: Any = "ping", **more: Any) -> dict[str, Any]:
    return {"type": "command", "id": "1", "command": name, **more}


def at_desk(run: Run, use: Callable[[CommandDesk, list[Any]], Coroutine[Any, Any, None]], **options: Any) -> list[Any]:
    """Use a desk that allows ping and snapshot; return the answers."""
    answers: list[Any] = []

    async def reply(text: str) -> None:
        answers.append(json.loads(text))

    async def main() -> None:
        desk = CommandDesk("vms:443", ("ping", "snapshot"), run, reply, **options)
        try:
            await use(desk, answers)
        finally:
            async with asyncio.timeout(1.0):
                await desk.close()

    asyncio.run(main())
    return answers


def test_ws_commands_are_answered_with_their_id() -> None:
    """A command runs outside the event loop's thread, and its answer has its id and what it returned."""
    threads: list[str] = []

    def run(name: str, stream: str | None) -> dict[str, Any]:
        threads.append(threading.current_thread().name)
        return {"name": name, "stream": stream}

    async def use(desk: CommandDesk, answers: list[Any]) -> None:
        desk.handle(command("snapshot", id=7, stream="gate"))
        await until(lambda: answers)

    (answer,) = at_desk(run, use)
    assert answer == {
        "type": "result", "id": 7, "ok": True, "command": "snapshot", "name": "snapshot", "stream": "gate",
    }  # fmt: skip
    assert threads[0].startswith("sink-commands")


@pytest.mark.parametrize(
    ("message", "why"),
    [
        (command("restart_stream", stream="gate"), "not allowed"),
        (command("no such thing"), "not allowed"),
        (command(None), "needs a name"),
        (command("ping", stream=["gate"]), "stream must be text"),
    ],
)
def test_ws_commands_not_allowed_are_answered_and_counted(message: dict[str, Any], why: str) -> None:
    """What is not on the list, unknown or malformed is an error, never run, and counted."""

    def run(name: str, stream: str | None) -> dict[str, Any]:
        raise AssertionError("must not run")

    async def use(desk: CommandDesk, answers: list[Any]) -> None:
        desk.handle(message)
        await until(lambda: answers)
        assert desk.refused == 1

    (answer,) = at_desk(run, use)
    assert (answer["type"], answer["id"], answer["ok"]) == ("result", "1", False)
    assert why in answer["error"]


def test_ws_commands_that_fail_are_answered() -> None:
    """A refusal is the error, without credentials; a defect is named by its kind only."""
    errors = iter([CommandRefused("cannot reach rtsp://u:s3cret@cam/"), RuntimeError("s3cret")])

    def run(name: str, stream: str | None) -> dict[str, Any]:
        raise next(errors)

    async def use(desk: CommandDesk, answers: list[Any]) -> None:
        for number in range(2):
            desk.handle(command())
            await until(lambda number=number: len(answers) == number + 1)

    first, second = at_desk(run, use)
    assert "cannot reach" in first["error"]
    assert second["error"] == "internal error: RuntimeError"
    assert "s3cret" not in json.dumps([first, second])


def test_ws_commands_that_hang_have_a_deadline_and_do_not_pile_up() -> None:
    """A hanging command is answered as failed; more than a few at a time are refused; the event loop goes on."""
    release = threading.Event()

    def run(name: str, stream: str | None) -> dict[str, Any]:
        release.wait(20)
        return {}

    async def use(desk: CommandDesk, answers: list[Any]) -> None:
        try:
            for _ in range(AT_ONCE + 2):
                desk.handle(command())
            await until(lambda: len(answers) == AT_ONCE + 2)
        finally:
            release.set()

    errors = sorted(answer["error"] for answer in at_desk(run, use, deadline_s=0.2))
    assert errors == ["not done within 0.2 s"] * AT_ONCE + ["too many commands at a time"] * 2


def test_ws_commands_flood_makes_no_heap_of_tasks() -> None:
    """Thousands of refused commands make a handful of answers under way, all are counted."""

    async def use(desk: CommandDesk, answers: list[Any]) -> None:
        for _ in range(5000):
            desk.handle(command("nonsense"))
        assert desk.refused == 5000
        await until(lambda: answers)

    assert len(at_desk(lambda *_: {}, use)) <= 2 * AT_ONCE


def test_ws_commands_answer_that_cannot_be_sent_is_let_go() -> None:
    """When the connection has gone meanwhile, nothing breaks and nothing stays."""

    async def main() -> None:
        tried = asyncio.Event()

        async def reply(text: str) -> None:
            tried.set()
            raise DeliveryError("there is no connection")

        desk = CommandDesk("vms:443", ("ping",), lambda *_: {}, reply)
        desk.handle(command())
        async with asyncio.timeout(2.0):
            await tried.wait()
            await desk.close()

    asyncio.run(main())


def test_ws_commands_other_messages_are_ignored() -> None:
    """A message of another type is no command: no answer, no count."""

    async def use(desk: CommandDesk, answers: list[Any]) -> None:
        desk.handle({"type": "weather"})
        desk.handle(command())
        await until(lambda: answers)
        assert desk.refused == 0

    assert len(at_desk(lambda *_: {}, use)) == 1


@pytest.mark.parametrize(
    ("given", "expected"),
    [("a", "a"), (5, 5), (True, None), (None, None), ({}, None), ("x" * 129, None), (2**60, None)],
)
def test_ws_commands_id_is_text_or_a_number(given: Any, expected: Any) -> None:
    """Only ids that can be given back as they came are given back."""
    assert request_id({"id": given}) == expected


def test_ws_commands_read_request_cuts_long_names() -> None:
    """An endless name does not end up in logs and answers."""
    assert len(read_request(command("x" * 100_000)).command) == 128
