"""The decision table of delivery, without a clock or a network."""

from __future__ import annotations

import pytest

from sentinel_pipeline.application.event.delivery_policy import BatchSize, Decision, Verdict, decide, explain_defect
from sentinel_pipeline.domain.errors import (
    DeliveryError,
    PayloadTooLarge,
    Rejected,
    SinkGone,
    TransportError,
    Unauthorised,
)


@pytest.mark.parametrize(
    ("exc", "size", "expected"),
    [
        pytest.param(DeliveryError("503"), 5, Decision(Verdict.RETRY, "503"), id="retry"),
        pytest.param(DeliveryError("429", retry_after_s=7), 5, Decision(Verdict.RETRY, "429", 7), id="retry-after"),
        pytest.param(DeliveryError("429", retry_after_s=9e9), 5, Decision(Verdict.RETRY, "429", 86_400), id="capped"),
        pytest.param(DeliveryError("429", retry_after_s=-3), 5, Decision(Verdict.RETRY, "429", 0), id="past-date"),
        pytest.param(Unauthorised("401", retry_after_s=9), 5, Decision(Verdict.PAUSE, "401", 9), id="paused-until"),
        pytest.param(PayloadTooLarge("413", retry_after_s=9), 2, Decision(Verdict.SPLIT, "413", 9), id="split-then"),
        pytest.param(Rejected("422", retry_after_s=9), 1, Decision(Verdict.PARK, "422", 9), id="parked-then"),
        pytest.param(Unauthorised("401"), 5, Decision(Verdict.PAUSE, "401"), id="unauthorised"),
        pytest.param(SinkGone("410"), 5, Decision(Verdict.STOP, "410"), id="gone"),
        pytest.param(PayloadTooLarge("413"), 2, Decision(Verdict.SPLIT, "413"), id="too-large"),
        pytest.param(PayloadTooLarge("413"), 1, Decision(Verdict.PARK, "413"), id="one-too-large"),
        pytest.param(Rejected("422"), 2, Decision(Verdict.SPLIT, "422"), id="rejected"),
        pytest.param(Rejected("422"), 1, Decision(Verdict.PARK, "422"), id="one-rejected"),
        pytest.param(TransportError("odd"), 5, Decision(Verdict.RETRY, "odd"), id="unnamed-transport-error"),
        pytest.param(TimeoutError(), 5, Decision(Verdict.RETRY, "TimeoutError"), id="our-own-deadline"),
        pytest.param(KeyError("x"), 5, Decision(Verdict.RETRY, "KeyError: 'x'", defect=True), id="defect"),
    ],
)
def test_delivery_policy_decides_by_the_error(exc: Exception, size: int, expected: Decision) -> None:
    """Every kind of failure has one meaning for the batch; an unknown one never costs an event."""
    assert decide(exc, size) == expected


def test_delivery_policy_reasons_carry_no_password() -> None:
    """Neither the reason nor the traceback of a failure shows what was in a URL."""
    with pytest.raises(OSError, match="cannot reach") as caught:
        raise OSError("cannot reach https://me:s3cr3t-word@vms.example/events")
    assert "s3cr3t-word" not in decide(caught.value, 1).reason
    assert "vms.example" in decide(caught.value, 1).reason
    assert "s3cr3t-word" not in explain_defect(caught.value)


def test_batch_size_halves_and_comes_back_slowly() -> None:
    """A receiver with a small limit is not asked in vain each time, and a passing limit does not last for ever."""
    size = BatchSize(100)
    size.split(100)
    size.split(50)
    assert size.now == 25
    for _ in range(7):
        size.delivered()
    assert size.now == 25
    size.delivered()
    assert size.now == 50
    for _ in range(30):
        size.delivered()
    assert size.now == 100
    size.split(1)
    assert size.now == 1
    size.reset()
    assert size.now == 100
