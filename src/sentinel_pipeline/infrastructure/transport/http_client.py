"""Delivers events over HTTP, from threads or from asyncio."""

from __future__ import annotations

import asyncio
import logging
import ssl
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Any

import httpx
import structlog
from tenacity import (
    AsyncRetrying,
    RetryCallState,
    Retrying,
    retry_if_exception,
    sleep_using_event,
    stop_after_attempt,
    stop_when_event_set,
    wait_exponential,
)

from sentinel_pipeline.domain.errors import DeliveryError, TransportError
from sentinel_pipeline.domain.events import Event
from sentinel_pipeline.infrastructure.transport.failures import RESENT, http_failure, too_slow
from sentinel_pipeline.infrastructure.transport.payload import FORMATS, Format, idempotency_key
from sentinel_pipeline.infrastructure.transport.responses import check
from sentinel_pipeline.infrastructure.transport.target import Mask, checked_proxy, parse_target, request_headers
from sentinel_pipeline.infrastructure.transport.tls import Verify, client_context

log = structlog.get_logger(__name__)

# httpx writes every request with its whole URL, query token included, at INFO.
logging.getLogger("httpx").setLevel(logging.WARNING)

PATIENCE_S = 4.0  # a longer Retry-After is not sat out inside a send: the delivery loop has to know
_READ_LIMIT = 64 * 1024  # bytes of an answer's body; enough to use the connection again, too few to hurt
_EXCERPT = 1024  # bytes of them that may end up in a message
# Below the idle time-out of common servers (uvicorn 5 s), else a reused connection is often one being closed.
_LIMITS = httpx.Limits(max_connections=4, max_keepalive_connections=2, keepalive_expiry=4.0)


