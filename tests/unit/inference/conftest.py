"""Small real ONNX models, made on the spot, and pictures to feed them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from sentinel_pipeline.domain.frame import Frame

ModelMaker = Callable[..., Path]


@dataclass(frozen=True)
class ArrayImage:
    """A picture held as a BGR array."""

    pixels: NDArray[np.uint8]

    @property
    def width(self) -> int:
        return self.pixels.shape[1]

    @property
    def height(self) -> int:
        return self.pixels.shape[0]

    def yuv420p(self) -> tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.uint8]]:
        raise NotImplementedError

    def luma(self, width: int) -> NDArray[np.uint8]:
        raise NotImplementedError

    def bgr(self) -> NDArray[np.uint8]:
        return self.pixels.copy()

    def rgb(self, width: int, height: int) -> NDArray[np.uint8]:
        return cv2.cvtColor(cv2.resize(self.pixels, (width, height), interpolation=cv2.INTER_LINEAR), cv2.COLOR_BGR2RGB)


def make_frame(pixels: NDArray[np.uint8]) -> Frame:
    return Frame(ArrayImage(pixels), sequence=0, pts=0.0, captured_at=0.0, received_at=0.0)


@pytest.fixture
def frame() -> Frame:
    """A black 64x48 picture."""
    return make_frame(np.zeros((48, 64, 3), np.uint8))


@pytest.fixture
def constant_model(tmp_path: Path) -> ModelMaker:
    """Make models that return the same rows whatever the picture: ``output[b] = rows + 0 * mean(images[b])``."""

    def make(
        rows: NDArray[np.float32],
        *,
        name: str = "constant.onnx",
        batch: int | str = "batch",
        size: tuple[int | str, int | str] = (32, 32),
        dtype: int = TensorProto.FLOAT,
        metadata: dict[str, str] | None = None,
    ) -> Path:
        kind = helper.tensor_dtype_to_np_dtype(dtype)
        nodes = [
            helper.make_node("ReduceMean", ["images"], ["mean"], axes=[1, 2, 3], keepdims=1),
            helper.make_node("Squeeze", ["mean", "axis"], ["mean3"]),
            helper.make_node("Mul", ["mean3", "zero"], ["nothing"]),
            helper.make_node("Add", ["nothing", "rows"], ["output0"]),
        ]
        weights = [
            numpy_helper.from_array(np.array([3], np.int64), "axis"),
            numpy_helper.from_array(np.zeros(1, kind), "zero"),
            numpy_helper.from_array(rows[None].astype(kind), "rows"),
        ]
        graph = helper.make_graph(
            nodes,
            "constant",
            [helper.make_tensor_value_info("images", dtype, [batch, 3, *size])],
            [helper.make_tensor_value_info("output0", dtype, [batch, *rows.shape])],
            weights,
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        helper.set_model_props(model, metadata or {})
        onnx.checker.check_model(model)
        onnx.save(model, tmp_path / name)
        return tmp_path / name

    return make
