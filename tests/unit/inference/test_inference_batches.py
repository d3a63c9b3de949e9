"""Which batch sizes a model is run at."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sentinel_pipeline.infrastructure.inference.batches import BatchSizes, batch_limit
from sentinel_pipeline.infrastructure.inference.providers import CPU, CUDA, OPENVINO, TENSORRT


@pytest.mark.parametrize(
    ("asked", "fixed", "provider", "expected"),
    [
        pytest.param(None, None, CPU, 1, id="CPU"),
        pytest.param(None, None, "cpu", 1, id="PyTorch on the CPU"),
        pytest.param(None, None, OPENVINO, 1, id="OpenVINO computes on the CPU"),
        pytest.param(None, None, CUDA, 8, id="CUDA"),
        pytest.param(None, None, TENSORRT, 8, id="TensorRT"),
        pytest.param(None, None, "cuda", 8, id="PyTorch on a GPU"),
        pytest.param(None, 4, CPU, 4, id="the file's own: padding would cost as much"),
        pytest.param(16, None, CPU, 16, id="asked for"),
        pytest.param(16, 4, CUDA, 16, id="asked for, run in the file's size"),
    ],
)
def test_batch_limit_table(asked: int | None, fixed: int | None, provider: str, expected: int) -> None:
    """Batches are for GPUs, unless the operator or the model file says otherwise."""
    assert batch_limit(asked, fixed, provider) == expected


@pytest.mark.parametrize(
    ("fixed", "max_size", "dear", "warm_up"),
    [
        pytest.param(None, 8, False, (1,), id="CPU, any size"),
        pytest.param(None, 8, True, (1, 2, 4, 8), id="GPU"),
        pytest.param(None, 6, True, (1, 2, 4, 6), id="GPU, odd limit"),
        pytest.param(None, 1, True, (1,), id="GPU, no batching"),
        pytest.param(4, 8, True, (4,), id="fixed in the file"),
        pytest.param(1, 8, False, (1,), id="fixed at one"),
    ],
)
def test_warm_up_covers_the_sizes_that_will_be_seen(
    fixed: int | None, max_size: int, dear: bool, warm_up: tuple[int, ...]
) -> None:
    """A GPU meets every size it will run before serving; a CPU needs one run only."""
    assert BatchSizes(fixed, max_size, dear=dear).warm_up == warm_up


@given(st.one_of(st.none(), st.integers(1, 9)), st.integers(1, 16), st.booleans(), st.data())
def test_split_keeps_every_row_in_order(fixed: int | None, max_size: int, dear: bool, data: st.DataObject) -> None:
    """Whatever the model takes, all rows come out once and in order, padding only behind them, in warmed sizes."""
    n = data.draw(st.integers(1, max_size))
    sizes = BatchSizes(fixed, max_size, dear=dear)
    rows = np.arange(1, n + 1, dtype=np.float32).reshape(n, 1)
    parts = list(sizes.split(rows))
    joined = np.concatenate(parts)
    assert joined[:n].tolist() == rows.tolist()
    assert not joined[n:].any()
    if fixed is not None or dear:
        assert {len(part) for part in parts} <= set(sizes.warm_up)
    else:
        assert [len(part) for part in parts] == [n]
