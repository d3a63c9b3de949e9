"""What an HTTP answer means for the batch that was sent. Pure: time comes in as an argument."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC
from email.utils import parsedate_to_datetime

from sentinel_pipeline.domain.errors import (
    DeliveryError,
    PayloadTooLarge,
    Rejected,
    SinkGone,
    TransportError,
    Unauthorised,
)
from sentinel_pipeline.domain.redact import redact

LONGEST_RETRY_AFTER_S = 86_400.0  # a receiver's slip of the pen must not silence a sink for a year

_SECONDS = re.compile(r"[+-]?[0-9]+(?:\.[0-9]+)?")
# Between two values of a header, as a proxy or a library joins them; not the comma inside a date.
_BETWEEN = re.compile(r",(?!\s*\d{1,2}[ -][A-Za-z]{3}[ -])")
_RESEND = frozenset({408, 425, 429})
_CREDENTIALS = frozenset({401, 403, 407})
_NOT_IMPLEMENTED = 501


def check(status: int, headers: Mapping[str, str], now: float, *, host: str = "the receiver", detail: str = "") -> None:
    """Return when the receiver has the batch (2xx), else raise the ``TransportError`` that says what happens to it.

    ``headers`` are read by lower-case name; ``now`` is Unix seconds; ``detail`` is the beginning of the answer's body.

    - 3xx: ``DeliveryError``. Redirects are never followed: they would carry events and credentials to a host that the
      operator has not named. The events stay in the outbox until the configured URL is corrected.
    - 408, 425, 429, every 5xx except 501: ``DeliveryError``.
    - 413: ``PayloadTooLarge``. 401, 403, 407: ``Unauthorised``. 410: ``SinkGone``.
    - 501 and every other 4xx: ``Rejected``.

    Each with ``retry_after_s``, whatever the status (RFC 9110 section 10.2.3).
    """
    if 200 <= status < 300:
        return
    raise _asking(_verdict(status, headers, host, excerpt(detail)), headers, now)


def refusal(status: int, headers: Mapping[str, str], now: float, *, host: str, detail: str = "") -> TransportError:
    """Return what a refused WebSocket handshake means. Never ``Rejected``: no batch was sent, so none was judged."""
    return _asking(_handshake(status, headers, _said(status, host, excerpt(detail))), headers, now)


def retry_after(headers: Mapping[str, str], now: float) -> float | None:
    """Return the seconds to wait that ``Retry-After`` asks for, in [0, 86400], or None when absent or malformed.

    Of several, of a proxy and of what is behind it, joined by commas, the longest counts.
    A date is compared with the receiver's own ``Date`` when it sends one, so that a wrong clock on either side does no
    harm, else with ``now`` (Unix seconds).
    """
    sent_at = _unix(_values(headers, "date")[0])
    asked = [_seconds(value, now if sent_at is None else sent_at) for value in _values(headers, "retry-after")]
    longest = max((seconds for seconds in asked if seconds is not None), default=None)
    return None if longest is None else min(max(longest, 0.0), LONGEST_RETRY_AFTER_S)


def excerpt(text: str, longest: int = 200) -> str:
    """Return foreign text fit for a message: one line, printable, redacted, at most ``longest`` characters."""
    line = " ".join("".join(c if c.isprintable() else " " for c in redact(text)).split())
    return line if len(line) <= longest else line[: longest - 1] + "…"


def _values(headers: Mapping[str, str], name: str) -> list[str]:
    return [value.strip() for value in _BETWEEN.split(headers.get(name, ""))]


def _seconds(value: str, now: float) -> float | None:
    if _SECONDS.fullmatch(value):
        return float(value)
    at = _unix(value)
    return None if at is None else at - now


def _asking(error: TransportError, headers: Mapping[str, str], now: float) -> TransportError:
    error.retry_after_s = retry_after(headers, now)
    return error


def _verdict(status: int, headers: Mapping[str, str], host: str, detail: str) -> TransportError:
    answer = _said(status, host, detail)
    if status in _CREDENTIALS:
        return _unauthorised(status, answer)
    if status == 413:
        return PayloadTooLarge(answer, remedy="the batch is sent again in halves; lower batch.max_events")
    if status == 410:
        return SinkGone(f"{answer}: it wants no more events", remedy="remove the sink, or give its new URL")
    final = 400 <= status < 500 and status not in _RESEND
    if final or status == _NOT_IMPLEMENTED:
        return Rejected(answer, remedy="these events are in the dead-letter table: `sentinel events dead`")
    return _later(status, headers, answer)


def _handshake(status: int, headers: Mapping[str, str], answer: str) -> TransportError:
    if status in _CREDENTIALS:
        return _unauthorised(status, answer)
    if status == 410:
        return SinkGone(f"{answer}: it is gone for good", remedy="remove the sink, or give its new URL")
    if status == 404:
        return DeliveryError(
            f"{answer}: there is no WebSocket at this path", remedy="correct the path of the sink's URL"
        )
    return _later(status, headers, answer)


def _later(status: int, headers: Mapping[str, str], answer: str) -> DeliveryError:
    if 300 <= status < 400:
        place = excerpt(headers.get("location", "").partition("?")[0])  # its query may carry a token
        return DeliveryError(
            f"{answer}{f' and points to {place}' if place else ''}",
            remedy="redirects are not followed: give the final URL",
        )
    return DeliveryError(answer, remedy="events stay in the outbox and are sent again")


def _said(status: int, host: str, detail: str) -> str:
    return f"{host} answered {status}" + (f": {detail}" if detail else "")


def _unauthorised(status: int, answer: str) -> Unauthorised:
    if status == 407:
        return Unauthorised(answer, remedy="the proxy wants other credentials; events are kept meanwhile")
    return Unauthorised(answer, remedy="correct the sink's credentials; events are kept meanwhile")


def _unix(date: str) -> float | None:
    """Read an HTTP date in any of the three forms of RFC 9110 section 5.6.7."""
    try:
        moment = parsedate_to_datetime(date)
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        return None
