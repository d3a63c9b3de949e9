"""What every inference runtime offers, and how long its inferences take."""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from numpy.typing import NDArray

from sentinel_pipeline.application.stream.meters import Quantiles
from sentinel_pipeline.domain.errors import ModelError

TensorType = NDArray[Any]


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """One input or output of a model. ``shape``: None where the size is free; empty when nothing is known about it."""

    name: str
    shape: tuple[int | None, ...] = ()
    dtype: str = "float32"


@dataclass(frozen=True, slots=True)
class InferenceStats:
    """How a runtime has been doing.

    count: calls of ``infer``; rows: pictures in them; batch_mean: pictures per call.
    mean_ms is over all calls, the percentiles over the last thousand.
    """

    count: int
    rows: int
    mean_ms: float
    p50_ms: float
    p95_ms: float
    p99_ms: float
    batch_mean: float


class InferenceRuntime(ABC):
    """Loads one model file and runs it (infrastructure layer, section InferenceRuntime).

    ``infer`` may be called from several threads; ``load_model`` and ``close`` only while nobody is inside ``infer``.
    """

    def __init__(self) -> None:
        self._inference_count = 0
        self._total_latency_ms = 0.0
        self._total_rows = 0
        self._latencies = Quantiles()
        self._stats_lock = threading.Lock()
        self._provider = ""
        self._inputs: tuple[TensorInfo, ...] = ()
        self._outputs: tuple[TensorInfo, ...] = ()

    @abstractmethod
    def load_model(self, model_path: str | Path) -> None:
        """Load a model file. Raises ``ModelError`` when it is no usable model or the device cannot be had."""

    @abstractmethod
    def infer(self, inputs: dict[str, TensorType]) -> dict[str, TensorType]:
        """Run the model on arrays by input name and return its outputs by name, in the model's order.

        Raises ``ModelError`` when the inputs do not fit or the model fails.
        """

    @abstractmethod
    def close(self) -> None:
        """Let go of the model; may be called more than once."""

    @property
    def provider(self) -> str:
        """What runs the model, such as ``CPUExecutionProvider`` or ``cuda``; empty before loading."""
        return self._provider

    @property
    def inputs(self) -> tuple[TensorInfo, ...]:
        """The model's inputs, in order."""
        return self._inputs

    @property
    def outputs(self) -> tuple[TensorInfo, ...]:
        """The model's outputs, in order; empty when the format does not say (TorchScript)."""
        return self._outputs

    @property
    def placement(self) -> Mapping[str, int]:
        """How many graph nodes run on which provider; empty when the runtime does not tell."""
        return {}

    @property
    def metadata(self) -> Mapping[str, str]:
        """Texts that the exporter left in the file, such as ``names``; empty when there are none."""
        return {}

    @property
    def stats(self) -> InferenceStats:
        """How inferences have been doing; safe from any thread."""
        with self._stats_lock:
            count, rows, total_ms = self._inference_count, self._total_rows, self._total_latency_ms
        mean_ms, batch_mean = (total_ms / count, rows / count) if count else (0.0, 0.0)
        spread = self._latencies.snapshot()
        return InferenceStats(
            count, rows, round(mean_ms, 3), spread["p50"], spread["p95"], spread["p99"], round(batch_mean, 2)
        )

    def reset_stats(self) -> None:
        """Count from zero again, such as after warming up."""
        with self._stats_lock:
            self._inference_count, self._total_rows, self._total_latency_ms = 0, 0, 0.0
            self._latencies = Quantiles()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextmanager
    def _timed(self, inputs: Mapping[str, TensorType]) -> Iterator[None]:
        """Count what runs inside as one inference, unless it raises."""
        first = next(iter(inputs.values()))
        started = time.perf_counter()
        yield
        latency_ms = (time.perf_counter() - started) * 1000
        with self._stats_lock:
            self._inference_count += 1
            self._total_latency_ms += latency_ms
            self._total_rows += len(first) if first.ndim else 1
        self._latencies.add(latency_ms)

    def _check_inputs(self, inputs: Mapping[str, TensorType]) -> None:
        wanted = {info.name for info in self._inputs}
        if set(inputs) != wanted:
            raise ModelError(f"the model takes the inputs {sorted(wanted)}, not {sorted(inputs)}")
