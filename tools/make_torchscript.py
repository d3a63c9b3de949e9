"""Convert an ONNX model to the same model for PyTorch: a development tool for parity tests, never a runtime dependency.

usage: make_torchscript.py IN.onnx OUT HEIGHT WIDTH

OUT ending in ``.pt2`` is written as a ``torch.export`` program, anything else as a TorchScript archive. Both take batches
of any size. Outputs agree with ONNX Runtime to about 1e-4 px (NanoDet and CenterFace).

needs: pip install torch==2.13.0          (a CPU build: add --index-url https://download.pytorch.org/whl/cpu)
       pip install --no-deps onnx2torch==1.5.15
``--no-deps`` because onnx2torch asks for torchvision, which would replace the CPU build of torch by the CUDA one (2 GB).
"""

import argparse
import sys
import types
import warnings

# onnx2torch imports torchvision for two operators that these models do not use.
vision, ops = types.ModuleType("torchvision"), types.ModuleType("torchvision.ops")
vision.ops, ops.nms, ops.roi_align = ops, None, None
sys.modules.update({"torchvision": vision, "torchvision.ops": ops})

import onnx  # noqa: E402
import onnx2torch  # noqa: E402
import torch  # noqa: E402
from onnx import numpy_helper  # noqa: E402


class Reshape(torch.nn.Module):
    """ONNX ``Reshape`` to a constant shape; 0 keeps a dimension."""

    def __init__(self, shape: list[int]) -> None:
        super().__init__()
        self.shape = shape

    def forward(self, tensor: torch.Tensor, _shape: torch.Tensor) -> torch.Tensor:
        return tensor.reshape([tensor.shape[i] if size == 0 else size for i, size in enumerate(self.shape)])


class Resize(torch.nn.Module):
    """ONNX ``Resize`` (linear, half_pixel) by constant factors."""

    def __init__(self, scales: list[float]) -> None:
        super().__init__()
        self.scales = scales[2:]

    def forward(self, tensor: torch.Tensor, roi: object = None, scales: object = None) -> torch.Tensor:
        return torch.nn.functional.interpolate(tensor, scale_factor=self.scales, mode="bilinear", align_corners=False)


def fold_casts(model: onnx.ModelProto) -> onnx.ModelProto:
    """Turn weights stored as fp16 behind a ``Cast`` into fp32 weights: onnx2torch does not know such a ``Cast``."""
    weights = {weight.name: weight for weight in model.graph.initializer}
    for node in [n for n in model.graph.node if n.op_type == "Cast" and n.input[0] in weights]:
        half = weights[node.input[0]]
        model.graph.initializer.append(
            numpy_helper.from_array(numpy_helper.to_array(half).astype("float32"), node.output[0])
        )
        model.graph.initializer.remove(half)
        model.graph.node.remove(node)
    return model


def fix_shapes(net: torch.fx.GraphModule) -> torch.fx.GraphModule:
    """Replace modules that read a constant shape or factor out of a tensor at every run: ``torch.export`` refuses them."""
    for node in [n for n in net.graph.nodes if n.op == "call_module"]:
        kind = type(net.get_submodule(node.target)).__name__
        if kind == "OnnxReshape":
            net.set_submodule(node.target, Reshape(constant(net, node.args[1]).tolist()))
        elif kind == "OnnxResize":
            net.set_submodule(node.target, Resize(constant(net, node.kwargs["scales"]).tolist()))
    net.recompile()
    return net


def constant(net: torch.fx.GraphModule, node: torch.fx.Node) -> torch.Tensor:
    """Return the tensor that a ``get_attr`` node names."""
    value = net
    for part in node.target.split("."):
        value = getattr(value, part)
    return value


def convert(source: str, target: str, height: int, width: int) -> None:
    """Write the ONNX model at ``source`` for PyTorch to ``target``, traced at that input size."""
    net = fix_shapes(onnx2torch.convert(fold_casts(onnx.load(source))).eval())
    example = torch.rand(2, 3, height, width)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if target.endswith(".pt2"):
            batch = torch.export.Dim("batch", min=1, max=64)
            torch.export.save(torch.export.export(net, (example,), dynamic_shapes=({0: batch},)), target)
        else:
            torch.jit.freeze(torch.jit.trace(net, example, check_trace=False).eval()).save(target)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source")
    parser.add_argument("target")
    parser.add_argument("height", type=int)
    parser.add_argument("width", type=int)
    args = parser.parse_args()
    convert(args.source, args.target, args.height, args.width)


if __name__ == "__main__":
    main()
