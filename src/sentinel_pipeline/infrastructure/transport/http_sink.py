"""An HTTP receiver as the delivery loop sees it."""

from __future__ import annotations

from collections.abc import Mapping

from sentinel_pipeline.application.ports import Batch
from sentinel_pipeline.infrastructure.transport.http_client import HttpEventClient
from sentinel_pipeline.infrastructure.transport.payload import Format
from sentinel_pipeline.infrastructure.transport.tls import Verify


class HttpSink:
    """Implements ``EventTransport``: one batch, one POST to ``url`` exactly as given. See ``HttpEventClient``.

    One attempt per ``send``: the delivery loop repeats it, and so its state tells of the first failure at once.
    """

    def __init__(
        self,
        url: str,
        *,
        timeout: float = 10.0,
        headers: Mapping[str, str] | None = None,
        verify: Verify = True,
        proxy: str | None = None,
        format: Format = "json",
    ) -> None:
        self._client = HttpEventClient(
            url, "", timeout, max_retries=1, headers=headers, verify=verify, proxy=proxy, format=format
        )

    def __repr__(self) -> str:
        return f"<HttpSink {self._client!r}>"

    async def open(self) -> None:
        """Acquire the client; the first connection is made by the first batch."""
        await self._client.start_async()

    async def send(self, batch: Batch) -> None:
        """Deliver one batch under its key. Raises a ``TransportError``."""
        await self._client.post_async(batch.bodies, batch.key)

    async def close(self) -> None:
        """Let go of the connections; may be called more than once."""
        await self._client.stop_async()
