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
_RESEND = frozenset({408, 425, 429})
_CREDENTIALS = frozenset({401, 403, 407})
_NOT_IMPLEMENTED = 501


def check(status: int, headers: Mapping[str, str], now: float, *, host: str = "the receiver", detail: str = "") -> None:
    """Return when the receiver has the batch (2xx), else raise the ``TransportError`` that says what happens to it.

    ``headers`` are read by lower-case name; ``now`` is Unix seconds; ``detail`` is the beginning of the answer's body.

    - 3xx: ``DeliveryError``. Redirects are never followed: they would carry events and credentials to a host that the
      operator has not named. The events stay in the outbox until the configured URL is corrected.
    - 408, 425, 429, every 5xx except 501: ``DeliveryError`` with ``retry_after_s`` (RFC 9110 section 10.2.3).
    - 413: ``PayloadTooLarge``. 401, 403, 407: ``Unauthorised``. 410: ``SinkGone``.
    - 501 and every other 4xx: ``Rejected``.
    """
    if 200 <= status < 300:
        return
    raise _verdict(status, headers, now, host, excerpt(detail))


def refusal(status: int, headers: Mapping[str, str], now: float, *, host: str, detail: str = "") -> TransportError:
    """Return what a refused WebSocket handshake means. Never ``Rejected``: no batch was sent, so none was judged."""
    answer = _said(status, host, excerpt(detail))
    if status in _CREDENTIALS:
        return _unauthorised(status, answer)
    if status == 410:
        return SinkGone(f"{answer}: it is gone for good", remedy="remove the sink, or give its new URL")
    if status == 404:
        return DeliveryError(
            f"{answer}: there is no WebSocket at this path", remedy="correct the path of the sink's URL"
        )
    return _later(status, headers, now, answer)


def retry_after(headers: Mapping[str, str], now: float) -> float | None:
    """Return the seconds to wait that ``Retry-After`` asks for, in [0, 86400], or None when absent or malformed.

    A date is compared with the receiver's own ``Date`` when it sends one, so that a wrong clock on either side does no
    harm, else with ``now`` (Unix seconds).
    """
    value = headers.get("retry-after", "").strip()
    asked = [each.strip() for each in value.split(",")]  # two such headers, of a proxy and of what is behind it
    if all(_SECONDS.fullmatch(each) for each in asked):
        seconds = max(map(float, asked))
    else:
        at = _unix(value)
        if at is None:
            return None
        sent_at = _unix(headers.get("date", ""))
        seconds = at - (now if sent_at is None else sent_at)
    return min(max(seconds, 0.0), LONGEST_RETRY_AFTER_S)


def excerpt(text: str, longest: int = 200) -> str:
    """Return foreign text fit for a message: one line, printable, redacted, at most ``longest`` characters."""
    line = " ".join("".join(c if c.isprintable() else " " for c in redact(text)).split())
    return line if len(line) <= longest else line[: longest - 1] + "…"


def _verdict(status: int, headers: Mapping[str, str], now: float, host: str, detail: str) -> TransportError:
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
    return _later(status, headers, now, answer)


def _later(status: int, headers: Mapping[str, str], now: float, answer: str) -> DeliveryError:
    if 300 <= status < 400:
        place = excerpt(headers.get("location", "").partition("?")[0])  # its query may carry a token
        return DeliveryError(
            f"{answer}{f' and points to {place}' if place else ''}",
            remedy="redirects are not followed: give the final URL",
        )
    return DeliveryError(
        answer, remedy="events stay in the outbox and are sent again", retry_after_s=retry_after(headers, now)
    )


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
