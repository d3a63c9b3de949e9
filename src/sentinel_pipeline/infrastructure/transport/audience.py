"""Asks media servers who watches: MediaMTX's control API, or anything that answers with a number."""

from __future__ import annotations

import asyncio
import json
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from contextlib import suppress
from types import TracebackType

import httpx
import structlog

from sentinel_pipeline.application.ports import Audience
from sentinel_pipeline.domain.errors import SentinelError
from sentinel_pipeline.infrastructure.transport.target import Target, parse_target, request_headers

log = structlog.get_logger(__name__)

_BODY_LIMIT = 1 << 20  # bytes; a path document of MediaMTX has a few hundred, and 80 per reader
_CLOSE_S = 2.0


def count_readers(body: bytes) -> int:
    """Return how many watch, from an answer: ``{"readers": [...]}`` (MediaMTX), ``{"readers": 2}`` or ``2``.

    Raises ``ValueError`` for anything else.
    """
    told = json.loads(body)
    if isinstance(told, dict):
        told = told.get("readers")
        if isinstance(told, list):
            return len(told)
    if isinstance(told, bool) or not isinstance(told, int | float) or not 0 <= told < 1e9:
        raise ValueError("no number of readers in it")
    return int(told)


class _Asked:
    """One URL that is asked, and its last answer; written by the asking thread only."""

    def __init__(self, url: str) -> None:
        self.target: Target = parse_target(url, ("http", "https"))
        self.audience = Audience(reason="not asked yet")

    def answered(self, audience: Audience) -> None:
        """Take an answer; only a change is logged."""
        before, self.audience = self.audience, audience
        if before == audience:
            return
        if audience.reason:
            log.warning("cannot tell who watches, publishing always", server=self.target.host, reason=audience.reason)
        else:
            log.info("somebody watches" if audience.watched else "nobody watches", server=self.target.host)


class AudienceWatch:
    """Asks all servers of all streams once every ``period`` seconds, all at once, in one thread of its own.

    The thread begins with the first ``follow``; ``close`` ends it. Safe from any thread. ``timeout``: seconds per
    answer. A server that cannot be asked, or does not make itself understood, counts as watched: publishing too much
    is better than an empty picture.
    """

    def __init__(self, period: float = 1.0, timeout: float = 1.0) -> None:
        self._period, self._timeout = period, timeout
        self._lock = threading.Lock()
        # Whoever follows holds what is asked; a URL that nobody follows any more is asked no longer.
        self._asked: weakref.WeakValueDictionary[str, _Asked] = weakref.WeakValueDictionary()
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop = asyncio.Event()
        self._closed = False

    def __enter__(self) -> AudienceWatch:
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def follow(self, urls: Sequence[str]) -> Callable[[], Audience]:
        """Return what says at once, from any thread, whether anybody watches at any of ``urls``.

        Raises ``ConfigError`` for a URL that cannot be asked.
        """
        with self._lock:
            mine = []
            for url in urls:
                asked = self._asked.get(url) or _Asked(url)
                self._asked[url] = asked
                mine.append(asked)
            if self._thread is None and not self._closed:
                self._thread = threading.Thread(target=self._run, name="audience")
                self._thread.start()
        return lambda: _together([asked.audience for asked in mine])

    def close(self) -> None:
        """End the thread, within two seconds; may be called more than once. Raises ``SentinelError`` if it hangs."""
        with self._lock:
            self._closed = True
            thread, loop = self._thread, self._loop
        if thread is None:
            return
        if loop is not None:
            with suppress(RuntimeError):  # it has just ended
                loop.call_soon_threadsafe(self._stop.set)
        thread.join(_CLOSE_S)
        if thread.is_alive():
            raise SentinelError("the thread that asks who watches did not end in time")

    def _run(self) -> None:
        asyncio.run(self._main())

    async def _main(self) -> None:
        with self._lock:
            self._loop = asyncio.get_running_loop()
            if self._closed:
                return
        asking = asyncio.create_task(self._ask_for_ever())
        try:
            await self._stop.wait()
        finally:
            asking.cancel()
            await asyncio.gather(asking, return_exceptions=True)

    async def _ask_for_ever(self) -> None:
        async with httpx.AsyncClient(timeout=self._timeout, follow_redirects=False, trust_env=False) as client:
            while True:
                due = time.monotonic() + self._period
                await asyncio.gather(*(self._ask(client, asked) for asked in self._all_asked()))
                await asyncio.sleep(max(0.0, due - time.monotonic()))

    def _all_asked(self) -> list[_Asked]:
        with self._lock:  # ``follow`` adds to it from other threads
            return list(self._asked.values())

    async def _ask(self, client: httpx.AsyncClient, asked: _Asked) -> None:
        host = asked.target.host
        try:
            async with asyncio.timeout(self._timeout):  # httpx's is per read: a dripping answer would outlast it
                readers = await _readers(client, asked.target)
        except TimeoutError:
            audience = Audience(reason=f"{host} did not answer within {self._timeout:g} s")
        except httpx.HTTPError as exc:
            audience = Audience(reason=f"{host} cannot be asked: {type(exc).__name__}")
        except (ValueError, RecursionError):
            audience = Audience(reason=f"{host} does not say in JSON how many readers there are")
        except _Refused as exc:
            audience = Audience(reason=str(exc))
        except Exception as exc:  # outermost loop of this thread: one server must not end the asking of all
            log.exception("internal error while asking who watches", server=host)
            audience = Audience(reason=f"internal error: {type(exc).__name__}")
        else:
            audience = Audience(watched=readers > 0)
        asked.answered(audience)


class _Refused(Exception):
    """The server's answer is not 200."""


async def _readers(client: httpx.AsyncClient, target: Target) -> int:
    async with client.stream("GET", target.url, headers=request_headers(target, None)) as response:
        if response.status_code != httpx.codes.OK:
            raise _Refused(_meaning(target.host, response.status_code))
        body = b""
        async for piece in response.aiter_bytes():
            body += piece
            if len(body) > _BODY_LIMIT:
                raise ValueError("too long")
    return count_readers(body)


def _meaning(host: str, status: int) -> str:
    if status == httpx.codes.NOT_FOUND:
        return f"{host} knows no such path: nothing is published there, or publish.watch.url names another"
    if status in (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN):
        return f"{host} answers {status}: put user and password into publish.watch.url"
    return f"{host} answers {status}"


def _together(audiences: Sequence[Audience]) -> Audience:
    """Return the audience of all servers; one of which nothing is known counts as watched."""
    unknown = next((audience for audience in audiences if audience.reason), None)
    return unknown or Audience(watched=any(audience.watched for audience in audiences))
