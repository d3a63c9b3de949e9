"""From the cost of a stream to the number that fits."""

from __future__ import annotations

from typing import Any

import pytest

from sentinel_pipeline.bench.capacity import Usage, Workload, estimate, shortfall
from sentinel_pipeline.interface.cli.bench_view import bench_text

GIB = 2**30
WANTED = Workload((1920, 1080), 25.0, 5.0, "nanodet-g-416", publish=True)


def test_capacity_counts_the_fixed_cost_once() -> None:
    """Ten per cent of a core for the program and twenty per stream leave room for eight on two cores."""
    answer = estimate(Usage(1, 0.3, 200, ""), Usage(2, 0.5, 300, ""), cores=2, memory=100 * GIB)
    assert (answer.streams, answer.limit) == (8, "cpu")
    assert answer.cores_per_stream == pytest.approx(0.2)
    assert answer.bytes_per_stream == pytest.approx(100)


def test_capacity_may_be_limited_by_memory() -> None:
    """A stream of a gigabyte runs out of memory before it runs out of cores."""
    answer = estimate(Usage(1, 0.01, GIB, ""), Usage(2, 0.02, 2 * GIB, ""), cores=64, memory=10 * GIB)
    assert (answer.streams, answer.limit) == (8, "memory")


def test_capacity_of_a_machine_that_is_too_small() -> None:
    """A stream that does not fit gives none, never a negative number."""
    assert estimate(Usage(1, 5.0, 1, ""), Usage(2, 10.0, 2, ""), cores=2, memory=GIB).streams == 0


def report(**stream: Any) -> dict[str, Any]:
    counts = {"frames_decoded": 0, "frames_analysed": 0, "frames_published": 0}
    return {"streams": {"camera0": {"state": "RUNNING", "reason": "", **counts, **stream}}}


@pytest.mark.parametrize(
    ("after", "said"),
    [
        pytest.param({"frames_decoded": 250, "frames_analysed": 50, "frames_published": 250}, "", id="all"),
        pytest.param(
            {"frames_decoded": 240, "frames_analysed": 48, "frames_published": 240}, "", id="within-5-per-cent"
        ),
        pytest.param(
            {"frames_decoded": 250, "frames_analysed": 30, "frames_published": 250},
            "camera0 reached 3.0 of 5 analysed frames per second",
            id="analysis",
        ),
        pytest.param(
            {"frames_decoded": 250, "frames_analysed": 50, "frames_published": 100},
            "camera0 reached 10.0 of 25 published frames per second",
            id="publishing",
        ),
        pytest.param({"state": "RECONNECTING", "reason": "gone"}, "camera0 is RECONNECTING: gone", id="state"),
    ],
)
def test_capacity_names_what_a_stream_lacked(after: dict[str, Any], said: str) -> None:
    """A trial passes when each stream got its rates, and otherwise says which one it did not get."""
    assert shortfall(report(), report(**after), 10.0, WANTED) == said


def result(**more: Any) -> dict[str, Any]:
    return {
        "machine": {"cores": 2, "memory_bytes": 24 * GIB, "load": 0.1},
        "workload": {"size": [1920, 1080], "fps": 25.0, "analyse_fps": 5.0, "model": "m", "publish": True},
        "floors": {"cores_per_stream": 0.3},
        "estimate": {"streams": 4, "limit": "cpu", "cores_per_stream": 0.33, "bytes_per_stream": 40 * 2**20},
        "trials": [{"shortfall": "camera0 reached 3.0 of 5 analysed frames per second"}],
        **more,
    }


@pytest.mark.parametrize(
    ("more", "said"),
    [({}, "tried: no"), ({"verified": 4}, "4 cameras got every frame"), ({"verified": 0}, "reached 3.0 of 5 analysed")],
)
def test_capacity_is_told_in_words(more: dict[str, Any], said: str) -> None:
    """The text has the answer, what runs out first, the ratio to the floor, and whether it was tried."""
    text = bench_text(result(**more))
    assert "carries 4 cameras; processor time runs out first" in text
    assert "(x 1.10)" in text
    assert said in text
