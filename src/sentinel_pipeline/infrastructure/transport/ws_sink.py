"""A WebSocket receiver as the delivery loop sees it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from sentinel_pipeline.application.ports import Batch
from sentinel_pipeline.infrastructure.transport.tls import Verify
from sentinel_pipeline.infrastructure.transport.ws_client import WebSocketEventClient
from sentinel_pipeline.infrastructure.transport.ws_link import OnMessage
from sentinel_pipeline.infrastructure.transport.ws_state import ConnectionState


class WebSocketSink:
    """Implements ``EventTransport`` over ``WebSocketEventClient``, whose docstring explains the parameters.

    Without ``on_message`` the connection is made by the first batch, and again by the first batch after a loss: the
    delivery loop decides when. With it the connection is also kept while there is nothing to send, so that commands
    arrive at any time.
    """

    def __init__(
        self,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        verify: Verify = True,
        proxy: str | None = None,
        on_message: OnMessage | None = None,
        reconnect_interval: float = 1.0,
        reconnect_max_interval: float = 30.0,
        open_timeout: float = 10.0,
        ack_timeout: float = 10.0,
        hello_wait: float = 0.5,
        max_size: int = 1024 * 1024,
        healthy_after: float = 5.0,
    ) -> None:
        self._listens = on_message is not None
        self._keeper: asyncio.Task[None] | None = None
        self._client = WebSocketEventClient(
            url,
            reconnect_interval,
            reconnect_max_interval,
            None,
            on_message,
            headers=headers,
            verify=verify,
            proxy=proxy,
            open_timeout=open_timeout,
            ack_timeout=ack_timeout,
            hello_wait=hello_wait,
            max_size=max_size,
            healthy_after=healthy_after,
        )

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
        await self._client.disconnect()
