"""A WebSocket receiver as the delivery loop sees it."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping
from typing import Any

from sentinel_pipeline.application.ports import Batch
from sentinel_pipeline.infrastructure.transport.tls import Verify
from sentinel_pipeline.infrastructure.transport.ws_client import WebSocketEventClient
from sentinel_pipeline.infrastructure.transport.ws_commands import CommandDesk, Run
from sentinel_pipeline.infrastructure.transport.ws_link import OnMessage
from sentinel_pipeline.infrastructure.transport.ws_state import ConnectionState


class WebSocketSink:
    """Implements ``EventTransport`` over ``WebSocketEventClient``, whose docstring explains the parameters.

    Without ``on_message`` the connection is made by the first batch, and again by the first batch after a loss: the
    delivery loop decides when. With it, or with allowed commands, the connection is also kept while there is nothing to
    send, so that commands arrive at any time.

    commands: carries out what the server asks for (see ``ws_commands``), which must be in ``allow_commands``; any other
    command is answered with an error. Not together with ``on_message``.
    """

    def __init__(
        self,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        verify: Verify = True,
        proxy: str | None = None,
        on_message: OnMessage | None = None,
        commands: Run | None = None,
        allow_commands: Collection[str] = (),
        reconnect_interval: float = 1.0,
        reconnect_max_interval: float = 30.0,
        open_timeout: float = 10.0,
        ack_timeout: float = 10.0,
        hello_wait: float = 0.5,
        max_size: int = 1024 * 1024,
        healthy_after: float = 5.0,
    ) -> None:
        if on_message is not None and commands is not None:
            raise ValueError("on_message and commands exclude each other")
        self._listens = on_message is not None or bool(allow_commands)
        self._keeper: asyncio.Task[None] | None = None
        self._desk: CommandDesk | None = None
        self._client = WebSocketEventClient(
            url,
            reconnect_interval,
            reconnect_max_interval,
            None,
            on_message if commands is None else self._take,
            headers=headers,
            verify=verify,
            proxy=proxy,
            open_timeout=open_timeout,
            ack_timeout=ack_timeout,
            hello_wait=hello_wait,
            max_size=max_size,
            healthy_after=healthy_after,
        )
        if commands is not None:
            self._desk = CommandDesk(self._client.host, allow_commands, commands, self._client.say)

    def _take(self, message: dict[str, Any]) -> None:
        if self._desk is not None:
            self._desk.handle(message)

    def __repr__(self) -> str:
        return f"<WebSocketSink {self._client!r}>"

    @property
    def state(self) -> ConnectionState:
        """Where the connection is in its life."""
        return self._client.state

    async def open(self) -> None:
        """Do not connect yet; with ``on_message`` begin to, in the background."""
        if self._listens and self._keeper is None:
            self._keeper = asyncio.create_task(self._client.keep_connected(), name="websocket keeper")

    async def send(self, batch: Batch) -> None:
        """Deliver one batch, connecting once when there is no connection. Raises a ``TransportError``."""
        await self._client.ensure_connected()
        await self._client.post(batch.bodies)

    async def close(self) -> None:
        """Close the connection within two seconds; may be called more than once."""
        keeper, self._keeper = self._keeper, None
        if keeper is not None:
            keeper.cancel()
            await asyncio.wait({keeper})
        if self._desk is not None:
            await self._desk.close()
        await self._client.disconnect()
