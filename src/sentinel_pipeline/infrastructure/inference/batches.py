"""Which batch sizes a model is run at."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from sentinel_pipeline.infrastructure.inference.base import TensorType
from sentinel_pipeline.infrastructure.inference.providers import on_cpu

GPU_BATCH = 8


def batch_limit(asked: int | None, fixed: int | None, provider: str) -> int:
    """Return the most pictures to put into one inference.

    What was asked for; else what the file fixes; else 1 on a CPU, where a batch costs as much time as its pictures one
    by one and makes the first of them wait for the last (benchmarks/inference.py), and ``GPU_BATCH`` elsewhere.
    """
    return asked or fixed or (1 if on_cpu(provider) else GPU_BATCH)


class BatchSizes:
    """Fits batches to a model.

    fixed: the model's own batch size, None when it takes any. max_size: most rows ever asked for.
    dear: a size seen for the first time is expensive (a GPU tunes its kernels for it), so batches are padded to powers
    of two; on a CPU padding would cost as much as the rows themselves, and any size will do.
    """

    def __init__(self, fixed: int | None, max_size: int, *, dear: bool) -> None:
        self._fixed = fixed
        self._steps = () if fixed is not None or not dear else _powers(max_size)

    @property
    def warm_up(self) -> tuple[int, ...]:
        """The sizes to run once before serving."""
        return self._steps or (self._fixed or 1,)

    def split(self, batch: TensorType) -> Iterator[TensorType]:
        """Yield the rows of ``batch`` in order, in arrays of a size that the model takes; the last may be padded."""
        size = self._fixed or next((step for step in self._steps if step >= len(batch)), len(batch))
        for start in range(0, len(batch), size):
            yield _padded(batch[start : start + size], size)


def _powers(max_size: int) -> tuple[int, ...]:
    """Return 1, 2, 4, … and ``max_size``."""
    return (*(1 << bit for bit in range(max_size.bit_length()) if 1 << bit < max_size), max_size)


def _padded(rows: TensorType, size: int) -> TensorType:
    if len(rows) == size:
        return rows
    return np.concatenate((rows, np.zeros((size - len(rows), *rows.shape[1:]), rows.dtype)))
