"""The demo's own HTTP receiver, fed by the real client."""

from __future__ import annotations

import urllib.error
import urllib.request

import pytest

from sentinel_pipeline.domain.errors import PayloadTooLarge, Rejected
from sentinel_pipeline.domain.events import Event, EventStage
from sentinel_pipeline.infrastructure.transport.http_client import HttpEventClient
from sentinel_pipeline.lab.receivers import LARGEST_BODY, HttpReceiver

EVENTS = [Event("INTRUSION", EventStage.DETECTED, "gate", "rule", 1_732_406_400.0 + i) for i in range(5)]
BODIES = [event.encode() for event in EVENTS]


@pytest.mark.parametrize("form", ["json", "cloudevents"])
def test_each_event_counts_once(form: str) -> None:
    """Events are checked, kept in order, and counted once however often they come, in both formats."""
    with HttpReceiver(keep=3) as receiver:
        client = HttpEventClient(receiver.url, format=form)  # type: ignore[arg-type]
        client.start()
        client.post(BODIES[:4], "a")
        client.post(BODIES, "b")
        client.stop()
        assert receiver.intake.wait_for(5, 1.0)
        assert (receiver.count, receiver.intake.duplicates, receiver.intake.invalid) == (5, 4, 0)
        assert [event["event_id"] for event in receiver.events] == [event.event_id for event in EVENTS[2:]]


def test_what_is_no_event_is_refused() -> None:
    """A batch with one bad event is refused whole, with the reason; a huge one is refused for its size."""
    with HttpReceiver() as receiver:
        client = HttpEventClient(receiver.url)
        client.start()
        try:
            with pytest.raises(Rejected, match=r"422: .*schema must be 1"):
                client.post([BODIES[0], b'{"schema":2}'], "a")
            with pytest.raises(Rejected, match=r"400: .*not JSON"):
                client.post([b"{"], "b")
            with pytest.raises(PayloadTooLarge):
                client.post([b'"' + b"x" * LARGEST_BODY + b'"'], "c")
            client.post(BODIES, "d")
        finally:
            client.stop()
        assert (receiver.count, receiver.intake.invalid) == (5, 1)


def test_closing_ends_idle_connections() -> None:
    """A client that keeps its connection open does not keep the receiver alive; closing twice is fine."""
    client = HttpEventClient("http://127.0.0.1:1")
    with HttpReceiver() as receiver:
        client = HttpEventClient(receiver.url)
        client.start()
        client.post(BODIES, "a")
    receiver.close()
    client.stop()
    with pytest.raises(RuntimeError, match="not started"):
        _ = receiver.url


def test_only_post_is_served() -> None:
    """A browser that looks at the address gets an answer, not a hang."""
    with HttpReceiver() as receiver:
        with pytest.raises(urllib.error.HTTPError) as caught:
            urllib.request.urlopen(receiver.url, timeout=5)  # noqa: S310 - http to ourselves
        assert caught.value.code == 501
        caught.value.close()
