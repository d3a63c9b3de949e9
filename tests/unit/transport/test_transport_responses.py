"""What an HTTP answer means."""

from __future__ import annotations

from email.utils import formatdate

import pytest

from sentinel_pipeline.domain.errors import (
    DeliveryError,
    PayloadTooLarge,
    Rejected,
    SinkGone,
    TransportError,
    Unauthorised,
)
from sentinel_pipeline.infrastructure.transport.responses import check, excerpt, refusal, retry_after

NOW = 1_732_406_400.0  # 2024-11-24 00:00:00 UTC

CLASSES: list[tuple[int, type[TransportError]]] = [
    *[
        (status, DeliveryError)
        for status in (100, 301, 302, 303, 304, 307, 308, 408, 425, 429, 500, 502, 503, 504, 599)
    ],
    (413, PayloadTooLarge),
    (401, Unauthorised),
    (403, Unauthorised),
    (407, Unauthorised),
    (410, SinkGone),
    *[(status, Rejected) for status in (400, 404, 405, 409, 415, 422, 451, 501)],
]


@pytest.mark.parametrize("status", [200, 201, 202, 204, 299])
def test_success_returns(status: int) -> None:
    """Every 2xx means that the receiver has the batch."""
    assert check(status, {}, NOW) is None


@pytest.mark.parametrize(("status", "kind"), CLASSES, ids=[str(status) for status, _ in CLASSES])
def test_every_other_status_has_its_class(status: int, kind: type[TransportError]) -> None:
    """The class of the error, exactly, is what the delivery loop acts on; the message names host and status."""
    with pytest.raises(TransportError) as caught:
        check(status, {}, NOW, host="vms:443")
    assert type(caught.value) is kind
    assert f"vms:443 answered {status}" in str(caught.value)
    assert caught.value.remedy


@pytest.mark.parametrize("status", [status for status, _ in CLASSES])
def test_retry_after_travels_with_the_error(status: int) -> None:
    """The wait that a receiver asks for reaches the delivery loop, whatever else its answer says."""
    with pytest.raises(TransportError) as caught:
        check(status, {"retry-after": "17"}, NOW)
    assert caught.value.retry_after_s == 17.0


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("0", 0.0),
        ("120", 120.0),
        (" 7 ", 7.0),
        ("1.5", 1.5),
        ("2, 30", 30.0),  # two headers, as httpx joins them: nobody must be asked too early
        ("30,", 30.0),
        ("soon, 30", 30.0),
        (f"5, {formatdate(NOW + 90, usegmt=True)}", 90.0),
        (f"{formatdate(NOW + 90, usegmt=True)}, 5", 90.0),
        (f"{formatdate(NOW + 10, usegmt=True)}, {formatdate(NOW + 30, usegmt=True)},120", 120.0),
        ("Sunday, 24-Nov-24 00:01:00 GMT,Sunday, 24-Nov-24 00:02:00 GMT", 120.0),
        ("-5", 0.0),
        ("999999999999", 86_400.0),
        ("9" * 5000, 86_400.0),
        (formatdate(NOW + 90, usegmt=True), 90.0),
        (formatdate(NOW - 90, usegmt=True), 0.0),
        ("Sunday, 24-Nov-24 00:01:00 GMT", 60.0),  # RFC 850
        ("Sun Nov 24 00:01:00 2024", 60.0),  # asctime
    ],
)
def test_retry_after_is_read_in_every_form(value: str, seconds: float) -> None:
    """Seconds and all three date forms are understood, never negative, at most a day."""
    assert retry_after({"retry-after": value}, NOW) == pytest.approx(seconds)


@pytest.mark.parametrize(
    "value", ["", "soon", "1e3", "0x10", "nan", "inf", "²", "1 2", "Sun, 99 Nov 2024 00:00:00 GMT"]
)
def test_malformed_retry_after_is_ignored(value: str) -> None:
    """What is neither a number nor a date counts as absent."""
    assert retry_after({"retry-after": value}, NOW) is None


def test_retry_after_date_is_measured_by_the_receivers_clock() -> None:
    """Our clock is an hour off, the receiver says what time it has: the wait is still what it meant."""
    headers = {"retry-after": formatdate(NOW + 30, usegmt=True), "date": formatdate(NOW, usegmt=True)}
    assert retry_after(headers, NOW - 3600) == 30.0
    assert retry_after(headers, NOW + 3600) == 30.0


def test_redirect_names_the_place_without_its_query() -> None:
    """The operator sees where the redirect points, but no token that the receiver put there."""
    with pytest.raises(DeliveryError, match=r"points to https://new\.example/events") as caught:
        check(308, {"location": "https://new.example/events?token=s3cret"}, NOW)
    assert "s3cret" not in str(caught.value)


def test_foreign_text_becomes_one_short_clean_line() -> None:
    """An answer's body cannot break the log, fill it, or carry a password into it."""
    text = excerpt("no\r\n\x1b[31mway\x00 https://u:s3cret@host/ " + "x" * 1000)
    assert text.isprintable()
    assert len(text) <= 200
    assert "s3cret" not in text


@pytest.mark.parametrize(
    ("status", "kind"),
    [(401, Unauthorised), (403, Unauthorised), (410, SinkGone), (404, DeliveryError), (429, DeliveryError)]
    + [(status, DeliveryError) for status in (200, 301, 400, 426, 500, 501, 503)],
)
def test_a_refused_handshake_never_condemns_events(status: int, kind: type[TransportError]) -> None:
    """A WebSocket handshake says nothing about a batch: no answer to it parks events."""
    assert type(refusal(status, {}, NOW, host="vms:80")) is kind


@pytest.mark.parametrize("status", [503, 429, 401, 404, 301])
def test_a_refused_handshake_may_ask_for_a_pause(status: int) -> None:
    """``Retry-After`` counts in a handshake as well."""
    assert refusal(status, {"retry-after": "3"}, NOW, host="vms:80").retry_after_s == 3.0
