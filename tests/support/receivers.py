"""Receivers that fail on command: a real HTTP server and a real WebSocket server, each a context manager.

Both listen on 127.0.0.1, port 0, follow a script (one entry per request or connection, then ``then`` for ever), record
what arrives and when (monotonic seconds), and leave no thread or socket behind.
"""

from __future__ import annotations

import asyncio
import http
import json
import logging
import shutil
import ssl
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request as Handshake
from websockets.http11 import Response as HandshakeResponse

from sentinel_pipeline.lab.loop_thread import LoopThread
from sentinel_pipeline.lab.receivers import JoinableHTTPServer

_SILENT = logging.Logger("websockets.server", logging.CRITICAL + 1)


@dataclass(frozen=True, slots=True)
class Reply:
    """How one HTTP request is treated.

    stored: whether the events count as received; None means when the status is 2xx.
    delay: seconds between storing and answering. raw: bytes sent instead of an HTTP answer.
    cut: bytes of the body after which the connection is closed, although more were announced.
    silent: the connection is closed without an answer.
    drip: seconds between the bytes of the body, or of ``raw``.
    """

    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b'{"accepted":true}'
    stored: bool | None = None
    delay: float = 0.0
    raw: bytes | None = None
    cut: int | None = None
    silent: bool = False
    drip: float = 0.0


@dataclass(frozen=True, slots=True)
class Arrival:
    """One HTTP request. ``headers`` have lower-case names; ``at`` is monotonic seconds."""

    at: float
    path: str
    headers: Mapping[str, str]
    body: bytes

    @property
    def key(self) -> str:
        return self.headers["idempotency-key"]

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class _Recorder:
    """Lists that grow in other threads, and waiting for them with a deadline."""

    def __init__(self) -> None:
        self._changed = threading.Condition()

    def _note(self, change: Callable[[], object]) -> None:
        with self._changed:
            change()
            self._changed.notify_all()

    def wait_for(self, condition: Callable[[Any], object], timeout: float = 5.0) -> None:
        """Wait until ``condition(self)`` holds; fails the test after ``timeout`` seconds."""
        with self._changed:
            assert self._changed.wait_for(lambda: condition(self), timeout), f"{self!r}: nothing like it in {timeout} s"


class FaultyHttpServer(_Recorder):
    """Records every request and answers by the script. ``stored``: events received, duplicates included."""

    def __init__(self, *script: Reply, then: Reply = Reply(), tls: tuple[Path, Path] | None = None) -> None:
        super().__init__()
        self.requests: list[Arrival] = []
        self.stored: list[dict[str, Any]] = []
        self.connections = 0
        self.then = then
        self._script, self._tls = deque(script), tls
        self.closing = threading.Event()
        handler = type("Handler", (_ScriptedHandler,), {"owner": self})
        self._server = JoinableHTTPServer(("127.0.0.1", 0), handler)
        if tls is not None:
            self._server.socket = _server_context(tls).wrap_socket(self._server.socket, server_side=True)

    @property
    def port(self) -> int:
        return int(self._server.server_address[1])

    @property
    def base_url(self) -> str:
        return f"{'https' if self._tls else 'http'}://127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        return f"{self.base_url}/events"

    def say(self, *replies: Reply) -> None:
        """Add to the script."""
        self._note(lambda: self._script.extend(replies))

    def arrived(self, request: Arrival) -> Reply:
        with self._changed:
            reply = self._script.popleft() if self._script else self.then
            self.requests.append(request)
            if reply.stored is True or (reply.stored is None and 200 <= reply.status < 300):
                self.stored.extend(request.json)
            self._changed.notify_all()
        return reply

    def connected(self) -> None:
        def count() -> None:
            self.connections += 1

        self._note(count)

    def __enter__(self) -> Self:
        self._server.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.closing.set()
        self._server.close()


class _ScriptedHandler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    owner: FaultyHttpServer

    def setup(self) -> None:
        super().setup()
        self.owner.connected()

    def do_POST(self) -> None:
        length = int(self.headers["Content-Length"])
        body = self.rfile.read(length)
        if len(body) < length:  # the sender died in the middle of it: that is no request, and nobody hears an answer
            self.close_connection = True
            return
        headers = {name.lower(): value for name, value in self.headers.items()}
        reply = self.owner.arrived(Arrival(time.monotonic(), self.path, headers, body))
        self.owner.closing.wait(reply.delay)
        if reply.silent:
            self.close_connection = True
        elif reply.raw is not None:
            self._write(reply.raw, reply.drip)
            self.close_connection = True
        else:
            self._answer(reply)

    def _answer(self, reply: Reply) -> None:
        self.send_response(reply.status)
        for name, value in reply.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(reply.body)))
        self.end_headers()
        if reply.cut is not None:
            self.wfile.write(reply.body[: reply.cut])
            self.close_connection = True
        else:
            self._write(reply.body, reply.drip)

    def _write(self, data: bytes, drip: float) -> None:
        if not drip:
            self.wfile.write(data)
            return
        for i in range(len(data)):
            if self.owner.closing.wait(drip):
                return
            self.wfile.write(data[i : i + 1])

    def log_message(self, format: str, *args: Any) -> None:
        """Write nothing."""


