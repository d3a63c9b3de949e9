"""Runs an ONNX Runtime session whose inputs lie in buffers on the device (I/O binding)."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from sentinel_pipeline.infrastructure.inference.base import TensorType

_MAX_SHAPES = 16  # batch sizes are few powers of two; more shapes than this come from somebody else


class BoundSession:
    """A session with one set of input buffers per input shape, written over by each run instead of allocated anew.

    device: where the buffers lie, as ONNX Runtime calls it (``cuda``, ``cpu``). Safe to use from several threads, one
    run at a time.
    """

    def __init__(self, ort: Any, session: Any, device: str, device_id: int = 0) -> None:
        self._ort, self._session = ort, session
        self._device, self._device_id = device, device_id
        self._outputs: list[str] = [output.name for output in session.get_outputs()]
        self._buffers: dict[tuple[Any, ...], tuple[Any, dict[str, Any]]] = {}
        self._lock = threading.Lock()

    def run(self, inputs: Mapping[str, TensorType]) -> Sequence[TensorType]:
        """Return the outputs in the model's order, as new arrays. Raises whatever ONNX Runtime raises."""
        arrays = {name: np.ascontiguousarray(array) for name, array in inputs.items()}
        with self._lock:
            binding, buffers = self._bind(arrays)
            for name, array in arrays.items():
                buffers[name].update_inplace(array)
            for name in self._outputs:  # bound anew, or the next run would write into what this one returns
                binding.bind_output(name, "cpu")
            self._session.run_with_iobinding(binding)
            outputs: list[TensorType] = binding.copy_outputs_to_cpu()
        return outputs

    def _bind(self, arrays: Mapping[str, TensorType]) -> tuple[Any, dict[str, Any]]:
        """Return the binding and the buffers for these shapes."""
        key = tuple((name, array.shape, array.dtype.str) for name, array in arrays.items())
        if key not in self._buffers:
            if len(self._buffers) >= _MAX_SHAPES:
                self._buffers.clear()
            binding = self._session.io_binding()
            buffers = {name: self._to_device(array) for name, array in arrays.items()}
            for name, buffer in buffers.items():
                binding.bind_ortvalue_input(name, buffer)
            self._buffers[key] = (binding, buffers)
        return self._buffers[key]

    def _to_device(self, array: TensorType) -> Any:
        return self._ort.OrtValue.ortvalue_from_numpy(array, self._device, self._device_id)
