"""What is hidden in a picture, from the looks before and after it."""

from __future__ import annotations

import pytest

from sentinel_pipeline.domain.privacy import Looks, around

SIZE = (1000, 500)
LEFT, RIGHT = (100.0, 100.0, 140.0, 140.0), (300.0, 100.0, 340.0, 140.0)


def _looks(*seen: tuple[float, dict[int, tuple[float, float, float, float]]]) -> Looks:
    looks = Looks(longest=0.31, kept=2.0)
    for pts, boxes in seen:
        looks.add(pts, SIZE, boxes)
    return looks


def test_privacy_hides_the_way_between_two_looks() -> None:
    """Somebody who walks from one side to the other is hidden on the whole way, with a margin."""
    assert _looks((1.0, {1: LEFT}), (1.2, {1: RIGHT})).regions(1.1, SIZE) == ((90.0, 90.0, 350.0, 150.0),)


@pytest.mark.parametrize("direction", [1.0, -1.0], ids=["to the right", "to the left"])
@pytest.mark.parametrize("seen_in", ["both looks, as another", "the first look", "the second look"])
def test_privacy_hides_who_runs(seen_in: str, direction: float) -> None:
    """A face that gets on by 19 of its widths a second is covered all the way, also where nobody knows it again."""

    def box(pts: float) -> tuple[float, float, float, float]:
        x = 480.0 + direction * 19 * 40 * (pts - 1.1)
        return (x, 100.0, x + 40.0, 140.0)

    before = {} if seen_in == "the second look" else {1: box(1.0)}
    after = {} if seen_in == "the first look" else {2: box(1.2)}
    looks = _looks((1.0, before), (1.2, after))
    for pts in (1.0, 1.04, 1.08, 1.12, 1.16, 1.2):
        if (pts == 1.0 and not before) or (pts == 1.2 and not after):
            continue  # that is where it was looked for and not seen
        x1, _, x2, _ = box(pts)
        regions = looks.regions(pts, SIZE)
        assert regions is not None
        assert any(left <= x1 and x2 <= right for left, _, right, _ in regions), (pts, regions)


def test_privacy_hides_nothing_where_nobody_was_seen() -> None:
    """Two looks at an empty scene leave the picture as it is."""
    assert _looks((1.0, {}), (1.2, {})).regions(1.1, SIZE) == ()


@pytest.mark.parametrize(
    ("pts", "size"),
    [(0.9, SIZE), (1.3, SIZE), (1.1, (640, 480)), (1.4, SIZE)],
    ids=["before the first look", "after the last look", "a picture of another size", "too long between two looks"],
)
def test_privacy_knows_when_it_does_not_know(pts: float, size: tuple[int, int]) -> None:
    """A picture that does not lie between two looks at such pictures, close together, is unknown."""
    looks = _looks((1.0, {}), (1.2, {}))
    if pts == 1.4:
        looks.add(1.6, SIZE, {})  # the look between them has failed
    assert looks.regions(pts, size) is None


def test_privacy_knows_a_picture_that_was_looked_at() -> None:
    """A picture that is itself a look is known, also when it is the only one."""
    assert _looks((1.0, {7: LEFT})).regions(1.0, SIZE) == ((90.0, 90.0, 150.0, 150.0),)


def test_privacy_forgets_old_looks() -> None:
    """Looks older than what is kept are gone, so that they take no memory; newer ones stay."""
    looks = _looks(*((float(i) / 10, {1: LEFT}) for i in range(100)))
    assert looks.regions(7.0, SIZE) is None
    assert looks.regions(8.55, SIZE) is not None


def test_privacy_hides_where_somebody_was_last_and_may_be_now() -> None:
    """The box around several covers each of them."""
    assert around((0.0, 5.0, 2.0, 8.0), (1.0, 4.0, 3.0, 6.0)) == (0.0, 4.0, 3.0, 8.0)
