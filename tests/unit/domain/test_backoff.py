"""Waiting times between tries."""

from __future__ import annotations

from itertools import islice

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sentinel_pipeline.domain.backoff import Retry, backoff


def test_backoff_yields_the_documents_numbers() -> None:
    """Without jitter: 1, 2, 4, 8, 16, then the cap of 30 for ever."""
    assert list(islice(backoff(jitter=0), 7)) == [1, 2, 4, 8, 16, 30, 30]


@given(base=st.floats(0.01, 10), cap=st.floats(0.01, 60), jitter=st.floats(0, 1))
def test_backoff_jitter_only_shortens_and_never_exceeds_the_cap(base: float, cap: float, jitter: float) -> None:
    """Each wait lies between the share that jitter leaves and the plain number."""
    plain = list(islice(backoff(base, cap, jitter=0), 10))
    for wait, full in zip(islice(backoff(base, cap, jitter), 10), plain, strict=True):
        assert full * (1 - jitter) - 1e-9 <= wait <= full <= cap


def test_backoff_jitter_spreads_cameras() -> None:
    """A hundred cameras do not come back in step."""
    first = {round(next(backoff(jitter=0.2)), 4) for _ in range(100)}
    assert len(first) > 50


def test_retry_gives_up_after_max_retries() -> None:
    """Three failures in a row are waited for, the fourth is not."""
    retry = Retry(max_retries=3, jitter=0)
    assert [retry.failed(0) for _ in range(4)] == [1, 2, 4, None]


def test_retry_goes_on_for_ever_by_default() -> None:
    """A camera that is away for hours is tried every 30 s."""
    retry = Retry(jitter=0)
    assert [retry.failed(0) for _ in range(500)][-1] == 30


@pytest.mark.parametrize(("lived", "expected"), [(4.9, 4), (5.0, 1)], ids=["flapping", "healthy"])
def test_retry_starts_over_only_after_a_healthy_life(lived: float, expected: float) -> None:
    """A camera that connects and drops at once does not reset its back-off; one that was stable does."""
    retry = Retry(jitter=0, healthy_after=5.0)
    retry.failed(0)
    retry.failed(0)
    assert retry.failed(lived) == expected
    assert retry.attempts == (1 if expected == 1 else 3)
