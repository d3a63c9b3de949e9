"""Runs TorchScript archives and ``torch.export`` programs with PyTorch."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import structlog

from sentinel_pipeline.domain.errors import ModelError
from sentinel_pipeline.infrastructure.inference.base import InferenceRuntime, TensorInfo, TensorType
from sentinel_pipeline.infrastructure.inference.model_file import check_model_file, short_reason
from sentinel_pipeline.infrastructure.inference.providers import default_threads

log = structlog.get_logger(__name__)


class PyTorchRuntime(InferenceRuntime):
    """A TorchScript (``.pt``, ``.torchscript``) or ``torch.export`` (``.pt2``) model, frozen for inference.

    Both formats can run code from the file: load only what you trust, and pin it with ``sha256``.
    use_gpu: False keeps ``device: auto`` on the CPU. device: ``auto``, or ``cuda`` or ``cpu``, which is then demanded.
    num_threads: CPU threads of one inference, **for the whole process** (PyTorch has one setting); None takes half the
    cores, at most 4.
    """

    def __init__(self, use_gpu: bool = True, device: str = "auto", num_threads: int | None = None) -> None:
        super().__init__()
        self._use_gpu = use_gpu
        self._wanted = device
        self._num_threads = num_threads or default_threads(os.cpu_count() or 1)
        self._device: Any = None
        self._model: Any = None

    def load_model(self, model_path: str | Path) -> None:
        """Load and freeze the model. Raises ``ModelError``."""
        path = check_model_file(model_path)
        try:
            import torch
        except ImportError as exc:
            raise ModelError("PyTorch is not installed", remedy="pip install 'sentinel-pipeline[torch]'") from exc
        name = plan_device(self._wanted, cuda=torch.cuda.is_available(), use_gpu=self._use_gpu)
        self._device = torch.device(name)
        torch.set_num_threads(self._num_threads)
        load = _load_exported if path.suffix == ".pt2" else _load_torchscript
        with _quiet():
            self._model, self._inputs = load(torch, path, self._device)
        self._provider = name
        log.info("model loaded", file=path.name, provider=name)
        if load is _load_torchscript:
            log.warning("PyTorch has deprecated TorchScript", file=path.name, remedy="export to .pt2 or .onnx")

    def infer(self, inputs: dict[str, TensorType]) -> dict[str, TensorType]:
        """Run the model. Raises ``ModelError``. Outputs without names are called ``output0``, ``output1``, …"""
        if self._model is None:
            raise ModelError("no model is loaded", remedy="call load_model first")
        import torch

        self._check_inputs(inputs)
        try:
            with self._timed(inputs), torch.inference_mode():
                tensors = [torch.from_numpy(inputs[info.name]).to(self._device) for info in self._inputs]
                return _named(torch, self._model(*tensors))
        except ModelError:
            raise
        except Exception as exc:  # a TorchScript interpreter raises whatever the model's code raises
            raise ModelError(f"the inference failed: {short_reason(exc)}") from exc

    def close(self) -> None:
        """Free the model."""
        self._model = None


def plan_device(wanted: str, *, cuda: bool, use_gpu: bool = True) -> str:
    """Return ``cuda`` or ``cpu``. Raises ``ModelError`` when a demanded device cannot be had.

    ``cuda``: whether PyTorch can use it on this machine.
    """
    if wanted == "auto":
        return "cuda" if cuda and use_gpu else "cpu"
    if wanted not in ("cuda", "cpu"):
        raise ModelError(f"PyTorch models cannot run on {wanted}", remedy="use auto, cuda or cpu, or export to ONNX")
    if wanted == "cuda" and not cuda:
        raise ModelError(
            "device cuda was demanded but PyTorch cannot use it here",
            remedy="install a CUDA build of torch and an NVIDIA driver, or set device: auto",
        )
    return wanted


def _load_torchscript(torch: Any, path: Path, device: Any) -> tuple[Any, tuple[TensorInfo, ...]]:
    try:
        model = torch.jit.load(str(path), map_location=device)
        model.eval()
        inputs = tuple(TensorInfo(value.debugName()) for value in list(model.graph.inputs())[1:])  # after ``self``
        return torch.jit.freeze(model), inputs
    except Exception as exc:
        raise ModelError(
            f"{path} is not a usable TorchScript archive: {short_reason(exc)}",
            remedy="weights alone cannot be run: export with torch.jit.trace or torch.export, or to ONNX",
        ) from exc


def _load_exported(torch: Any, path: Path, device: Any) -> tuple[Any, tuple[TensorInfo, ...]]:
    try:
        program = torch.export.load(str(path))
        inputs = tuple(_exported_inputs(program))
        if device.type != "cpu":
            from torch.export.passes import move_to_device_pass

            program = move_to_device_pass(program, device)
        return program.module(), inputs
    except Exception as exc:
        raise ModelError(
            f"{path} is not a usable torch.export program: {short_reason(exc)}",
            remedy="export it again with torch.export.save, by the PyTorch version that you run",
        ) from exc


def _exported_inputs(program: Any) -> Iterator[TensorInfo]:
    wanted = set(program.graph_signature.user_inputs)
    for node in program.graph.nodes:
        if node.op == "placeholder" and node.name in wanted:
            value = node.meta["val"]
            shape = tuple(size if isinstance(size, int) else None for size in value.shape)
            yield TensorInfo(node.name, shape, str(value.dtype).removeprefix("torch."))


def _named(torch: Any, result: Any) -> dict[str, TensorType]:
    """Return a model's result as arrays by name."""
    if isinstance(result, torch.Tensor):
        result = [result]
    items = result.items() if isinstance(result, Mapping) else ((f"output{i}", part) for i, part in enumerate(result))
    named = dict(items)
    if not all(isinstance(part, torch.Tensor) for part in named.values()):
        raise ModelError("the model returns something else than tensors", remedy="return a tensor, a tuple or a dict")
    return {str(name): part.cpu().numpy() for name, part in named.items()}


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep PyTorch's deprecation notes and its logged tracebacks out of the output; errors still come as exceptions."""
    logger = logging.getLogger("torch.export")
    package = logging.getLogger("torch.export.pt2_archive._package")
    levels = (logger.level, package.level)
    logger.setLevel(logging.CRITICAL)
    package.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(levels[0])
        package.setLevel(levels[1])
