"""The retry loop: runs what can fail, for ever."""

from __future__ import annotations

import time
from collections.abc import Callable
from threading import Event

import structlog

from sentinel_pipeline.domain.backoff import Retry
from sentinel_pipeline.domain.errors import SentinelError
from sentinel_pipeline.domain.redact import redact

log = structlog.get_logger(__name__)

Healthy = Callable[[], None]


def supervise(
    run: Callable[[Healthy], None],
    retry: Retry,
    stop: Event,
    *,
    starting: Callable[[], None] = lambda: None,
    failed: Callable[[SentinelError], float],
    given_up: Callable[[SentinelError], None],
) -> None:
    """Call ``run`` again and again until ``stop`` is set or the retries are used up.

    run: works until it raises; returns only when it was told to stop. It calls its argument once it is healthy: from
    then on its life counts towards starting the back-off over.
    starting: told before each try.
    failed: told why a run ended; returns the least number of seconds to wait, whatever the back-off says.
    given_up: told the last error when no retry is left.
    """
    while not stop.is_set():
        healthy_at: list[float] = []
        starting()
        try:
            run(lambda: healthy_at.append(time.monotonic()))  # noqa: B023 - called within this turn only
            continue
        except SentinelError as exc:
            error = exc
        except Exception as exc:  # outermost loop of a thread: a bug in one stream must not end it
            log.exception("internal error")
            error = SentinelError(f"internal error: {redact(repr(exc))}", remedy="please report it with the log")
        delay = retry.failed(time.monotonic() - healthy_at[0] if healthy_at else 0.0)
        if delay is None:
            given_up(error)
            return
        stop.wait(max(delay, failed(error)))
