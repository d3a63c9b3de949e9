"""All URLs of one stream: each gets the packets that were encoded once, and none waits for another."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence

from sentinel_pipeline.application.ports import OutputReport, SinkReport
from sentinel_pipeline.domain.redact import redact
from sentinel_pipeline.infrastructure.video.encoder import EncodedPacket
from sentinel_pipeline.infrastructure.video.output_loop import RETRYING, RUNNING, STARTING, STOPPED
from sentinel_pipeline.infrastructure.video.packet_output import PacketOutput

_WORST_FIRST = (RETRYING, STOPPED, STARTING, RUNNING)
_REMEMBERED = 4096  # slots; outputs are apart by what their queues and FFmpeg's buffers hold: seconds

NewOutput = Callable[[str, Callable[[Sequence[int]], None]], PacketOutput]


class Outputs:
    """Implements the packet side of a sink. ``put`` comes from one thread; the rest may come from any.

    new_output: makes the output of a URL, which calls its second argument with the slots it has published.
    """

    def __init__(self, urls: Sequence[str], new_output: NewOutput) -> None:
        self._names = tuple(redact(url) for url in urls)
        self._pictures = _Pictures()
        self._outputs = tuple(new_output(url, self._pictures.published) for url in urls)

    def start(self) -> None:
        """Begin publishing; at most once."""
        for output in self._outputs:
            output.start()

    def put(self, packet: EncodedPacket) -> None:
        """Hand a packet to every output; never waits."""
        for output in self._outputs:
            output.put(packet)

    def report(self) -> SinkReport:
        """Return the worst state, why, the counters of all, and how each output is doing."""
        reports = [
            OutputReport(name, r.state, r.reason, r.published, r.restarts, r.dropped)
            for name, r in zip(self._names, (output.report() for output in self._outputs), strict=True)
        ]
        worst = min(reports, key=lambda report: _WORST_FIRST.index(report.state))
        reason = f"{worst.url}: {worst.reason}" if worst.reason and len(reports) > 1 else worst.reason
        return SinkReport(
            state=worst.state,
            reason=reason,
            published=self._pictures.total,
            restarts=sum(report.restarts for report in reports),
            dropped=min(report.dropped for report in reports),
            outputs=tuple(reports),
        )

    def close(self, timeout: float = 3.0) -> None:
        """End all outputs within ``timeout`` seconds; may be called more than once."""
        deadline = time.monotonic() + timeout
        for output in self._outputs:
            output.ask_to_stop(timeout)
        for output in self._outputs:
            output.close(max(0.1, deadline - time.monotonic()))


class _Pictures:
    """Counts each picture once, however many outputs publish it. Safe from any thread."""

    def __init__(self) -> None:
        self.total = 0
        self._lock = threading.Lock()
        self._recent: dict[int, None] = {}  # slots, oldest first

    def published(self, slots: Sequence[int]) -> None:
        with self._lock:
            for slot in slots:
                if slot not in self._recent:
                    self._recent[slot] = None
                    self.total += 1
            while len(self._recent) > _REMEMBERED:
                del self._recent[next(iter(self._recent))]
