"""Durations, sizes, bit rates and picture sizes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sentinel_pipeline.interface.config.units import (
    format_bitrate,
    format_duration,
    format_size,
    parse_bitrate,
    parse_duration,
    parse_picture,
    parse_size,
)


@pytest.mark.parametrize(
    ("parse", "text", "expected"),
    [
        (parse_duration, "500ms", 0.5),
        (parse_duration, "100ms", 0.1),
        (parse_duration, "5s", 5.0),
        (parse_duration, " 2 m ", 120.0),
        (parse_duration, "1h", 3600.0),
        (parse_duration, "7d", 604_800.0),
        (parse_duration, "1.5S", 1.5),
        (parse_duration, 3, 3.0),
        (parse_duration, 0.25, 0.25),
        (parse_duration, "5", 5.0),
        (parse_size, "512MiB", 512 * 2**20),
        (parse_size, "10MB", 10_000_000),
        (parse_size, "1.5 gib", 3 * 2**29),
        (parse_size, "4096", 4096),
        (parse_size, 4096, 4096),
        (parse_bitrate, "2M", 2_000_000),
        (parse_bitrate, "800k", 800_000),
        (parse_bitrate, "2.5M", 2_500_000),
        (parse_bitrate, 64_000, 64_000),
        (parse_picture, "1280x720", (1280, 720)),
        (parse_picture, " 640 X 480 ", (640, 480)),
    ],
)
def test_config_units_read_what_people_write(parse: Callable[[object], Any], text: object, expected: object) -> None:
    """Every documented way of writing a quantity gives the number it means, exactly."""
    assert parse(text) == expected


@pytest.mark.parametrize("parse", [parse_duration, parse_size, parse_bitrate, parse_picture])
@pytest.mark.parametrize(
    "value", ["", "-1s", "5 parsecs", "1e3", "\u0665s", "nan", "inf", None, True, [], {}, "9" * 400]
)
def test_config_units_refuse_anything_else(parse: Callable[[object], Any], value: object) -> None:
    """Nonsense is a ValueError that says what to write and never repeats the value."""
    with pytest.raises(ValueError, match=r"^write ") as caught:
        parse(value)
    assert not isinstance(value, str) or len(value) < 3 or value not in str(caught.value)


@given(st.integers(0, 10**12))
def test_config_durations_round_trip(milliseconds: int) -> None:
    """A duration that was written out parses back to itself."""
    seconds = milliseconds / 1000
    assert parse_duration(format_duration(seconds)) == pytest.approx(seconds, abs=1e-9)


@given(st.integers(0, 10**15))
def test_config_sizes_and_bitrates_round_trip(number: int) -> None:
    """Sizes and bit rates that were written out parse back to themselves, exactly."""
    assert parse_size(format_size(number)) == number
    assert parse_bitrate(format_bitrate(number)) == number


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0s"), (0.005, "5ms"), (0.5, "500ms"), (1.5, "1.5s"), (90, "90s"), (120, "2m"), (604_800, "7d")],
)
def test_config_durations_are_written_shortly(seconds: float, text: str) -> None:
    """Messages show a duration in the unit that a person would choose."""
    assert format_duration(seconds) == text
