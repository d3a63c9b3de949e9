"""TorchScript and torch.export against ONNX Runtime: one real model in three formats, and broken archives."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from importlib import resources
from pathlib import Path

import av
import numpy as np
import pytest

from sentinel_pipeline.domain.errors import ModelError
from sentinel_pipeline.domain.frame import Frame
from sentinel_pipeline.domain.models import ModelSpec
from sentinel_pipeline.infrastructure.inference.builtin import find_builtin
from sentinel_pipeline.infrastructure.inference.detector import open_detector
from sentinel_pipeline.infrastructure.inference.runtime import InferenceRuntime, PyTorchRuntime, create_runtime
from sentinel_pipeline.infrastructure.video.images import AvImage

pytestmark = pytest.mark.torch

CLIP = Path(str(resources.files("sentinel_pipeline.assets") / "vtest-768x576-10fps.mp4"))
TOOL = Path(__file__).parents[2] / "tools" / "make_torchscript.py"


@pytest.fixture(scope="module")
def frame() -> Frame:
    with av.open(str(CLIP)) as container:
        return Frame(AvImage(next(container.decode(video=0))), 0, 0.0, 0.0, 0.0)


@pytest.fixture(scope="module", params=["nanodet.torchscript.pt", "nanodet.pt2"])
def twin(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built-in detector in a PyTorch format, made by the repository's own tool."""
    if importlib.util.find_spec("onnx2torch") is None:
        pytest.skip("onnx2torch is not installed: pip install --no-deps onnx2torch==1.5.15")
    target = tmp_path_factory.mktemp("torch") / request.param
    source = find_builtin("nanodet-g-416").path
    command = [sys.executable, str(TOOL), str(source), str(target), "416", "416"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return target


def picture(frame: Frame) -> np.ndarray:
    return (frame.rgb_at(416, 416).transpose(2, 0, 1).astype(np.float32) / 255)[None]


def run(runtime: InferenceRuntime, batch: np.ndarray) -> np.ndarray:
    (output,) = runtime.infer({runtime.inputs[0].name: batch}).values()
    return output


def test_the_formats_agree_number_by_number(twin: Path, frame: Frame) -> None:
    """PyTorch and ONNX Runtime return the same boxes and scores for the same picture, alone and in a batch."""
    with (
        create_runtime(find_builtin("nanodet-g-416").path, threads=1) as onnx,
        create_runtime(twin, "cpu", threads=1) as torch,
    ):
        assert torch.provider == "cpu"
        for n in (1, 2):
            batch = np.concatenate([picture(frame)] * n)
            expected, found = run(onnx, batch), run(torch, batch)
            np.testing.assert_allclose(found[:, :4], expected[:, :4], atol=1e-2)  # pixels
            np.testing.assert_allclose(found[:, 4:], expected[:, 4:], atol=1e-4)  # scores
        assert (torch.stats.count, torch.stats.rows) == (2, 3)


def test_the_detector_finds_the_same_objects_in_every_format(twin: Path, frame: Frame) -> None:
    """From frame to boxes, a TorchScript or exported model is a drop-in for the ONNX one."""
    with open_detector(ModelSpec("onnx", builtin="nanodet-g-416", threads=1)) as detector:
        expected, _ = detector.detect(frame, confidence=0.4, iou=0.6)
    spec = ModelSpec(
        "t", path=str(twin), family="yolov8", labels="coco", input_size=(416, 416), device="cpu", threads=1
    )
    with open_detector(spec) as detector:
        found, _ = detector.detect(frame, confidence=0.4, iou=0.6)
    assert len(expected) >= 3
    assert found.class_id.tolist() == expected.class_id.tolist()
    np.testing.assert_allclose(found.xyxy, expected.xyxy, atol=0.05)


def test_a_wrong_input_size_is_found_at_start(twin: Path) -> None:
    """A TorchScript file does not say its size: the warm-up run finds out, in one line without a traceback."""
    spec = ModelSpec(
        "t", path=str(twin), family="yolov8", labels="coco", input_size=(320, 320), device="cpu", threads=1
    )
    with pytest.raises(ModelError) as caught:
        open_detector(spec)
    assert "320" in str(caught.value) or "2100" in str(caught.value)
    assert "Traceback" not in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("suffix", [".pt", ".torchscript", ".pt2"])
@pytest.mark.parametrize("kind", ["garbage", "truncated", "weights"])
def test_a_file_that_is_no_archive_is_one_sentence_and_a_remedy(
    tmp_path: Path, suffix: str, kind: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """Garbage, half a download and bare weights are told from a model, with what to do, and nothing on the terminal."""
    import torch

    path = tmp_path / f"model{suffix}"
    if kind == "garbage":
        path.write_bytes(b"<html>404</html>" * 100)
    else:
        torch.save({"weight": torch.zeros(64, 64)}, path)
        if kind == "truncated":
            path.write_bytes(path.read_bytes()[:5000])
    capfd.readouterr()
    with pytest.raises(ModelError, match=r"is not a usable (TorchScript archive|torch\.export program)") as caught:
        PyTorchRuntime(device="cpu", num_threads=1).load_model(path)
    assert caught.value.remedy
    assert "\n" not in str(caught.value)
    assert "Traceback" not in "".join(capfd.readouterr())


@pytest.mark.parametrize("result", ["tensor", "tuple", "dict"])
def test_outputs_get_names(tmp_path: Path, result: str) -> None:
    """A model may return a tensor, several, or a dict; every output has a name to be reached by."""
    import torch

    class Net(torch.nn.Module):
        def forward(self, images: torch.Tensor) -> object:
            mean = images.mean(dim=(2, 3))
            return {"tensor": mean, "tuple": (mean, mean * 2), "dict": {"boxes": mean, "scores": mean * 2}}[result]

    program = torch.export.export(Net(), (torch.zeros(1, 3, 8, 8),))
    torch.export.save(program, tmp_path / "net.pt2")
    with create_runtime(tmp_path / "net.pt2", "cpu", threads=1) as runtime:
        outputs = runtime.infer({"images": np.ones((1, 3, 8, 8), np.float32)})
        assert runtime.inputs[0].shape == (1, 3, 8, 8)
    assert (
        list(outputs) == {"tensor": ["output0"], "tuple": ["output0", "output1"], "dict": ["boxes", "scores"]}[result]
    )
    assert all(output.dtype == np.float32 and output.shape == (1, 3) for output in outputs.values())
