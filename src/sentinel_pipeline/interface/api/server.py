"""Serves the API from a thread of its own."""

from __future__ import annotations

import asyncio
import socket
from contextlib import suppress
from threading import Thread

import uvicorn
from fastapi import FastAPI

from sentinel_pipeline.domain.errors import SentinelError


class ApiServer:
    """A context manager: serves on ``listener`` (see ``bind``) while entered, closes it when left."""

    _JOIN = 1.5

    def __init__(self, app: FastAPI, listener: socket.socket) -> None:
        self._app, self._socket = app, listener
        self._thread: Thread | None = None
        self._server: _Server | None = None

    @property
    def url(self) -> str:
        """The address in use, with the real port."""
        host, port = self._socket.getsockname()[:2]
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    def __enter__(self) -> ApiServer:
        config = uvicorn.Config(
            self._app,
            log_config=None,
            access_log=False,
            lifespan="off",
            ws="none",
            timeout_graceful_shutdown=1,
            timeout_keep_alive=5,
        )
        self._server = _Server(config)
        self._thread = Thread(target=self._server.run, args=([self._socket],), name="api")
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        if self._server is not None and self._thread is not None:
            self._server.end()
            self._thread.join(self._JOIN)
        self._socket.close()


class _Server(uvicorn.Server):
    """Is woken when it should end, and else once a second for the ``Date`` header; uvicorn's own looks ten times."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self._ending = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None

    def end(self) -> None:
        """Make ``run`` return soon; safe from any thread."""
        self.should_exit = True
        if self._loop is not None:  # else it has not begun, and sees ``should_exit`` when it does
            with suppress(RuntimeError):  # it has ended already, and its loop is closed
                self._loop.call_soon_threadsafe(self._ending.set)

    async def main_loop(self) -> None:
        """Serve until it should end."""
        self._loop = asyncio.get_running_loop()
        while not await self.on_tick(0):
            with suppress(TimeoutError):
                async with asyncio.timeout(1.0):
                    await self._ending.wait()


def bind(host: str, port: int) -> socket.socket:
    """Return a listening socket; a port in use is found before anything else has started. Raises ``SentinelError``."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        host.encode("idna")  # where the name cannot be encoded, bind raises a TypeError that says nothing
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(128)
    except (OSError, UnicodeError) as exc:
        listener.close()
        why = exc.strerror if isinstance(exc, OSError) else "not the name of a host"
        raise SentinelError(
            f"the API cannot listen on {host}:{port}: {why}",
            remedy="choose another address with api.listen, or stop the program that uses it",
        ) from exc
    return listener
