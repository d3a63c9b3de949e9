"""The retry loop of what works in threads, cameras and outputs: runs what can fail, for ever."""

from __future__ import annotations

import time
from collections.abc import Callable
from threading import Event, current_thread

import structlog

from sentinel_pipeline.domain.backoff import Retry
from sentinel_pipeline.domain.errors import SentinelError
from sentinel_pipeline.domain.redact import redact

log = structlog.get_logger(__name__)

Alive = Callable[[], None]


def supervise(
    run: Callable[[Alive], None],
    retry: Retry,
    stop: Event,
    *,
    starting: Callable[[], None] = lambda: None,
    failed: Callable[[SentinelError], float],
    given_up: Callable[[SentinelError], None],
) -> None:
    """Call ``run`` again and again until ``stop`` is set or the retries are used up.

    run: works until it raises; returns only when it was told to stop. It calls its argument at every sign of life: the
    time from the first to the last of them counts towards starting the back-off over, a stall at the end does not.
    starting: told before each try.
    failed: told why a run ended; returns the least number of seconds to wait, whatever the back-off says.
    given_up: told the last error when no retry is left.
    """
    while not stop.is_set():
        life = _Life()
        starting()
        try:
            run(life.sign)
            continue
        except SentinelError as exc:
            error = exc.with_traceback(None)  # it would keep what the run had open until the next failure
        except Exception as exc:  # outermost loop of a thread: a bug in one stream must not end it
            log.exception("internal error", thread=current_thread().name)
            error = SentinelError(f"internal error: {redact(repr(exc))}", remedy="please report it with the log")
        delay = retry.failed(life.seconds)
        if delay is None:
            given_up(error)
            return
        stop.wait(max(delay, failed(error)))


class _Life:
    """How long a run was well: from its first sign of life to its last."""

    def __init__(self) -> None:
        self._first: float | None = None
        self.seconds = 0.0

    def sign(self) -> None:
        now = time.monotonic()
        self._first = now if self._first is None else self._first
        self.seconds = now - self._first
