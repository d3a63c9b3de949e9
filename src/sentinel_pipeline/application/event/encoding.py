"""Events to stored bytes and back."""

from __future__ import annotations

from collections.abc import Sequence

from sentinel_pipeline.domain.errors import OutboxError
from sentinel_pipeline.domain.events import Event


def encode_all(events: Sequence[Event]) -> list[bytes]:
    """Return wire form 1 of each event. Raises ``OutboxError`` naming the event that JSON cannot carry."""
    return [_encode(event) for event in events]


def _encode(event: Event) -> bytes:
    try:
        return event.encode()
    except (TypeError, ValueError) as exc:
        raise OutboxError(
            f"event {event.event_id} of {event.module_name!r} cannot be written as JSON: {exc}",
            remedy="put JSON values only into its details",
        ) from exc
