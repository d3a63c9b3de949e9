"""What the application needs from the outside; infrastructure implements it.

Every port is a small Protocol, owned by its user. Foreign errors stop at the implementation: only the errors named here
cross a port.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from sentinel_pipeline.domain.detections import Detections
from sentinel_pipeline.domain.events import Event
from sentinel_pipeline.domain.frame import Frame
from sentinel_pipeline.domain.overlay import Overlay


class FrameSource(Protocol):
    """One connection to one camera. One thread opens, reads and closes it; ``cancel`` may come from any thread."""

    def open(self) -> None:
        """Connect. Raises ``StreamError`` (``StreamRefused`` when the camera said no) within the open time-out."""
        ...

    def read(self) -> Frame:
        """Wait for the next frame. Raises ``StreamError`` within the read time-out; never returns a frame twice."""
        ...

    def cancel(self) -> None:
        """Make an ``open`` or ``read`` under way, and all later ones, raise ``StreamError`` as soon as possible."""
        ...

    def close(self) -> None:
        """Let go of everything; may be called more than once."""
        ...


@dataclass(frozen=True, slots=True)
class OutputReport:
    """How one URL of a sink is doing. ``url`` is redacted; the counters are in pictures."""

    url: str
    state: str
    reason: str = ""
    published: int = 0
    restarts: int = 0
    dropped: int = 0


@dataclass(frozen=True, slots=True)
class Audience:
    """Whether somebody watches. ``reason``: why that is not known, empty when it is; then it counts as watched."""

    watched: bool = True
    reason: str = ""


@dataclass(frozen=True, slots=True)
class SinkReport:
    """How publishing is doing. ``state``: starting, running, retrying, stopped; the worst of all outputs.

    published: pictures that at least one output has taken. dropped: pictures that no output has taken.
    restarts: of all outputs. audience: None where nobody asks who watches.
    """

    state: str
    reason: str = ""
    published: int = 0
    restarts: int = 0
    dropped: int = 0
    outputs: tuple[OutputReport, ...] = ()
    audience: Audience | None = None


class FrameSink(Protocol):
    """Takes pictures at a constant rate and publishes them; no method waits for the network."""

    def write(self, frame: Frame, overlay: Overlay, slot: int, *, alone: bool = False) -> None:
        """Draw, encode and hand over one picture. ``slot`` counts output intervals (1/fps) and never repeats.

        alone: whoever begins to watch with this picture must be able to decode it.
        """
        ...

    def report(self) -> SinkReport:
        """Return how publishing is doing; safe from any thread."""
        ...

    def close(self) -> None:
        """Stop within a few seconds; may be called more than once."""
        ...


class Detector(Protocol):
    """Finds objects in a picture. Safe to call from several threads at once."""

    @property
    def labels(self) -> Sequence[str]:
        """Class names; ``Detections.class_id`` is an index into them."""
        ...

    def detect(
        self, frame: Frame, *, confidence: float, iou: float, expires_at: float | None = None
    ) -> tuple[Detections, dict[str, float]]:
        """Return the boxes in source pixels, and milliseconds per step (``wait``, ``infer``).

        Does not hold on to the frame, several megabytes, while the model is waited for.
        expires_at: monotonic seconds after which looking at the frame is no use any more. Raises ``ModelBusy`` when its
        turn has not come by then, else ``ModelError`` (``ModelTimeout`` when the model's own deadline has passed);
        never blocks longer than that.
        """
        ...


@dataclass(frozen=True, slots=True)
class Batch:
    """Stored events on their way to one sink.

    key: idempotency key, the same on every retry of this batch, also after a restart.
    last_seq: the outbox may forget everything up to here for this sink once the batch is acknowledged.
    bodies: wire form 1, one JSON object each, in order.
    """

    sink: str
    key: str
    first_seq: int
    last_seq: int
    bodies: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class SinkBacklog:
    """What a sink still has to get.

    oldest_s: age of the oldest pending event in seconds, 0 when there is none.
    dead: events in the sink's dead-letter table.
    dropped: events that a limit (size, age) took away before the sink had them.
    """

    pending: int
    oldest_s: float
    dead: int
    dropped: int = 0


class Outbox(Protocol):
    """Keeps accepted events until every sink has them. Safe to use from several threads at once.

    Any method may raise ``OutboxError`` within its deadline (full or failing disk); calling it again later is safe.
    Naming a sink that was never registered raises ``ValueError``.
    """

    def append(self, events: Sequence[Event]) -> None:
        """Store durably: on return they survive ``kill -9``. Raises ``OutboxError``; then none of them is stored.

        One exception: when a deadline passes while the disk is still writing, they may be stored all the same.
        """
        ...

    def register(self, sinks: Sequence[str]) -> None:
        """Name all the sinks there are from now on.

        A new one starts with the next event appended. One that is left out no longer holds events back (after a grace
        period); named again later, it goes on where it was with what is still there.
        """
        ...

    def next_batch(self, sink: str, max_events: int) -> Batch | None:
        """Return the next events for ``sink`` in order, or None.

        The same batch again, under the same key and whatever ``max_events`` says, until it is acked, parked or split,
        or until a limit drops events of it.
        """
        ...

    def ack(self, batch: Batch) -> None:
        """The sink has the batch."""
        ...

    def split(self, batch: Batch) -> None:
        """The receiver takes smaller batches only: ``next_batch`` returns the first half of it next, under a new key.

        Raises ``ValueError`` for a batch of one event.
        """
        ...

    def park(self, batch: Batch, reason: str) -> None:
        """Move the batch to the dead-letter table of its sink and go on behind it."""
        ...

    def backlog(self, sink: str) -> SinkBacklog:
        """Return what ``sink`` still has to get."""
        ...

    def defer(self, sink: str, seconds: float) -> None:
        """Remember that the receiver wants to be left alone for ``seconds`` from now on, or until a batch is settled.

        A durable outbox remembers it across restarts and ``kill -9``.
        """
        ...

    def deferred(self, sink: str) -> float:
        """Return the seconds left of what ``defer`` was told; never more than those."""
        ...

    def on_append(self, wake: Callable[[], None]) -> Callable[[], None]:
        """Call ``wake()`` (must not block or raise) from the storing thread after each append.

        Returns a function that ends this.
        """
        ...


class EventTransport(Protocol):
    """Carries batches to one receiver. Lives in one event loop."""

    async def open(self) -> None:
        """Acquire what is needed. Does not have to connect yet."""
        ...

    async def send(self, batch: Batch) -> None:
        """Deliver one batch, once. Raises a ``TransportError``; its subclass says what happens to the batch."""
        ...

    async def close(self) -> None:
        """Let go of everything; may be called more than once."""
        ...
