"""A model as the pipeline sees it: picture in, boxes in source pixels out, shared by all streams."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from sentinel_pipeline.application.event.outages import Condition, Doing
from sentinel_pipeline.application.pipeline.batching import Dispatcher, DispatcherState
from sentinel_pipeline.domain.builtin_models import BUILTIN_MODELS
from sentinel_pipeline.domain.detections import Detections
from sentinel_pipeline.domain.errors import ConfigError, ModelError
from sentinel_pipeline.domain.frame import LETTERBOX_GREY, Frame
from sentinel_pipeline.domain.geometry import Fit, Floats
from sentinel_pipeline.domain.models import ModelSpec
from sentinel_pipeline.infrastructure.inference.base import InferenceRuntime, TensorInfo, TensorType
from sentinel_pipeline.infrastructure.inference.batches import GPU_BATCH, BatchSizes, batch_limit
from sentinel_pipeline.infrastructure.inference.builtin import find_builtin
from sentinel_pipeline.infrastructure.inference.families import (
    FAMILIES,
    Family,
    find_family,
    read_outputs,
    to_tensor,
)
from sentinel_pipeline.infrastructure.inference.labels import labels_in_metadata, read_labels
from sentinel_pipeline.infrastructure.inference.providers import on_cpu
from sentinel_pipeline.infrastructure.inference.runtime import create_runtime


@dataclass(frozen=True, slots=True)
class DetectorSettings:
    """How a detector feeds its model.

    input_size: (width, height). letterbox: keep the aspect ratio. max_wait, timeout: see ``Dispatcher``.
    max_size: rows per batch; None takes what suits the device.
    """

    input_size: tuple[int, int]
    letterbox: bool
    max_size: int | None = None
    max_wait: float = 0.005
    timeout: float = 2.0


class ModelDetector:
    """Implements the port ``Detector`` with a loaded runtime, which it owns from now on.

    Scaling and reading the outputs happen in the caller's thread, only the model runs in the dispatcher's. Call
    ``start`` once (``open_detector`` does); ``detect`` and ``snapshot`` are safe from any thread.
    """

    def __init__(
        self, name: str, runtime: InferenceRuntime, family: Family, labels: tuple[str, ...], settings: DetectorSettings
    ) -> None:
        self._name = name
        self._runtime = runtime
        self._family = family
        self._labels = labels
        self._settings = settings
        self._input = _picture_input(runtime)
        fixed = self._input.shape[0] if self._input.shape else None
        self._max_size = batch_limit(settings.max_size, fixed, runtime.provider)
        self._sizes = BatchSizes(fixed, self._max_size, dear=not on_cpu(runtime.provider))
        self._bad_output = ""
        self._answered = 0
        self._fault, self._fault_at = "", 0  # the last one that ``condition`` has seen, and the answers before it
        self._dispatcher = Dispatcher(
            name, self._run, max_size=self._max_size, max_wait=settings.max_wait, timeout=settings.timeout
        )

    @property
    def labels(self) -> tuple[str, ...]:
        """Class names; ``Detections.class_id`` is an index into them."""
        return self._labels

    def start(self) -> None:
        """Run the model once per batch size that it will see, compare its classes with the labels, and begin to serve.

        Raises ``ModelError`` when the model does not fit its family, its input size or its labels.
        """
        width, height = self._settings.input_size
        for size in self._sizes.warm_up:
            grey = np.full((size, 3, height, width), LETTERBOX_GREY * self._family.pixel_scale, np.float32)
            outputs = self._run(grey)
        self._runtime.reset_stats()  # first runs are slow and are nobody's work
        row = [output[0] if output.ndim else output for output in outputs.values()]
        classes = self._family.classes(row, len(self._labels))
        if classes != len(self._labels):
            raise ModelError(
                f"model {self._name} has {classes} classes but {len(self._labels)} labels are given",
                remedy="give one label per class, in the model's order, and the family that fits",
            )
        self._dispatcher.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self, timeout: float = 2.0) -> bool:
        """Stop serving and free the model. May be called more than once.

        Returns False when the model is stuck in an inference: its thread and memory stay until the process ends.
        """
        ended = self._dispatcher.close(timeout)
        if ended:
            self._runtime.close()
        return ended

    def detect(
        self, frame: Frame, *, confidence: float, iou: float, expires_at: float | None = None
    ) -> tuple[Detections, dict[str, float]]:
        """Return the boxes in source pixels, best first, and milliseconds spent.

        Milliseconds of ``prep`` (scaling), ``wait`` (queued), ``infer`` (the batch) and ``post`` (reading the outputs).
        expires_at: monotonic seconds after which looking at the picture is no use any more. Raises ``ModelBusy`` when
        its turn has not come by then, ``ModelTimeout`` when the model did not answer in time, else ``ModelError``.
        """
        started = time.perf_counter()
        tensor, fit = self._prepare(frame)
        del frame  # megabytes, which the queue and the model need no more
        prepared = time.perf_counter()
        row = self._dispatcher.submit(tensor, expires_at=expires_at)
        answered = time.perf_counter()
        detections = self._read(list(row.outputs.values()), fit, confidence, iou)
        spent = {
            "prep": (prepared - started) * 1000,
            "wait": row.wait_ms,
            "infer": row.infer_ms,
            "post": (time.perf_counter() - answered) * 1000,
        }
        return detections, {step: round(ms, 3) for step, ms in spent.items()}

    def snapshot(self) -> dict[str, Any]:
        """Return how the model is doing, for the report and the API.

        ``state`` and ``reason`` (see ``DispatcherState``), ``provider``, ``placement`` (graph nodes per provider),
        ``inferences`` (pictures), ``latency_ms`` per call of the runtime (``mean``, ``p50``, ``p95``, ``p99``),
        ``batch_max``, ``batch_mean``, ``wait_ms`` (``p95``) and ``expired`` (pictures that grew too old in the queue).
        """
        stats, served = self._runtime.stats, self._dispatcher.snapshot()
        state, reason = self._state(served)
        return {
            "state": state,
            "reason": reason,
            "provider": self._runtime.provider,
            "placement": dict(self._runtime.placement),
            "inferences": served.rows,
            "latency_ms": {"mean": stats.mean_ms, "p50": stats.p50_ms, "p95": stats.p95_ms, "p99": stats.p99_ms},
            "batch_max": self._max_size,
            "batch_mean": served.batch_mean,
            "wait_ms": {"p95": served.wait_p95_ms},
            "expired": served.expired,
        }

    def condition(self) -> Condition:
        """Return how the model is doing, for whoever tells of outages; ``done`` are pictures. For one thread.

        A fault counts until the model has answered, also when those whom it concerned do not ask any more.
        """
        answered = self._answered  # before the state: an answer in between may be older than a fault
        state, reason = self._state(self._dispatcher.snapshot())
        if state in ("failing", "stalled"):
            self._fault, self._fault_at = reason, answered
        elif answered != self._fault_at:
            self._fault = ""
        if state == "closed" or not (answered or self._fault):
            return Condition(Doing.NOTHING, reason, answered)
        return Condition(Doing.FAILING if self._fault else Doing.WELL, self._fault, answered)

    def _state(self, served: DispatcherState) -> tuple[str, str]:
        bad = self._bad_output
        return ("failing", bad) if served.state == "ready" and bad else (served.state, served.reason)

    def _prepare(self, frame: Frame) -> tuple[Floats, Fit]:
        (width, height), letterbox = self._settings.input_size, self._settings.letterbox
        fit = Fit.letterbox(frame.size, (width, height)) if letterbox else Fit.stretch(frame.size, (width, height))
        return to_tensor(frame.rgb_at(width, height, letterbox), self._family.pixel_scale), fit

    def _read(self, outputs: list[NDArray[Any]], fit: Fit, confidence: float, iou: float) -> Detections:
        try:
            found = read_outputs(self._family, outputs, fit, classes=len(self._labels), confidence=confidence, iou=iou)
        except ModelError as exc:
            self._bad_output = str(exc)
            raise
        self._bad_output = ""
        self._answered += 1  # may miss one when two threads come together; it is only asked whether it grows
        return found

    def _run(self, batch: TensorType) -> dict[str, TensorType]:
        """Run (n, 3, H, W) in the sizes that the model takes."""
        parts = [self._infer(part) for part in self._sizes.split(batch.astype(self._input.dtype, copy=False))]
        if len(parts) == 1:
            return {name: output[: len(batch)] for name, output in parts[0].items()}
        return {name: np.concatenate([part[name] for part in parts])[: len(batch)] for name in parts[0]}

    def _infer(self, batch: TensorType) -> dict[str, TensorType]:
        return self._runtime.infer({self._input.name: batch})


def open_detector(spec: ModelSpec) -> ModelDetector:
    """Load what ``spec`` names and return a detector that serves. The caller closes it.

    Raises ``ConfigError`` when the specification does not name a usable combination, ``ModelError`` when the file, the
    device, the labels or the input size do not fit.
    """
    builtin = find_builtin(spec.builtin) if spec.builtin is not None else None
    if (spec.path is None) == (builtin is None):
        raise ConfigError(f"model {spec.id} needs either a path or a built-in name", remedy="set path: or builtin:")
    family = find_family(_family_name(spec))
    guess = spec.input_size or (builtin.input_size if builtin else family.input_size)
    runtime = create_runtime(
        builtin.path if builtin else str(spec.path),
        spec.device,
        threads=spec.threads,
        tensorrt=spec.tensorrt,
        sha256=spec.sha256 or (builtin.sha256 if builtin else None),
        input_shape=(3, guess[1], guess[0]),
        max_batch=spec.max_size or GPU_BATCH,
    )
    try:
        resize = spec.resize or (builtin.resize if builtin else family.resize)
        settings = DetectorSettings(
            choose_input_size(_picture_input(runtime).shape, spec.input_size, guess, family.multiple),
            resize == "letterbox",
            spec.max_size,
            spec.max_wait,
            spec.timeout,
        )
        detector = ModelDetector(spec.id, runtime, family, _labels(spec, runtime, family), settings)
        detector.start()
    except BaseException:
        runtime.close()
        raise
    return detector


def choose_input_size(
    shape: tuple[int | None, ...], asked: tuple[int, int] | None, default: tuple[int, int], multiple: int
) -> tuple[int, int]:
    """Return (width, height) for a model whose input is ``shape`` (n, 3, height, width), empty when unknown.

    The file decides where it fixes a size. Raises ``ModelError`` when another was asked for, or when a free size is no
    multiple of ``multiple``.
    """
    height, width = shape[2:] if shape else (None, None)
    wanted = asked or default
    size = (width or wanted[0], height or wanted[1])
    if asked is not None and size != asked:
        raise ModelError(
            f"the model's input is {size[0]}x{size[1]}, not {asked[0]}x{asked[1]}", remedy="leave out input_size"
        )
    if (width is None or height is None) and (size[0] % multiple or size[1] % multiple):
        raise ModelError(
            f"input size {size[0]}x{size[1]} is not a multiple of {multiple}",
            remedy=f"use {round_up(size[0], multiple)}x{round_up(size[1], multiple)}",
        )
    return size


def round_up(value: int, multiple: int) -> int:
    """Return the least multiple of ``multiple`` that is not below ``value``."""
    return -(-value // multiple) * multiple


def _picture_input(runtime: InferenceRuntime) -> TensorInfo:
    """Return the model's only input, checked to be a batch of RGB pictures."""
    if len(runtime.inputs) != 1:
        raise ModelError(
            f"the model has {len(runtime.inputs)} inputs, not one", remedy="export it with one picture input"
        )
    info = runtime.inputs[0]
    if info.dtype not in ("float32", "float16"):
        raise ModelError(f"the model's input is {info.dtype}, not float32 or float16", remedy="export it for floats")
    if info.shape and (len(info.shape) != 4 or info.shape[1] not in (3, None)):
        raise ModelError(
            f"the model's input is {_shape_text(info.shape)}, not batch x 3 x height x width",
            remedy="export it for RGB pictures, channels first",
        )
    return info


def _shape_text(shape: tuple[int | None, ...]) -> str:
    return " x ".join("?" if size is None else str(size) for size in shape)


def _family_name(spec: ModelSpec) -> str:
    if spec.family is not None:
        return spec.family
    if spec.builtin is not None:
        return BUILTIN_MODELS[spec.builtin].family
    raise ConfigError(f"model {spec.id} has no family", remedy=f"set family: to one of {', '.join(FAMILIES)}")


def _labels(spec: ModelSpec, runtime: InferenceRuntime, family: Family) -> tuple[str, ...]:
    """Return the class names: the configuration's, the built-in model's, the file's or the family's own."""
    if spec.labels is not None:
        return read_labels(spec.labels)
    if spec.builtin is not None:
        return BUILTIN_MODELS[spec.builtin].labels
    labels = labels_in_metadata(runtime.metadata) or family.labels
    if labels is None:
        raise ConfigError(
            f"model {spec.id} has no labels and its file does not name its classes",
            remedy="set labels: to coco, a list of names, or a text file with one name a line",
        )
    return labels
