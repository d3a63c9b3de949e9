"""How measurements become figures: ratios pair by pair, medians, targets."""

from __future__ import annotations

import pytest
from benchmarks.figures import Figure, Target, paired, quantile, spread


def test_figure_judges_the_median_of_the_ratios_pair_by_pair() -> None:
    """A pair that a busy machine slowed down on both sides does not move the ratio."""
    figure = Figure("x", "ms", (11.0, 33.0, 10.0), (10.0, 30.0, 10.0), Target(1.1))
    assert figure.ratios == pytest.approx((1.1, 1.1, 1.0))
    assert figure.judged == pytest.approx(1.1)
    assert Figure("x", "ms", (1.2, 1.2), (1.0, 1.0), Target(1.1)).met is False


def test_figure_without_a_floor_is_judged_by_its_own_median() -> None:
    """The target then is for the value itself; without a target nothing is judged."""
    assert Figure("x", "s", (0.5, 0.1, 0.3), None, Target(0.4)).met is True
    assert Figure("x", "s", (0.5,)).met is None
    assert Figure("x", "s", (0.5,)).ratios is None


@pytest.mark.parametrize(
    ("target", "value", "met"),
    [(Target(2), 2.0, True), (Target(2), 2.01, False), (Target(2, "at least"), 2.0, True),
     (Target(2, "at least"), 1.99, False)],
)  # fmt: skip
def test_target_includes_its_limit(target: Target, value: float, met: bool) -> None:
    """Exactly the limit is good enough, in both directions."""
    assert target.met(value) is met


def test_figure_refuses_values_that_do_not_belong_together() -> None:
    """A floor of another number of runs, or no run at all, is a mistake in the benchmark."""
    with pytest.raises(ValueError, match="2 values but 1 floors"):
        Figure("x", "ms", (1.0, 2.0), (1.0,))
    with pytest.raises(ValueError, match="no values"):
        Figure("x", "ms", ())


def test_paired_alternates() -> None:
    """The order is A B A B, never A A B B."""
    order: list[str] = []

    def note(name: str) -> str:
        order.append(name)
        return name

    first, second = paired(lambda: note("a"), lambda: note("b"), 3)
    assert order == ["a", "b", "a", "b", "a", "b"]
    assert (first, second) == (["a"] * 3, ["b"] * 3)


def test_json_form_has_every_run_and_the_verdict() -> None:
    """The file holds what a later comparison needs: each run, the medians, the target."""
    data = Figure("x", "ms", (2.0, 4.0, 3.0), (2.0, 2.0, 2.0), Target(1.1)).to_json()
    assert data["value"] == {"median": 3.0, "min": 2.0, "max": 4.0, "runs": [2.0, 4.0, 3.0]}
    assert data["ratio"]["median"] == 1.5
    assert (data["target"], data["met"]) == ("≤ 1.1", False)
    assert spread([1.0])["median"] == 1.0


def test_quantile_of_few_values() -> None:
    """The quantile is one of the values; of none it is 0."""
    assert quantile([], 0.95) == 0
    assert quantile([3.0, 1.0, 2.0], 0.5) == 2.0
    assert quantile([float(n) for n in range(100)], 0.95) == 95.0
