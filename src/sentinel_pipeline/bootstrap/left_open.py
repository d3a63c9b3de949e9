"""What earlier lives of the program have left open in the outbox: outages, and incidents."""

from __future__ import annotations

from typing import Any

import structlog

from sentinel_pipeline.domain.errors import OutboxError
from sentinel_pipeline.domain.events import Event
from sentinel_pipeline.domain.incidents import closing
from sentinel_pipeline.domain.redact import redact
from sentinel_pipeline.domain.system_events import SYSTEM, Outage, Part, open_outages
from sentinel_pipeline.infrastructure.storage.outbox_reader import OutboxReader

log = structlog.get_logger(__name__)

# Among how many events it is looked for at the start what was left open: events of the program itself are few, and are
# found by the database; incidents are among all the others, which are read.
RECENT_EVENTS = 50_000
RECENT_INCIDENTS = 5000


def left_open(reader: OutboxReader) -> tuple[dict[str, Outage], dict[Part, Outage], list[Event]]:
    """Return which streams and which other parts were down, and the events that close what a kill has left open."""
    streams, parts = open_outages(recent(reader, RECENT_EVENTS, newest=RECENT_EVENTS, module=SYSTEM))
    return streams, parts, closing(recent(reader, RECENT_INCIDENTS))


def recent(reader: OutboxReader, limit: int, **wanted: Any) -> list[Event]:
    """Return the newest events of earlier lives, newest first, as far as they can be read."""
    try:
        stored = reader.list(limit, **wanted)
    except OutboxError as exc:
        log.warning("what was open before the start is not known", reason=redact(str(exc)))
        return []
    found = []
    for each in stored:
        try:
            found.append(Event.from_wire(each.body))
        except ValueError as exc:
            log.warning("a stored event cannot be read", seq=each.seq, reason=redact(str(exc)))
    return found
