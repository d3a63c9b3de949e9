"""A receiver of events on this machine, over HTTP and over WebSocket: for the demo, and to try a configuration.

They check every event and count each once. Both listen on 127.0.0.1, port 0 (the system picks) unless told otherwise.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import sys
import threading
import time
from collections import OrderedDict, deque
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self

import orjson
from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.exceptions import ConnectionClosed

from sentinel_pipeline.domain.events import Event
from sentinel_pipeline.lab.loop_thread import LoopThread

KEPT_EVENTS = 1000
KEPT_IDS = 100_000
LARGEST_BODY = 8 * 1024 * 1024  # bytes

_SILENT = logging.Logger("websockets.server", logging.CRITICAL + 1)


class Intake:
    """What has arrived: the newest events, and how many there were. Safe to use from several threads.

    Duplicates are recognised among the last 100,000 ids.
    """

    def __init__(self, keep: int = KEPT_EVENTS) -> None:
        self._changed = threading.Condition()
        self._events: deque[dict[str, Any]] = deque(maxlen=keep)
        self._ids: OrderedDict[str, None] = OrderedDict()
        self._count = self._duplicates = self._invalid = 0

    @property
    def events(self) -> list[dict[str, Any]]:
        """A snapshot of the newest events, oldest first."""
        with self._changed:
            return list(self._events)

    @property
    def count(self) -> int:
        """How many different events have arrived."""
        with self._changed:
            return self._count

    @property
    def duplicates(self) -> int:
        """How many events arrived more than once."""
        with self._changed:
            return self._duplicates

    @property
    def invalid(self) -> int:
        """How many batches were refused because an event in them was not wire form 1."""
        with self._changed:
            return self._invalid

    def take(self, wires: object) -> list[str]:
        """Store a batch and return its ids. Raises ``ValueError`` naming what is wrong; then nothing is stored."""
        try:
            if not isinstance(wires, list):
                raise ValueError("a batch must be a JSON array of events")
            ids = [Event.from_wire(wire).event_id for wire in wires]
        except ValueError:
            with self._changed:
                self._invalid += 1
            raise
        with self._changed:
            for event_id, wire in zip(ids, wires, strict=True):
                self._store(event_id, wire)
            self._changed.notify_all()
        return ids

    def wait_for(self, count: int, timeout: float) -> bool:
        """Wait until ``count`` different events have arrived; False after ``timeout`` seconds."""
        with self._changed:
            return self._changed.wait_for(lambda: self._count >= count, timeout)

    def _store(self, event_id: str, wire: dict[str, Any]) -> None:
        if event_id in self._ids:
            self._duplicates += 1
            return
        self._ids[event_id] = None
        if len(self._ids) > KEPT_IDS:
            self._ids.popitem(last=False)
        self._events.append(wire)
        self._count += 1


class JoinableHTTPServer(ThreadingHTTPServer):
    """A threading HTTP server whose ``close`` also ends kept-alive connections and joins every thread."""

    daemon_threads = False  # else server_close would not join them

    def __init__(self, address: tuple[str, int], handler: type[BaseHTTPRequestHandler]) -> None:
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        super().__init__(address, handler)
        self._thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02}, name="http receiver")

    def start(self) -> None:
        """Serve in a thread of its own."""
        self._thread.start()

    def close(self) -> None:
        """Stop, end all connections, join all threads; may be called more than once."""
        if self._thread.is_alive():
            self.shutdown()
            self._thread.join()
        with self._lock:
            for connection in self._open:
                _hang_up(connection)
        self.server_close()

    def process_request(self, request: Any, client_address: Any) -> None:
        """Remember the connection, so that ``close`` can end it."""
        with self._lock:
            self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        """Forget the connection and close it."""
        with self._lock:
            self._open.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing about clients that went away; anything else is a mistake here."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)


class HttpReceiver:
    """Accepts batches by POST at ``url``, as JSON or as CloudEvents; a context manager.

    Answers 200 with the number of events, 400 or 422 with the reason, 413 above 8 MiB.
    """

    def __init__(self, port: int = 0, keep: int = KEPT_EVENTS) -> None:
        self.intake = Intake(keep)
        self._port = port
        self._server: JoinableHTTPServer | None = None

    @property
    def url(self) -> str:
        """Where to post to."""
        if self._server is None:
            raise RuntimeError("the receiver is not started")
        return f"http://127.0.0.1:{self._server.server_address[1]}/events"

    @property
    def events(self) -> list[dict[str, Any]]:
        """A snapshot of the newest events, oldest first."""
        return self.intake.events

    @property
    def count(self) -> int:
        """How many different events have arrived."""
        return self.intake.count

    def start(self) -> None:
        """Listen. Raises ``OSError`` when the port is taken."""
        if self._server is None:
            intake = self.intake
            handler = type("Handler", (_EventHandler,), {"intake": intake})
            self._server = JoinableHTTPServer(("127.0.0.1", self._port), handler)
            self._server.start()

    def close(self) -> None:
        """Stop listening and join every thread; may be called more than once."""
        server, self._server = self._server, None
        if server is not None:
            server.close()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class _EventHandler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # head and body are two writes: with Nagle every answer would take 40 ms
    timeout = 60  # seconds of silence after which a connection is closed
    intake: Intake

    def do_POST(self) -> None:
        try:
            length = int(self.headers.get("Content-Length", ""))
        except ValueError:
            self._answer(411, {"error": "Content-Length is missing"}, close=True)
            return
        if not 0 <= length <= LARGEST_BODY:
            self._discard(length)
            self._answer(413, {"error": f"at most {LARGEST_BODY} bytes"}, close=True)
            return
        body = self.rfile.read(length)
        try:
            wires = orjson.loads(body)
            if "cloudevents" in self.headers.get("Content-Type", ""):
                wires = [envelope["data"] for envelope in wires]
            self._answer(200, {"accepted": len(self.intake.take(wires))})
        except orjson.JSONDecodeError as exc:
            self._answer(400, {"error": f"not JSON: {exc}"})
        except (ValueError, TypeError, KeyError) as exc:
            self._answer(422, {"error": str(exc)})

    def _discard(self, length: int) -> None:
        # Closing with unread data resets the connection: the client may never see the answer (RFC 9112 section 9.6).
        left = min(length, 16 * LARGEST_BODY)
        while left > 0 and (chunk := self.rfile.read(min(left, 65536))):
            left -= len(chunk)

    def _answer(self, status: int, answer: dict[str, Any], *, close: bool = False) -> None:
        body = orjson.dumps(answer)
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        if close:
            self.send_header("Connection", "close")
            self.close_connection = True
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Write nothing: counts are what there is to see."""


