"""What is hidden in a picture, from the looks before and after it."""

from __future__ import annotations

import pytest

from sentinel_pipeline.domain.privacy import Looks

SIZE = (1000, 500)
LEFT, RIGHT = (100.0, 100.0, 140.0, 140.0), (300.0, 100.0, 340.0, 140.0)


def _looks(*seen: tuple[float, dict[int, tuple[float, float, float, float]]]) -> Looks:
    looks = Looks(longest=0.6, kept=2.0)
    for pts, boxes in seen:
        looks.add(pts, SIZE, boxes)
    return looks


def test_privacy_hides_the_way_between_two_looks() -> None:
    """Somebody who walks from one side to the other is hidden on the whole way, with a margin."""
    assert _looks((1.0, {1: LEFT}), (1.2, {1: RIGHT})).regions(1.1, SIZE) == ((90.0, 90.0, 350.0, 150.0),)


@pytest.mark.parametrize(("before", "after"), [({}, {1: LEFT}), ({1: LEFT}, {})], ids=["appears", "leaves"])
def test_privacy_hides_who_is_in_one_look_only(before: dict, after: dict) -> None:
    """Who appears or leaves between two looks is hidden in all pictures between them."""
    assert _looks((1.0, before), (1.2, after)).regions(1.1, SIZE) == ((90.0, 90.0, 150.0, 150.0),)


def test_privacy_hides_nothing_where_nobody_was_seen() -> None:
    """Two looks at an empty scene leave the picture as it is."""
    assert _looks((1.0, {}), (1.2, {})).regions(1.1, SIZE) == ()


@pytest.mark.parametrize(
    ("pts", "size"),
    [(0.9, SIZE), (1.3, SIZE), (1.1, (640, 480)), (2.5, SIZE)],
    ids=["before the first look", "after the last look", "a picture of another size", "too long between two looks"],
)
def test_privacy_knows_when_it_does_not_know(pts: float, size: tuple[int, int]) -> None:
    """A picture that does not lie between two looks at such pictures, close together, is unknown."""
    looks = _looks((1.0, {}), (1.2, {}))
    if pts == 2.5:
        looks.add(3.0, SIZE, {})
    assert looks.regions(pts, size) is None


def test_privacy_knows_a_picture_that_was_looked_at() -> None:
    """A picture that is itself a look is known, also when it is the only one."""
    assert _looks((1.0, {7: LEFT})).regions(1.0, SIZE) == ((90.0, 90.0, 150.0, 150.0),)


def test_privacy_forgets_old_looks() -> None:
    """Looks older than what is kept are gone, so that they take no memory; newer ones stay."""
    looks = _looks(*((float(i) / 10, {1: LEFT}) for i in range(100)))
    assert looks.regions(7.0, SIZE) is None
    assert looks.regions(8.55, SIZE) is not None
