"""A plain callable as a sink, the way the infrastructure document hands ``HttpTransport`` to the emitter."""

from __future__ import annotations

from collections.abc import Callable

from sentinel_pipeline.application.ports import Batch
from sentinel_pipeline.domain.errors import DeliveryError, Rejected, TransportError
from sentinel_pipeline.domain.events import Event
from sentinel_pipeline.domain.redact import redact

SyncTransport = Callable[[list[Event]], bool]


class CallableTransport:
    """An ``EventTransport`` around ``callable(events) -> bool``: False, or an exception, means try again.

    The callable runs in the sink's own thread and may block there.
    """

    def __init__(self, call: SyncTransport) -> None:
        self._call = call

    async def open(self) -> None:
        """Need nothing: whoever made the callable opened it."""

    async def send(self, batch: Batch) -> None:
        """Call with the batch's events. Raises ``DeliveryError``, or the ``TransportError`` of the callable."""
        events = _decode(batch)
        try:
            delivered = self._call(events)
        except TransportError:
            raise
        except Exception as exc:
            # Any code of the user's may stand here, with any error: none of them may cost an event.
            raise DeliveryError(f"the transport raised {type(exc).__name__}: {redact(str(exc))}") from exc
        if not delivered:
            raise DeliveryError("the transport reported that it could not deliver")

    async def close(self) -> None:
        """Close nothing: whoever made the callable closes it."""


def _decode(batch: Batch) -> list[Event]:
    try:
        return [Event.from_wire(body) for body in batch.bodies]
    except ValueError as exc:  # such as a confidence that was not a number: no repetition makes it one
        raise Rejected(f"a stored event cannot be read: {redact(str(exc))}") from exc