class HttpEventClient:
    """Posts batches of events to one receiver; one of ``start``/``stop`` and ``start_async``/``stop_async``, or both.

    The document's surface (``send_event``, ``send_events``) answers True when the receiver has the events. ``post`` and
    ``post_async`` are the same and raise instead: a ``TransportError`` whose class says what to do with the batch.

    base_url, endpoint: the receiver. ``endpoint`` is appended to the URL's path; None means ``/events`` unless the URL
        has a path already; "" takes the URL as it is. ``user:password@`` in it becomes Basic authentication.
    timeout: seconds that connecting, sending and answering may take, each. A server that drips its answer is cut off
        as well, though one that drips its headers only by the asynchronous methods.
    max_retries: attempts within one send, >= 1, for failures that may pass, all under the same ``Idempotency-Key``.
    retry_base, retry_max: seconds before the second attempt (then doubled), and at most.
    verify: see ``tls.client_context``. proxy: URL of an HTTP proxy; the environment's proxy variables are ignored, the
        configuration alone decides where events go.

    The synchronous methods may be called from several threads, requests go out one at a time. The asynchronous ones
    belong to one event loop. Raises ``ConfigError`` for an unusable URL, header or CA file.
    """

    def __init__(
        self,
        base_url: str,
        endpoint: str | None = None,
        timeout: float = 10.0,
        max_retries: int = 3,
        headers: Mapping[str, str] | None = None,
        *,
        verify: Verify = True,
        proxy: str | None = None,
        format: Format = "json",
        retry_base: float = 0.5,
        retry_max: float = 4.0,
    ) -> None:
        self._target = parse_target(base_url, ("http", "https"), endpoint)
        self._content_type, self._encode = FORMATS[format]
        own = request_headers(self._target, headers)
        self._headers, self._mask = {"User-Agent": "sentinel-pipeline", **own}, Mask(self._target, own)
        self._timeout, self._proxy = timeout, checked_proxy(proxy)
        # Without TLS a context that trusts nobody will do: loading the trust store takes 20 ms.
        self._tls = client_context(verify) if self._target.secure else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self._attempts = max(max_retries, 1)
        self._backoff = wait_exponential(multiplier=retry_base, min=retry_base, max=retry_max)
        self._sync_client: httpx.Client | None = None
        self._client: httpx.AsyncClient | None = None
        self._sending = threading.Lock()  # one request at a time, so that no batch overtakes another
        self._stopping = threading.Event()
        self._failing = False

    def __repr__(self) -> str:
        state = "started" if self._sync_client or self._client else "stopped"
        return f"<HttpEventClient {self._target.host} {state}>"

    def start(self) -> None:
        """Acquire the synchronous client; nothing is sent yet. Does nothing when it is there already."""
        if self._sync_client is None:
            self._stopping.clear()
            self._sync_client = httpx.Client(**self._settings())

    async def start_async(self) -> None:
        """Acquire the asynchronous client; nothing is sent yet. Does nothing when it is there already."""
        if self._client is None:
            self._client = httpx.AsyncClient(**self._settings())

    def stop(self, timeout: float = 2.0) -> None:
        """Let go of the synchronous client; may be called at any time, from any thread.

        A waiting retry ends at once; a request under way gets ``timeout`` seconds.
        """
        self._stopping.set()
        idle = self._sending.acquire(timeout=timeout)
        try:
            client, self._sync_client = self._sync_client, None
            if client is not None:
                client.close()
        finally:
            if idle:
                self._sending.release()

    async def stop_async(self) -> None:
        """Let go of the asynchronous client; may be called at any time."""
        client, self._client = self._client, None
        if client is not None:
            await client.aclose()

    def send_event(self, event: Event) -> bool:
        """Deliver one event; True when the receiver has it."""
        return self.send_events([event])

    def send_events(self, events: Sequence[Event]) -> bool:
        """Deliver events in one request; True when the receiver has all of them. Sending the same again is safe."""
        try:
            self.post(*_batch(events))
        except TransportError as exc:
            return self._noted(exc)
        return self._noted(None)

    async def send_event_async(self, event: Event) -> bool:
        """Deliver one event; True when the receiver has it."""
        return await self.send_events_async([event])

    async def send_events_async(self, events: Sequence[Event]) -> bool:
        """Deliver events in one request; True when the receiver has all of them. Sending the same again is safe."""
        try:
            await self.post_async(*_batch(events))
        except TransportError as exc:
            return self._noted(exc)
        return self._noted(None)

    def post(self, bodies: Sequence[bytes], key: str) -> None:
        """Deliver encoded events in one request under ``key``. Raises a ``TransportError``."""
        request = self._request(bodies, key)
        retrying = Retrying(
            stop=stop_after_attempt(self._attempts) | stop_when_event_set(self._stopping),
            wait=self._wait,
            retry=retry_if_exception(_worth_another_try),
            sleep=sleep_using_event(self._stopping),
            reraise=True,
        )
        with self._sending:
            client = self._sync_client
            if client is None:
                raise RuntimeError("start() has not been called, or stop() has")
            retrying(self._attempt, client, request)

    async def post_async(self, bodies: Sequence[bytes], key: str) -> None:
        """Deliver encoded events in one request under ``key``. Raises a ``TransportError``. May be cancelled."""
        client = self._client
        if client is None:
            raise RuntimeError("start_async() has not been called, or stop_async() has")
        retrying = AsyncRetrying(
            stop=stop_after_attempt(self._attempts),
            wait=self._wait,
            retry=retry_if_exception(_worth_another_try),
            sleep=asyncio.sleep,
            reraise=True,
        )
        await retrying(self._attempt_async, client, self._request(bodies, key))

    def _attempt(self, client: httpx.Client, request: Mapping[str, Any]) -> None:
        if self._stopping.is_set():  # set while this attempt was waited for
            raise DeliveryError(f"the client of {self._target.host} was stopped", remedy=RESENT)
        with self._mapped(), client.stream("POST", self._target.url, **request) as reply:
            answer = _Answer(reply, time.monotonic() + self._timeout)
            try:
                for chunk in reply.iter_raw():
                    if not answer.wants_more(chunk):
                        break
            except httpx.TransportError:
                if reply.is_success:  # a refusal is one whether or not its explanation arrives
                    raise
            self._judge(answer)

    async def _attempt_async(self, client: httpx.AsyncClient, request: Mapping[str, Any]) -> None:
        with self._mapped():
            async with (
                asyncio.timeout(3 * self._timeout),
                client.stream("POST", self._target.url, **request) as reply,
            ):
                answer = _Answer(reply, time.monotonic() + self._timeout)
                try:
                    async for chunk in reply.aiter_raw():
                        if not answer.wants_more(chunk):
                            break
                except httpx.TransportError:
                    if reply.is_success:
                        raise
                self._judge(answer)

    def _judge(self, answer: _Answer) -> None:
        if answer.late and answer.reply.is_success:
            raise too_slow(self._target.host, self._timeout)
        reply = answer.reply
        detail = self._mask(answer.text())
        check(reply.status_code, reply.headers, time.time(), host=self._target.host, detail=detail)

    @contextmanager
    def _mapped(self) -> Iterator[None]:
        try:
            yield
        except httpx.TransportError as exc:
            raise http_failure(exc, self._target.host) from exc
        except TimeoutError as exc:
            raise too_slow(self._target.host, 3 * self._timeout) from exc

    def _request(self, bodies: Sequence[bytes], key: str) -> dict[str, Any]:
        headers = {**self._headers, "Content-Type": self._content_type, "Idempotency-Key": key}
        return {"content": self._encode(bodies), "headers": headers}

    def _settings(self) -> dict[str, Any]:
        return {
            "timeout": httpx.Timeout(self._timeout),
            "verify": self._tls,
            "proxy": self._proxy,
            "trust_env": False,
            "follow_redirects": False,
            "limits": _LIMITS,
        }

    def _wait(self, state: RetryCallState) -> float:
        failure = state.outcome.exception() if state.outcome else None
        asked = failure.retry_after_s if isinstance(failure, TransportError) else None
        return max(self._backoff(state), asked or 0.0)

    def _noted(self, failure: TransportError | None) -> bool:
        """Log when delivery begins to fail and when it works again, nothing in between."""
        if failure is not None and not self._failing:
            log.warning("events cannot be delivered", receiver=self._target.host, error=str(failure))
        elif failure is None and self._failing:
            log.info("events are delivered again", receiver=self._target.host)
        self._failing = failure is not None
        return failure is None


