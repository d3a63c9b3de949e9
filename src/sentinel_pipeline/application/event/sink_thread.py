"""One thread and one event loop for one sink, so that a slow sink slows nobody else."""

from __future__ import annotations

import asyncio
import threading

import structlog

from sentinel_pipeline.application.event.delivery import Delivery
from sentinel_pipeline.application.event.delivery_policy import explain_defect

log = structlog.get_logger(__name__)

AFTER_DEFECT_S = 5.0


class SinkThread:
    """Runs a ``Delivery`` until ``stop``. Started once; ``stop`` and ``join`` may come from any thread."""

    def __init__(self, delivery: Delivery) -> None:
        self.delivery = delivery
        self._ending = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[None] | None = None
        self._thread = threading.Thread(target=self._run, name=f"sink-{delivery.sink}")

    def start(self) -> None:
        """Begin to deliver."""
        self._loop = asyncio.new_event_loop()
        self._thread.start()

    def stop(self) -> None:
        """Ask for the end; what is under way is cancelled and stays in the outbox. Returns at once."""
        self._ending.set()
        if self._loop is not None:
            try:
                self._loop.call_soon_threadsafe(self._cancel)
            except RuntimeError:
                return  # the loop is closed: the thread has ended by itself

    def join(self, timeout_s: float) -> bool:
        """Wait for the end; False when the thread is still inside its transport after ``timeout_s``."""
        if self._loop is not None:
            self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _cancel(self) -> None:
        if self._task is not None:
            self._task.cancel()

    def _run(self) -> None:
        loop = self._loop
        assert loop is not None  # noqa: S101 - set by start() before the thread exists
        with asyncio.Runner(loop_factory=lambda: loop) as runner:
            runner.run(self._main())

    async def _main(self) -> None:
        self._task = asyncio.create_task(self._deliver_for_ever())
        watch = asyncio.create_task(self._watch_abandoned())
        if self._ending.is_set():
            self._task.cancel()
        await asyncio.wait([self._task])
        watch.cancel()

    async def _deliver_for_ever(self) -> None:
        while not self._ending.is_set():
            try:
                await self.delivery.run()
            except asyncio.CancelledError:
                if self._ending.is_set():
                    raise
                # Not ours: a library under the transport let one of its own out. Nothing is lost, go on.
            except Exception as exc:  # noqa: BLE001
                # The thread's outermost loop: a defect costs a pause, never events, which are still in the outbox.
                _report_defect(self.delivery.sink, exc)
            else:
                return  # the receiver asked never to be called again
            await asyncio.sleep(AFTER_DEFECT_S)

    async def _watch_abandoned(self) -> None:
        """End when the program has ended without ``close``: a thread that waits for events would keep it alive."""
        while threading.main_thread().is_alive() or _others_work():  # noqa: ASYNC110 - nobody announces its end
            await asyncio.sleep(1.0)
        self._ending.set()
        self._cancel()


def _report_defect(sink: str, exc: Exception) -> None:
    log.error("delivering failed in an unforeseen way", sink=sink, traceback=explain_defect(exc))


def _others_work() -> bool:
    return any(
        thread is not threading.main_thread() and not thread.daemon and not thread.name.startswith("sink-")
        for thread in threading.enumerate()
    )
