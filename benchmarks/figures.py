"""Figures: measured in pairs with their floor, reduced to medians, and held against a target."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, Literal, TypeVar

T = TypeVar("T")
U = TypeVar("U")


@dataclass(frozen=True, slots=True)
class Target:
    """What a figure should be: ``limit``, and whether it is the most or the least."""

    limit: float
    kind: Literal["at most", "at least"] = "at most"

    def met(self, value: float) -> bool:
        """Return whether ``value`` is good enough."""
        return value <= self.limit if self.kind == "at most" else value >= self.limit

    def __str__(self) -> str:
        return f"{'≤' if self.kind == 'at most' else '≥'} {self.limit:g}"


@dataclass(frozen=True, slots=True)
class Figure:
    """One line of a table.

    values: one for each run. floor: what the same run's floor (or rival) was, run by run, when there is one; the
    target then is for the ratio, else for the value.
    """

    name: str
    unit: str
    values: tuple[float, ...]
    floor: tuple[float, ...] | None = None
    target: Target | None = None

    def __post_init__(self) -> None:
        if not self.values:
            raise ValueError(f"{self.name} has no values")
        if self.floor is not None and len(self.floor) != len(self.values):
            raise ValueError(f"{self.name} has {len(self.values)} values but {len(self.floor)} floors")

    @property
    def ratios(self) -> tuple[float, ...] | None:
        """Value by floor, pair by pair: what slows both down cancels out."""
        if self.floor is None:
            return None
        return tuple(value / floor for value, floor in zip(self.values, self.floor, strict=True))

    @property
    def judged(self) -> float:
        """The number that the target is for: the median of the ratios, or of the values."""
        return median(self.ratios or self.values)

    @property
    def met(self) -> bool | None:
        """Whether the target is met; None without one."""
        return self.target.met(self.judged) if self.target else None

    def to_json(self) -> dict[str, Any]:
        """Return everything, reduced and raw."""
        data: dict[str, Any] = {"name": self.name, "unit": self.unit, "value": spread(self.values)}
        if self.floor is not None and self.ratios is not None:
            data |= {"floor": spread(self.floor), "ratio": spread(self.ratios)}
        if self.target is not None:
            data |= {"target": str(self.target), "met": self.met}
        return data


def spread(values: Sequence[float]) -> dict[str, Any]:
    """Return median, least, most and all the values."""
    return {
        "median": round(median(values), 4),
        "min": round(min(values), 4),
        "max": round(max(values), 4),
        "runs": [round(value, 4) for value in values],
    }


def paired(first: Callable[[], T], second: Callable[[], U], pairs: int) -> tuple[list[T], list[U]]:
    """Run A B A B …; so that a machine that grows slower grows slower for both."""
    a: list[T] = []
    b: list[U] = []
    for _ in range(pairs):
        a.append(first())
        b.append(second())
    return a, b


def quantile(values: Sequence[float], share: float) -> float:
    """Return the value below which ``share`` of all values are; 0 without values."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0
