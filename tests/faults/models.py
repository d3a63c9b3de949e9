"""Real ONNX and TorchScript models that fail on sight of a white picture, and work again after it.

Their input is a picture of 32x32; the output is YOLOv8's for one class: a person in the middle of a grey picture,
nobody in a black one. The mean of the input, in [0, 1], decides.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

Trouble = Literal["none", "nan", "slow", "hang", "raise"]
GREY, WHITE = 0.25, 0.75  # between black and grey, and between grey and white
TURNS = {"slow": 1500, "hang": 4_000_000_000}  # of a loop with two 256x256 products: about 0.5 ms each


def make_onnx(path: Path, trouble: Trouble) -> Path:
    """Write a model for batches of any size whose ``trouble`` begins with a white picture."""
    boxes = np.array([[16] * 8, [16] * 8, [12] * 8, [24] * 8, [0.9] + [0.05] * 7], np.float32)  # cx, cy, w, h, score
    constants = {
        "boxes": boxes[None, :4],
        "scores": boxes[None, 4:],
        "grey": np.float32(GREY),
        "white": np.float32(WHITE),
        "zero": np.float32(0),
        "minus": np.float32(-1),
    }
    nodes = [
        helper.make_node("ReduceMean", ["images", "axes"], ["mean4"], keepdims=1),
        helper.make_node("Squeeze", ["mean4", "last"], ["mean"]),  # (n, 1, 1)
        helper.make_node("Greater", ["mean", "grey"], ["seen"]),
        helper.make_node("Cast", ["seen"], ["seen01"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["scores", "seen01"], ["said"]),  # (n, 1, 8)
        helper.make_node("ReduceMax", ["mean"], ["brightest"], keepdims=0),
        helper.make_node("Greater", ["brightest", "white"], ["is_white"]),
        helper.make_node("Mul", ["said", "zero"], ["none1"]),
    ]
    constants |= {"axes": np.array([1, 2, 3], np.int64), "last": np.array([3], np.int64)}
    nodes += [
        helper.make_node("Add", ["none1", "boxes"], ["where"]),  # (n, 4, 8)
        helper.make_node("Concat", ["where", "said"], ["sane"], axis=1),  # (n, 5, 8)
    ]
    extra, out = _TROUBLES[trouble](constants)
    nodes += extra
    nodes.append(helper.make_node("Identity", [out], ["output0"]))
    graph = helper.make_graph(
        nodes,
        "laboratory",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["n", 3, 32, 32])],
        [helper.make_tensor_value_info("output0", TensorProto.FLOAT, ["n", 5, 8])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model)
    onnx.save(model, str(path))
    return path


def _none(constants: dict[str, Any]) -> tuple[list[Any], str]:
    return [], "sane"


def _nan(constants: dict[str, Any]) -> tuple[list[Any], str]:
    """The logarithm of -1 where the picture is white."""
    return [
        helper.make_node("Log", ["minus"], ["nan"]),
        helper.make_node("Where", ["is_white", "nan", "zero"], ["perhaps"]),
        helper.make_node("Add", ["sane", "perhaps"], ["spoilt"]),
    ], "spoilt"


def _raise(constants: dict[str, Any]) -> tuple[list[Any], str]:
    """An index beyond the end of its array, which the runtime checks and refuses."""
    constants |= {"table": np.zeros(2, np.float32), "inside": np.int64(0), "outside": np.int64(7)}
    return [
        helper.make_node("Where", ["is_white", "outside", "inside"], ["index"]),
        helper.make_node("Gather", ["table", "index"], ["looked_up"]),
        helper.make_node("Add", ["sane", "looked_up"], ["checked"]),
    ], "checked"


def _loop(turns: int, constants: dict[str, Any]) -> tuple[list[Any], str]:
    """A loop of matrix products that only a white picture enters; ``x`` stays zero, so that nothing overflows."""
    constants |= {"turns": np.int64(turns), "no_turn": np.int64(0), "go_on": np.bool_(True)}
    constants["square"] = np.zeros((256, 256), np.float32)
    body = helper.make_graph(
        [
            helper.make_node("MatMul", ["x", "x"], ["y"]),
            helper.make_node("MatMul", ["y", "y"], ["x_next"]),
            helper.make_node("Identity", ["on"], ["on_next"]),
        ],
        "turn",
        [
            helper.make_tensor_value_info("turn", TensorProto.INT64, []),
            helper.make_tensor_value_info("on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("x", TensorProto.FLOAT, [256, 256]),
        ],
        [
            helper.make_tensor_value_info("on_next", TensorProto.BOOL, []),
            helper.make_tensor_value_info("x_next", TensorProto.FLOAT, [256, 256]),
        ],
    )
    return [
        helper.make_node("Where", ["is_white", "turns", "no_turn"], ["count"]),
        helper.make_node("Loop", ["count", "go_on", "square"], ["worked"], body=body),
        helper.make_node("ReduceMax", ["worked"], ["result"], keepdims=0),
        helper.make_node("Add", ["sane", "result"], ["late"]),
    ], "late"


def _slow(constants: dict[str, Any]) -> tuple[list[Any], str]:
    return _loop(TURNS["slow"], constants)


def _hang(constants: dict[str, Any]) -> tuple[list[Any], str]:
    return _loop(TURNS["hang"], constants)


_TROUBLES = {"none": _none, "nan": _nan, "raise": _raise, "slow": _slow, "hang": _hang}


def make_torchscript(path: Path) -> Path:
    """Write a TorchScript model that raises where the picture is white."""
    import torch

    class Raises(torch.nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            mean = images.mean(dim=(1, 2, 3))
            if bool((mean > 0.75).any()):
                raise RuntimeError("the laboratory's model does not like white")
            seen = (mean > 0.25).to(images.dtype)
            rows = torch.tensor([[16.0] * 8, [16.0] * 8, [12.0] * 8, [24.0] * 8, [0.0] * 8])
            scores = torch.tensor([[0.0] * 8] * 4 + [[0.9] + [0.05] * 7])
            return rows.unsqueeze(0) + scores.unsqueeze(0) * seen.view(-1, 1, 1)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # users have such files all the same
        torch.jit.script(Raises()).save(str(path))
    return path
