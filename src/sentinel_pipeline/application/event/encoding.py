"""Events to stored bytes and back."""

from __future__ import annotations

from collections.abc import Sequence

from sentinel_pipeline.domain.errors import EventUnfit
from sentinel_pipeline.domain.events import Event


def encode_all(events: Sequence[Event]) -> list[bytes]:
    """Return wire form 1 of each event. Raises ``EventUnfit`` naming the event that JSON cannot carry."""
    return [_encode(event) for event in events]


def _encode(event: Event) -> bytes:
    try:
        return event.encode()
    except (TypeError, ValueError, OverflowError, OSError) as exc:  # the last two: a time that is no date
        raise EventUnfit(
            f"event {event.event_id} of {event.module_name!r} cannot be written as JSON: {exc}",
            remedy="put JSON values only into its details",
        ) from exc
