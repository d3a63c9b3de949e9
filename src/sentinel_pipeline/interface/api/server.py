"""Serves the API from a thread of its own."""

from __future__ import annotations

import socket
from threading import Thread

import uvicorn
from fastapi import FastAPI

from sentinel_pipeline.domain.errors import SentinelError


class ApiServer:
    """A context manager: binds when entered (raises ``SentinelError`` when it cannot), closes when left."""

    _JOIN = 1.5

    def __init__(self, app: FastAPI, host: str, port: int) -> None:
        self._app, self._host, self._port = app, host, port
        self._socket: socket.socket | None = None
        self._thread: Thread | None = None
        self._server: uvicorn.Server | None = None

    @property
    def url(self) -> str:
        """The address in use, with the real port."""
        host, port = self._socket.getsockname()[:2] if self._socket else (self._host, self._port)
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    def __enter__(self) -> ApiServer:
        self._socket = bind(self._host, self._port)
        config = uvicorn.Config(
            self._app,
            log_config=None,
            access_log=False,
            lifespan="off",
            ws="none",
            timeout_graceful_shutdown=1,
            timeout_keep_alive=5,
        )
        self._server = uvicorn.Server(config)
        self._thread = Thread(target=self._server.run, args=([self._socket],), name="api")
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        if self._server is not None and self._thread is not None:
            self._server.should_exit = True
            self._thread.join(self._JOIN)
        if self._socket is not None:
            self._socket.close()


def bind(host: str, port: int) -> socket.socket:
    """Return a listening socket, so that a port in use is found before anything else has started."""
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
