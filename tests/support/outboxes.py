"""Events whose time stamp is their number, and what comes out of an outbox for them."""

from __future__ import annotations

from sentinel_pipeline.application.ports import Batch, Outbox
from sentinel_pipeline.domain.events import Event, EventStage


def events(count: int, start: int = 0, padding: int = 0) -> list[Event]:
    """Return ``count`` events with the numbers from ``start`` on, each ``padding`` bytes longer than it need be."""
    details = {"padding": "x" * padding} if padding else {}
    return [
        Event("X", EventStage.DETECTED, "gate", "rule", ts=float(number), details=details)
        for number in range(start, start + count)
    ]


def numbers(batch: Batch | None) -> list[int]:
    """Return the numbers of a batch's events."""
    return [] if batch is None else [int(Event.from_wire(body).ts) for body in batch.bodies]


def take_all(outbox: Outbox, sink: str = "vms", size: int = 100) -> list[int]:
    """Take and acknowledge all that a sink has to get, ``size`` at a time; return the numbers."""
    taken: list[int] = []
    while (batch := outbox.next_batch(sink, size)) is not None:
        taken += numbers(batch)
        outbox.ack(batch)
    return taken