@dataclass(frozen=True, slots=True)
class Session:
    """How one WebSocket connection is treated.

    status, headers: refuse the handshake with this answer.
    hello: None sends none, else the value of ``ack`` in it. ack: acknowledge batches, in ``parts`` messages.
    first: messages sent after the greeting.
    take: close instead of taking batch number ``take`` (0: right after accepting); ``code`` None aborts the connection.
    reads: False leaves everything in the socket.
    """

    status: int | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    hello: bool | None = None
    ack: bool = False
    parts: int = 1
    first: tuple[str | bytes, ...] = ()
    take: int | None = None
    code: int | None = 1011
    reason: str = ""
    reads: bool = True


class FaultyWebSocketServer(_Recorder):
    """Records every handshake and message and treats connections by the script."""

    def __init__(self, *script: Session, then: Session = Session(), tls: tuple[Path, Path] | None = None) -> None:
        super().__init__()
        self.dialled: list[float] = []
        self.handshakes: list[Mapping[str, str]] = []
        self.messages: list[dict[str, Any]] = []
        self.then = then
        self._script, self._tls = deque(script), tls
        self._sessions: dict[ServerConnection, Session] = {}
        self._thread = LoopThread("faulty websocket server")
        self._server: Server | None = None

    @property
    def port(self) -> int:
        assert self._server is not None
        return int(next(iter(self._server.sockets)).getsockname()[1])

    @property
    def url(self) -> str:
        return f"{'wss' if self._tls else 'ws'}://127.0.0.1:{self.port}/ws/events"

    @property
    def batches(self) -> list[list[dict[str, Any]]]:
        """The events of every message that carried some."""
        with self._changed:
            return [m["events"] for m in self.messages if m.get("type") == "events"]

    def push(self, message: str | bytes) -> None:
        """Send a message to every client."""

        async def send() -> None:
            for connection in list(self._sessions):
                await connection.send(message)

        self._thread.run(send)

    def drop(self) -> None:
        """Abort every connection, without a closing handshake."""
        self._thread.call(lambda: [connection.transport.abort() for connection in list(self._sessions)])

    def __enter__(self) -> Self:
        self._thread.start()
        self._server = self._thread.run(self._serve)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._thread.run(partial(self._stop))
        finally:
            self._thread.close()

    async def _serve(self) -> Server:
        return await serve(
            self._handle,
            "127.0.0.1",
            0,
            process_request=self._greet,
            ssl=_server_context(self._tls) if self._tls else None,
            compression=None,
            close_timeout=0.5,
            ping_interval=None,
            max_size=16 * 1024 * 1024,
            logger=_SILENT,
        )

    async def _stop(self) -> None:
        assert self._server is not None
        for connection in list(self._sessions):
            connection.transport.abort()
        self._server.close()
        await self._server.wait_closed()

    def _greet(self, connection: ServerConnection, request: Handshake) -> HandshakeResponse | None:
        with self._changed:
            session = self._script.popleft() if self._script else self.then
            self.dialled.append(time.monotonic())
            self.handshakes.append({name.lower(): value for name, value in request.headers.raw_items()})
            self._changed.notify_all()
        if session.status is not None:
            answer = connection.respond(http.HTTPStatus(session.status), "no\n")
            answer.headers.update(session.headers)
            return answer
        self._sessions[connection] = session
        return None

    async def _handle(self, connection: ServerConnection) -> None:
        session = self._sessions[connection]
        if not session.reads:
            connection.transport.pause_reading()
        try:
            await self._talk(connection, session)
        except ConnectionClosed:
            return
        finally:
            del self._sessions[connection]

    async def _talk(self, connection: ServerConnection, session: Session) -> None:
        if session.hello is not None:
            await connection.send(json.dumps({"type": "hello", "ack": session.hello}))
        for message in session.first:
            await connection.send(message)
        taken = 0
        while session.take is None or taken < session.take:
            message = json.loads(await connection.recv())
            taken += 1
            self._note(partial(self.messages.append, message))
            if session.ack and "events" in message and taken != session.take:
                await self._acknowledge(connection, session, [event["event_id"] for event in message["events"]])
        if session.code is None:
            connection.transport.abort()
        else:
            await connection.close(session.code, session.reason)

    @staticmethod
    async def _acknowledge(connection: ServerConnection, session: Session, ids: list[str]) -> None:
        for part in range(session.parts):
            await connection.send(json.dumps({"type": "ack", "ids": ids[part :: session.parts]}))
            await asyncio.sleep(0)


async def until(condition: Callable[[], object], within_s: float = 5.0) -> None:
    """Wait until ``condition()`` holds, where nothing can be awaited for it; fails after ``within_s`` seconds."""
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, f"not so within {within_s} s"
        await asyncio.sleep(0.01)


def self_signed(folder: Path) -> tuple[Path, Path]:
    """Make a certificate for 127.0.0.1 that nobody trusts; returns the paths of certificate and key."""
    openssl = shutil.which("openssl")
    assert openssl is not None, "the openssl program is needed"
    certificate, key = folder / "cert.pem", folder / "key.pem"
    command = [openssl, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    command += ["-days", "2", "-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"]
    command += ["-keyout", str(key), "-out", str(certificate)]
    subprocess.run(command, check=True, capture_output=True, timeout=30)
    return certificate, key


def _server_context(tls: tuple[Path, Path]) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*tls)
    return context
