"""Commands that a server sends over a WebSocket, and their answers.

{"type": "command", "id": "7", "command": "snapshot", "stream": "gate"}
{"type": "result", "id": "7", "ok": true, "command": "snapshot", …}
{"type": "result", "id": "7", "ok": false, "command": "snapshot", "error": "…"}
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import orjson
import structlog

from sentinel_pipeline.application.event.tally import Tally
from sentinel_pipeline.domain.errors import SentinelError, TransportError
from sentinel_pipeline.domain.redact import redact
from sentinel_pipeline.infrastructure.transport.responses import excerpt

log = structlog.get_logger(__name__)

Run = Callable[[str, str | None], dict[str, Any]]
"""Carries out a command (name, stream) in a thread; raises ``SentinelError`` where it cannot."""

DEADLINE_S = 10.0
AT_ONCE = 4  # commands under way; more are refused: whoever floods us gets answers, not threads
_LONGEST_ID = 128


@dataclass(frozen=True, slots=True)
class Request:
    """A command as it came. ``id`` is returned as it is."""

    id: str | int | None
    command: str
    stream: str | None


def read_request(message: Mapping[str, Any]) -> Request:
    """Read a command. Raises ``ValueError`` naming what is wrong."""
    command, stream = message.get("command"), message.get("stream")
    if not isinstance(command, str) or not command:
        raise ValueError("a command needs a name")
    if stream is not None and not isinstance(stream, str):
        raise ValueError("stream must be text")
    return Request(request_id(message), command[:_LONGEST_ID], stream)


def request_id(message: Mapping[str, Any]) -> str | int | None:
    """Return the id to answer with: text or a whole number of reasonable length, else None."""
    given = message.get("id")
    if isinstance(given, int) and not isinstance(given, bool) and abs(given) < 2**53:
        return given
    return given if isinstance(given, str) and len(given) <= _LONGEST_ID else None


class CommandDesk:
    """Takes the messages of one connection, has the allowed commands carried out, and answers. One event loop.

    receiver: name for the log. allowed: names of commands. run: carries one out. reply: sends text to the server.
    The event loop never waits for a command; one that takes longer than ``deadline_s`` is answered as failed.
    """

    def __init__(
        self,
        receiver: str,
        allowed: Collection[str],
        run: Run,
        reply: Callable[[str], Awaitable[None]],
        *,
        deadline_s: float = DEADLINE_S,
    ) -> None:
        self._receiver, self._allowed, self._run, self._reply = receiver, frozenset(allowed), run, reply
        self._deadline_s = deadline_s
        self._refused = Tally(self._report_refused)
        self._why = ""
        self._ignored = False
        self._tasks: set[asyncio.Task[None]] = set()
        self._threads: ThreadPoolExecutor | None = None

    @property
    def refused(self) -> int:
        """How many commands were not allowed, unknown or malformed, or came while too many were under way."""
        return self._refused.total

    def handle(self, message: dict[str, Any]) -> None:
        """Take a message; returns at once."""
        if message.get("type") != "command":
            self._ignore(message)
            return
        try:
            request = read_request(message)
        except ValueError as exc:
            self._refuse(Request(request_id(message), "", None), str(exc))
            return
        if request.command not in self._allowed:
            self._refuse(request, f"{excerpt(request.command)} is not allowed here (sinks.<id>.allow_commands)")
        elif len(self._tasks) >= AT_ONCE:
            self._refuse(request, "too many commands at a time")
        else:
            self._begin(self._serve(request))

    async def close(self) -> None:
        """Give up what is under way; may be called more than once. A thread that is still busy ends by itself."""
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        threads, self._threads = self._threads, None
        if threads is not None:
            threads.shutdown(wait=False, cancel_futures=True)
        self._refused.flush(now=True)

    async def _serve(self, request: Request) -> None:
        log.info("command", receiver=self._receiver, command=request.command, stream=request.stream)
        if self._threads is None:
            # The name tells the sink's watch for abandoned threads that these end with the sink.
            self._threads = ThreadPoolExecutor(2, thread_name_prefix="sink-commands")
        work = asyncio.get_running_loop().run_in_executor(self._threads, self._run, request.command, request.stream)
        try:
            async with asyncio.timeout(self._deadline_s):
                result = await work
        except SentinelError as exc:
            await self._answer(request, error=redact(str(exc)))
        except TimeoutError:
            await self._answer(request, error=f"not done within {self._deadline_s:g} s")
        except Exception as exc:  # a command's defect is answered and logged, the connection goes on
            log.exception("a command failed in an unforeseen way", command=request.command)
            await self._answer(request, error=f"internal error: {type(exc).__name__}")
        else:
            await self._answer(request, **result)

    async def _answer(self, request: Request, **more: Any) -> None:
        answer = {"type": "result", "id": request.id, "ok": "error" not in more, "command": request.command, **more}
        try:
            await self._reply(orjson.dumps(answer).decode())
        except TransportError as exc:
            log.info("the answer to a command could not be sent", receiver=self._receiver, reason=str(exc))

    def _refuse(self, request: Request, why: str) -> None:
        self._why = why
        self._refused.add()
        if len(self._tasks) < 2 * AT_ONCE:  # beyond that the server does not read its answers
            self._begin(self._answer(request, error=why))

    def _begin(self, work: Any) -> None:
        task = asyncio.create_task(work, name="websocket command")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _ignore(self, message: Mapping[str, Any]) -> None:
        if not self._ignored:
            self._ignored = True
            kind = excerpt(str(message.get("type")))
            log.warning("messages from the server are ignored", receiver=self._receiver, first=f"its type is {kind}")

    def _report_refused(self, news: int, total: int) -> None:
        log.warning(
            "commands from the server were refused",
            receiver=self._receiver,
            commands=news,
            commands_total=total,
            reason=self._why,
        )
