"""What a server means by closing a WebSocket while a batch waits and it was answered a command as well."""

from __future__ import annotations

import pytest
from websockets.exceptions import ConnectionClosedError
from websockets.frames import Close

from sentinel_pipeline.domain.errors import PayloadTooLarge, Rejected, TransportError, Unauthorised
from sentinel_pipeline.infrastructure.transport.ws_dial import AnswerNotTaken, closed


@pytest.mark.parametrize(
    ("code", "batch", "answer", "expected"),
    [
        (1009, 900, 0, PayloadTooLarge),
        (1009, 900, 100, PayloadTooLarge),  # the longer one of the two
        (1009, 900, 900, AnswerNotTaken),
        (1003, 900, 0, Rejected),
        (1003, 900, 100, AnswerNotTaken),
        (1007, 900, 100, AnswerNotTaken),
        (1008, 900, 1000, Unauthorised),
    ],
)
def test_a_close_is_about_the_batch_only_where_it_can_be(
    code: int, batch: int, answer: int, expected: type[TransportError]
) -> None:
    """A batch is split or parked only when no answer that the server may not have read explains the close."""
    exc = ConnectionClosedError(Close(code, ""), Close(code, ""), rcvd_then_sent=True)
    failure = closed(exc, "vms:80", batch=batch, answer=answer)
    assert type(failure) is expected
    assert ("allow_commands" in failure.remedy) == (expected is AnswerNotTaken)
