"""The ``models`` section."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator

from sentinel_pipeline.domain.builtin_models import BUILTIN_MODELS
from sentinel_pipeline.interface.config.fields import (
    DURATION,
    WHOLE,
    InputSize,
    Labels,
    Quantity,
    Sha256,
    fault,
)
from sentinel_pipeline.interface.config.section import Section, optional
from sentinel_pipeline.interface.config.suggestions import closest, listing

MODEL_FILES = (".onnx", ".pt", ".pth", ".torchscript", ".ts", ".pt2")


def _builtin(value: str) -> str:
    if value not in BUILTIN_MODELS:
        near = closest(value, BUILTIN_MODELS)
        raise fault(
            "{value} is not a built-in model", f"did you mean {near}?" if near else f"write {listing(BUILTIN_MODELS)}"
        )
    return value


def _model_file(value: str) -> str:
    if not value.lower().endswith(MODEL_FILES):
        raise fault("{value} is not the name of a model file", f"end it in {listing(MODEL_FILES)}")
    return value


class BatchSection(Section):
    """How pictures of several streams are put together for one inference."""

    max_size: Annotated[int | None, Quantity(WHOLE, 1, 256, optional=True)] = optional(
        None,
        "Most pictures in one inference; null: 8 on a GPU, 1 on a processor, where batches only add latency."
        " A model file with a fixed batch overrides it.",
    )
    max_wait: Annotated[float, Quantity(DURATION, 0, "1s")] = optional(
        "5ms", "How long an incomplete batch waits for more pictures. It adds to the latency of every frame."
    )


class ModelSection(Section):
    """One model, loaded once and shared by all streams that name it."""

    builtin: Annotated[str, AfterValidator(_builtin)] | None = optional(
        None,
        f"Name of a model that comes with the program: {listing(BUILTIN_MODELS)}. Either this or `path`.",
        example="nanodet-g-416",
    )
    path: Annotated[str, AfterValidator(_model_file)] | None = optional(
        None,
        "Model file: .onnx, TorchScript (.pt, .pth, .torchscript, .ts) or .pt2; relative to the configuration file."
        " TorchScript and .pt2 files can run code: take them only from people you trust, and pin them with `sha256`.",
        example="models/mine.onnx",
    )
    family: Literal["yolov8", "yolox", "detr", "centerface", "classifier", "raw"] | None = optional(
        None, "How to read the outputs. Without it: the built-in model's own, or yolov8 for a file."
    )
    labels: Labels | None = optional(
        None,
        "Names of the classes in the model's order: coco, a file with one name a line, or a list."
        " Without it: the built-in model's own, or what the model file says.",
    )
    device: Literal["auto", "cuda", "tensorrt", "openvino", "cpu"] = optional(
        "auto", "Where to run. auto takes the best there is; any other value is demanded, and fails loudly."
    )
    tensorrt: bool = optional(
        written=False,
        description="Let device auto try TensorRT first. Building an engine takes minutes and GPU memory.",
    )
    batch: BatchSection = optional({}, "Batching across streams.")
    sha256: Sha256 | None = optional(None, "SHA-256 that the model file must have, 64 hexadecimal digits.")
    resize: Literal["letterbox", "stretch"] | None = optional(
        None, "How a picture is fitted into the model's input. Without it: as the family is trained."
    )
    input_size: InputSize | None = optional(
        None, "WIDTHxHEIGHT in pixels, for model files whose input size is not fixed."
    )
    threads: Annotated[int | None, Quantity(WHOLE, 1, 256, optional=True)] = optional(
        None, "CPU threads of one inference. Without it: few, so that decoding has room."
    )
    timeout: Annotated[float, Quantity(DURATION, "10ms", "60s")] = optional(
        "2s", "How long a frame waits for its result before it is skipped."
    )
