"""The way in: every runtime, and the choice between them by the file's suffix."""

from __future__ import annotations

from pathlib import Path

from sentinel_pipeline.domain.errors import ModelError
from sentinel_pipeline.infrastructure.inference.base import InferenceRuntime, InferenceStats, TensorInfo, TensorType
from sentinel_pipeline.infrastructure.inference.model_file import verify_sha256
from sentinel_pipeline.infrastructure.inference.onnx_runtime import ONNXRuntime
from sentinel_pipeline.infrastructure.inference.torch_runtime import PyTorchRuntime

__all__ = [
    "InferenceRuntime",
    "InferenceStats",
    "ONNXRuntime",
    "PyTorchRuntime",
    "TensorInfo",
    "TensorType",
    "create_runtime",
    "verify_sha256",
]

TORCH_SUFFIXES = (".pt", ".pth", ".pt2", ".torchscript", ".ts")


def create_runtime(
    path: str | Path,
    device: str = "auto",
    *,
    threads: int | None = None,
    tensorrt: bool = False,
    sha256: str | None = None,
    input_shape: tuple[int, int, int] | None = None,
    max_batch: int = 1,
) -> InferenceRuntime:
    """Return a runtime with the model at ``path`` loaded: ONNX Runtime for ``.onnx``, PyTorch for ``.pt`` and kin.

    sha256: digest that is checked before a library opens the file. input_shape (3, height, width) and max_batch prepare
    TensorRT engines. Raises ``ModelError``. The caller closes it.
    """
    suffix = Path(path).suffix.lower()
    if suffix != ".onnx" and suffix not in TORCH_SUFFIXES:
        raise ModelError(
            f"{path} has no suffix of a model file", remedy=f"use .onnx or one of {', '.join(TORCH_SUFFIXES)}"
        )
    if sha256:
        verify_sha256(path, sha256)
    runtime: InferenceRuntime
    if suffix == ".onnx":
        runtime = ONNXRuntime(
            device=device, num_threads=threads, tensorrt=tensorrt, input_shape=input_shape, max_batch=max_batch
        )
    else:
        runtime = PyTorchRuntime(device=device, num_threads=threads)
    runtime.load_model(path)
    return runtime
