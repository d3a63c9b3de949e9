"""Did you mean …?"""

from __future__ import annotations

import pytest

from sentinel_pipeline.interface.config.suggestions import closest, did_you_mean, listing


@pytest.mark.parametrize(
    ("wrong", "known", "expected"),
    [
        ("sourcex", ["source", "decode"], "source"),
        ("PERSON", ["person", "car"], "person"),
        ("xyz", ["source", "decode"], None),
        ("", ["source"], None),
        ("a", [], None),
    ],
)
def test_config_closest_name(wrong: str, known: list[str], expected: str | None) -> None:
    """The most similar known name is found in any case, and none when nothing is similar."""
    assert closest(wrong, known) == expected


@pytest.mark.parametrize(
    ("known", "text"),
    [
        ([], "none"),
        (["a"], "a"),
        (["a", "b"], "a or b"),
        (["a", "b", "c"], "a, b or c"),
        ([str(n) for n in range(80)], "0, 1, 2, 3, 4, 5, 6, 7 … (80 in all)"),
    ],
)
def test_config_listing(known: list[str], text: str) -> None:
    """Lists read as a person would write them and stay short."""
    assert listing(known) == text


def test_config_hidden_values_get_the_list() -> None:
    """A value that must not be looked at gets all possibilities instead of the nearest."""
    assert did_you_mean("hhtp", ["http", "websocket"]) == "did you mean http?"
    assert did_you_mean(None, ["http", "websocket"]) == "write http or websocket"