class WebSocketReceiver:
    """Accepts batches at ``url`` and acknowledges what it has stored; a context manager.

    Greets with ``{"type": "hello", "ack": true}``. A batch that is not wire form 1 closes the connection with 1007.
    """

    def __init__(self, port: int = 0, keep: int = KEPT_EVENTS) -> None:
        self.intake = Intake(keep)
        self._port = port
        self._thread: LoopThread | None = None
        self._server: Server | None = None

    @property
    def url(self) -> str:
        """Where to connect to."""
        if self._server is None:
            raise RuntimeError("the receiver is not started")
        return f"ws://127.0.0.1:{next(iter(self._server.sockets)).getsockname()[1]}/ws/events"

    @property
    def events(self) -> list[dict[str, Any]]:
        """A snapshot of the newest events, oldest first."""
        return self.intake.events

    @property
    def count(self) -> int:
        """How many different events have arrived."""
        return self.intake.count

    def start(self) -> None:
        """Listen. Raises ``OSError`` when the port is taken."""
        if self._thread is None:
            self._thread = LoopThread("websocket receiver")
            self._thread.start()
            try:
                self._server = self._thread.run(self._serve)
            except BaseException:
                self.close()
                raise

    def close(self) -> None:
        """Close every connection, stop listening, join the thread; may be called more than once."""
        thread, self._thread = self._thread, None
        server, self._server = self._server, None
        if thread is None:
            return
        try:
            if server is not None:
                thread.run(partial(_stop, server))
        finally:
            thread.close()

    def send(self, message: dict[str, Any]) -> None:
        """Send a message, such as a command, to every client."""
        if self._thread is not None and self._server is not None:
            self._thread.run(partial(_broadcast, self._server, orjson.dumps(message).decode()))

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    async def _serve(self) -> Server:
        return await serve(
            self._handle, "127.0.0.1", self._port, max_size=LARGEST_BODY, close_timeout=1, logger=_SILENT
        )

    async def _handle(self, connection: ServerConnection) -> None:
        try:
            await connection.send('{"type":"hello","ack":true}')
            async for raw in connection:
                await self._take(connection, raw)
        except ConnectionClosed:
            return  # a client may leave whenever it likes

    async def _take(self, connection: ServerConnection, raw: str | bytes) -> None:
        try:
            message = orjson.loads(raw)
            if not isinstance(message, dict) or message.get("type") != "events":
                return
            ids = self.intake.take(message.get("events"))
        except ValueError as exc:
            await connection.close(1007, str(exc).encode()[:100].decode(errors="ignore"))  # at most 123 bytes
            return
        await connection.send(orjson.dumps({"type": "ack", "ids": ids, "ts": time.time()}).decode())


async def _stop(server: Server) -> None:
    server.close()
    await server.wait_closed()


async def _broadcast(server: Server, message: str) -> None:
    await asyncio.gather(*(c.send(message) for c in server.connections), return_exceptions=True)


def _hang_up(connection: socket.socket) -> None:
    try:
        connection.shutdown(socket.SHUT_RDWR)
    except OSError:
        return  # it is closed already