class HttpTransport:
    """A started ``HttpEventClient`` that is called with events; a context manager, so that it is always closed.

    Takes the arguments of ``HttpEventClient``.
    """

    def __init__(
        self,
        base_url: str,
        endpoint: str | None = None,
        timeout: float = 10.0,
        max_retries: int = 3,
        headers: Mapping[str, str] | None = None,
        **options: Any,
    ) -> None:
        self._client = HttpEventClient(base_url, endpoint, timeout, max_retries, headers, **options)
        self._client.start()

    def __call__(self, events: Sequence[Event]) -> bool:
        """Deliver events; True when the receiver has all of them."""
        return self._client.send_events(events)

    def close(self) -> None:
        """Let go of the connections; may be called more than once."""
        self._client.stop()

    def __enter__(self) -> HttpTransport:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def create_http_transport(base_url: str, **options: Any) -> HttpTransport:
    """Return a started transport. The caller closes it, best with ``with``."""
    return HttpTransport(base_url, **options)


class _Answer:
    """What is read of an answer: a little for the message, the rest so that the connection can be used again."""

    def __init__(self, reply: httpx.Response, deadline: float) -> None:
        self.reply, self.late = reply, False
        self._deadline, self._size, self._begin = deadline, 0, b""

    def wants_more(self, chunk: bytes) -> bool:
        self._size += len(chunk)
        self._begin = (self._begin + chunk)[:_EXCERPT] if len(self._begin) < _EXCERPT else self._begin
        self.late = time.monotonic() > self._deadline
        return self._size <= _READ_LIMIT and not self.late

    def text(self) -> str:
        # Compressed answers are not unpacked: a small one could become huge.
        return "" if "content-encoding" in self.reply.headers else self._begin.decode("utf-8", "replace")


def _batch(events: Sequence[Event]) -> tuple[list[bytes], str]:
    return [event.encode() for event in events], idempotency_key(event.event_id for event in events)


def _worth_another_try(exc: BaseException) -> bool:
    return isinstance(exc, DeliveryError) and (exc.retry_after_s or 0.0) <= PATIENCE_S
