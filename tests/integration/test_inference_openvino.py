"""OpenVINO's build of ONNX Runtime, where it is the one that is installed: ``pip install onnxruntime-openvino``."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

import av
import numpy as np
import pytest

from sentinel_pipeline.domain.errors import ModelError
from sentinel_pipeline.domain.frame import Frame
from sentinel_pipeline.domain.models import ModelSpec
from sentinel_pipeline.infrastructure.inference.detector import open_detector
from sentinel_pipeline.infrastructure.inference.ort import load_onnxruntime
from sentinel_pipeline.infrastructure.inference.providers import CPU, OPENVINO
from sentinel_pipeline.infrastructure.inference.runtime import create_runtime
from sentinel_pipeline.infrastructure.video.images import AvImage

pytestmark = pytest.mark.skipif(
    OPENVINO not in load_onnxruntime().get_available_providers(), reason="this build of ONNX Runtime has no OpenVINO"
)
CLIP = Path(str(resources.files("sentinel_pipeline.assets") / "vtest-768x576-10fps.mp4"))


@pytest.mark.parametrize("builtin", ["nanodet-g-416", "nanodet-g-416-int8"])
def test_openvino_runs_every_node_and_finds_what_the_cpu_finds(builtin: str) -> None:
    """Demanded, it runs the whole model, and the boxes of the street scene are those of ONNX Runtime's own kernels."""
    with av.open(str(CLIP)) as container:
        frame = Frame(AvImage(next(container.decode(video=0))), 0, 0.0, 0.0, 0.0)
    found = {}
    for device in ("openvino", "cpu"):
        with open_detector(ModelSpec("m", builtin=builtin, device=device, threads=1)) as detector:  # type: ignore[arg-type]
            found[device], _ = detector.detect(frame, confidence=0.45, iou=0.6)
            report = detector.snapshot()
        assert report["provider"] == {"openvino": OPENVINO, "cpu": CPU}[device]
        assert set(report["placement"]) <= {report["provider"]}
        assert report["batch_max"] == 1, "it computes on the CPU, where batches gain nothing"
    assert len(found["cpu"]) > 3
    assert found["openvino"].class_id.tolist() == found["cpu"].class_id.tolist()
    np.testing.assert_allclose(found["openvino"].xyxy, found["cpu"].xyxy, atol=4.0)


def test_openvino_demanded_is_strict(tmp_path: Path) -> None:
    """A model with a node that OpenVINO does not have is refused when OpenVINO is demanded, and runs with ``auto``."""
    onnx = pytest.importorskip("onnx")
    nodes = [
        onnx.helper.make_node("Det", ["images"], ["det"]),
        onnx.helper.make_node("Add", ["det", "det"], ["output0"]),
    ]
    graph = onnx.helper.make_graph(
        nodes,
        "determinant",
        [onnx.helper.make_tensor_value_info("images", onnx.TensorProto.FLOAT, ["batch", 3, 32, 32])],
        [onnx.helper.make_tensor_value_info("output0", onnx.TensorProto.FLOAT, ["batch", 3])],
    )
    path = tmp_path / "determinant.onnx"
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8), path)
    with pytest.raises(ModelError, match="openvino was demanded but it cannot run every node"):
        create_runtime(path, "openvino", threads=1)
    with create_runtime(path, "auto", threads=1) as runtime:
        assert runtime.placement[CPU] >= 1
        assert runtime.infer({"images": np.zeros((2, 3, 32, 32), np.float32)})["output0"].shape == (2, 3)
