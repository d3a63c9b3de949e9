"""Build the INT8 twin of the built-in detector: the same graph, its convolutions in 8 bits.

usage: build_int8.py NANODET.onnx CLIP.mp4 OUT.onnx

NANODET.onnx is what ``build_nanodet.py`` writes, CLIP.mp4 the built-in footage; both lie in ``src/sentinel_pipeline/assets``.
The scales are taken from 36 pictures of the first half of the clip; the second half is for tests. The same inputs give the
same bytes: the shipped ``nanodet-g-416-int8.onnx`` has the digest in ``infrastructure/inference/builtin.py``.

Weights are int8 with a scale per output channel, activations uint8 with one scale each (least and most seen), as pairs of
QuantizeLinear and DequantizeLinear that ONNX Runtime fuses when it loads the file. Weights use 7 of their 8 bits: x86
processors without VNNI add pairs of products in 16 bits, which 8-bit weights overflow. Normalisation and box decoding stay
in floats: their numbers (pixels, distances) need more than 8 bits.

needs: numpy, av==18.1.0, onnx==1.23.2, onnxruntime==1.32.0 (other versions may write other bytes)
"""

import argparse
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

import av
import numpy as np
import onnx
from av.video.reformatter import Interpolation
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

SIZE = 416
EVERY, LAST = 11, 396  # which pictures of the clip (795, 10 a second) set the scales
GREY = 114
OPERATORS = ["Conv", "MaxPool", "Concat", "Add", "LeakyRelu", "Resize"]
NORMALISATION = ["norm.mul", "norm.out"]
DECODING = ["scores", "dist"]  # from these on boxes are decoded


def pictures(clip: Path) -> Iterator[np.ndarray]:
    """Yield pictures as the program feeds them: letterboxed, [1, 3, 416, 416] float32 RGB in 0..1."""
    with av.open(str(clip)) as container:
        for number, frame in enumerate(container.decode(video=0)):
            if number >= LAST:
                return
            if number % EVERY == 0:
                yield letterbox(frame)


def letterbox(frame: av.VideoFrame) -> np.ndarray:
    """Fit a picture into the input, centred on grey."""
    scale = min(SIZE / frame.width, SIZE / frame.height)
    width, height = round(frame.width * scale), round(frame.height * scale)
    small = frame.reformat(width, height, "rgb24", interpolation=Interpolation.AREA, threads=1).to_ndarray()
    canvas = np.full((SIZE, SIZE, 3), GREY, np.uint8)
    left, top = (SIZE - width) // 2, (SIZE - height) // 2
    canvas[top : top + height, left : left + width] = small
    return canvas.transpose(2, 0, 1)[None].astype(np.float32) / 255


class Reader(CalibrationDataReader):
    """Hands the pictures to the quantizer."""

    def __init__(self, clip: Path) -> None:
        self._pictures = pictures(clip)

    def get_next(self) -> dict[str, np.ndarray] | None:
        picture = next(self._pictures, None)
        return None if picture is None else {"images": picture}


def float_nodes(model: onnx.ModelProto) -> list[str]:
    """Return the nodes that stay in floats: the normalisation, and everything behind the network's last concatenations."""
    tensors, names = set(DECODING), list(NORMALISATION)
    for node in model.graph.node:  # in the order in which they run
        if node.name in DECODING or tensors.intersection(node.input):
            tensors.update(node.output)
            names.append(node.name)
    return names


def build(source: Path, clip: Path, target: Path) -> None:
    """Write the INT8 model."""
    with tempfile.TemporaryDirectory() as folder:
        prepared, raw = Path(folder) / "prepared.onnx", Path(folder) / "int8.onnx"
        quant_pre_process(str(source), str(prepared), skip_symbolic_shape=True)
        quantize_static(
            str(prepared),
            str(raw),
            Reader(clip),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=OPERATORS,
            per_channel=True,
            reduce_range=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod.MinMax,
            nodes_to_exclude=float_nodes(onnx.load(str(prepared))),
        )
        model = onnx.load(str(raw))
    del model.opset_import[1:]  # onnxruntime lists every domain that it knows; the graph uses ONNX's own
    model.producer_name, model.producer_version = "sentinel-pipeline", ""
    onnx.helper.set_model_props(model, metadata(onnx.load(str(source))))
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, str(target))


def metadata(source: onnx.ModelProto) -> dict[str, str]:
    """Return what the original says of itself, and what was done to it."""
    return {entry.key: entry.value for entry in source.metadata_props} | {"precision": "int8, by tools/build_int8.py"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("source", "clip", "target"):
        parser.add_argument(name, type=Path)
    args = parser.parse_args()
    build(args.source, args.clip, args.target)


if __name__ == "__main__":
    main()
