"""What a stream says of itself: its state, since when, why, and its counts."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from threading import Lock
from typing import Any

import structlog

from sentinel_pipeline.application.event.outages import Condition, Doing
from sentinel_pipeline.application.ports import SinkReport
from sentinel_pipeline.application.stream.meters import Quantiles, RateMeter
from sentinel_pipeline.domain.events import iso
from sentinel_pipeline.domain.streams import StreamState, move
from sentinel_pipeline.domain.system_events import Part

log = structlog.get_logger(__name__)


_PUBLISHING = {"running": Doing.WELL, "retrying": Doing.FAILING}


class StreamHealth:
    """State and counts of one stream; written by its threads, read by anybody. Safe from any thread."""

    def __init__(self, stream_id: str) -> None:
        self._id = stream_id
        self._lock = Lock()
        self._state = StreamState.STOPPED
        self._reason = ""
        self._since = time.time()
        self._dropped: Counter[str] = Counter()
        self.received = RateMeter()  # packets, also those that are not decoded; 0 where the backend does not tell
        self.decoded = RateMeter()
        self.analysed = RateMeter()
        self.latency_ms = Quantiles()
        self.events = 0  # stored
        self.events_lost = 0  # found, but the outbox had refused too many before them
        self.reconnects = 0
        self.idle = False  # nothing moves: key frames are enough; decided by the analysis, asked by the source
        self.sink_report: Callable[[], SinkReport | None] = lambda: None
        self.on_loss: Callable[[str], None] = lambda _: None

    @property
    def state(self) -> StreamState:
        return self._state

    def move(self, new: StreamState, reason: str = "") -> None:
        """Go to ``new``; logs changes of state, and of the reason within a state."""
        with self._lock:
            old, old_reason = self._state, self._reason
            self._state = move(old, new)
            self._reason = reason
            if old is not new:
                self._since = time.time()
        if (old, old_reason) != (new, reason):
            log.info("stream", stream=self._id, state=str(new), reason=reason or None)
        if new in (StreamState.RECONNECTING, StreamState.FAILED):
            self.on_loss(reason)

    def drop(self, cause: str, count: int = 1) -> None:
        """Count frames that were not used, by cause."""
        with self._lock:
            self._dropped[cause] += count

    def publishers(self) -> dict[Part, Condition]:
        """Return how each output is doing, for whoever tells of outages."""
        sink = self.sink_report()
        outputs = sink.outputs if sink else ()
        # Where none of them has failed, it is the encoder before them.
        encoder = sink.reason if sink and sink.state == "retrying" and all(not o.reason for o in outputs) else ""
        return {
            Part("publisher", output.url, self._id): Condition(
                Doing.FAILING if encoder else _PUBLISHING.get(output.state, Doing.NOTHING),
                encoder or output.reason,
                output.published,
            )
            for output in outputs
        }

    def snapshot(self) -> dict[str, Any]:
        """Return the stream's part of the report (design section 7)."""
        now = time.monotonic()
        with self._lock:
            state, reason, since, dropped = self._state, self._reason, self._since, dict(self._dropped)
        sink = self.sink_report()
        if sink is not None and sink.dropped:
            dropped["output"] = sink.dropped
        return {
            "state": str(state),
            "since": iso(since),
            "reason": reason,
            "packets_received": self.received.total,
            "frames_decoded": self.decoded.total,
            "frames_analysed": self.analysed.total,
            "frames_published": sink.published if sink else 0,
            "frames_dropped": sum(dropped.values()),
            "dropped_by": dropped,
            "reconnects": self.reconnects,
            "received_fps": round(self.received.rate(now), 2),
            "fps": round(self.decoded.rate(now), 2),
            "idle": self.idle,
            "analysed_fps": round(self.analysed.rate(now), 2),
            "latency_ms": self.latency_ms.snapshot(),
            "events": self.events,
            "events_lost": self.events_lost,
            "publish": _publishing(sink) if sink else None,
        }


def _publishing(sink: SinkReport) -> dict[str, Any]:
    names = ("url", "state", "reason", "published", "restarts", "dropped")
    return {
        "state": sink.state,
        "reason": sink.reason,
        "restarts": sink.restarts,
        "outputs": [{name: getattr(output, name) for name in names} for output in sink.outputs],
        "audience": {"watched": sink.audience.watched, "reason": sink.audience.reason} if sink.audience else None,
    }
