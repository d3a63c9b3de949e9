"""An event loop in a thread of its own, for code that has none."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from typing import Any, TypeVar

from sentinel_pipeline.domain.errors import SentinelError

T = TypeVar("T")
CALL_DEADLINE_S = 5.0  # callbacks of the lab never block: longer means that the loop is dead
CLOSE_DEADLINE_S = 1.0


class LoopThread:
    """Runs an event loop in a thread between ``start`` and ``close``; callable from any thread but that one."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None

    def start(self) -> None:
        """Start the thread and wait until its loop runs."""
        if self._thread is not None:
            raise RuntimeError(f"{self._name} has been started already")
        ready: Future[None] = Future()
        self._thread = threading.Thread(target=self._main, args=(ready,), name=self._name)
        self._thread.start()
        try:
            ready.result(CALL_DEADLINE_S)
        except BaseException:
            self.close()
            raise

    def check_running(self) -> None:
        """Raise ``SentinelError`` when the loop does not run."""
        self._running()

    def run(self, work: Callable[[], Coroutine[Any, Any, T]], *, deadline_s: float = CALL_DEADLINE_S) -> T:
        """Await ``work()`` in the loop and return its result, or raise what it raises, or ``TimeoutError``."""
        loop = self._running()
        coroutine = work()
        try:
            future = asyncio.run_coroutine_threadsafe(coroutine, loop)
        except RuntimeError as exc:  # the loop was closed since we looked
            coroutine.close()
            raise self._not_running() from exc
        try:
            return future.result(deadline_s)
        finally:
            future.cancel()

    def call(self, work: Callable[[], T]) -> T:
        """Call ``work()``, which must not block, in the loop and return its result, or raise what it raises."""

        async def run() -> T:
            return work()

        return self.run(run)

    def close(self) -> None:
        """Stop the loop and join the thread; may be called more than once. Raises ``SentinelError`` after a second."""
        thread, loop, stop = self._thread, self._loop, self._stop
        self._loop = None
        if thread is None:
            return
        if loop is not None and stop is not None:
            loop.call_soon_threadsafe(stop.set)
        thread.join(CLOSE_DEADLINE_S)
        if thread.is_alive():
            raise SentinelError(f"{self._name} did not stop within {CLOSE_DEADLINE_S:.0f} s")
        self._thread = None

    def _running(self) -> asyncio.AbstractEventLoop:
        if self._loop is None:
            raise self._not_running()
        return self._loop

    def _not_running(self) -> SentinelError:
        return SentinelError(f"{self._name} is not running", remedy="use it inside its with block")

    def _main(self, ready: Future[None]) -> None:
        async def until_stopped() -> None:
            self._stop = asyncio.Event()
            self._loop = asyncio.get_running_loop()
            ready.set_result(None)
            await self._stop.wait()

        try:
            asyncio.run(until_stopped())
        except BaseException as exc:  # the thread's outermost frame: the starter has to know
            if ready.done():
                raise
            ready.set_exception(exc)
