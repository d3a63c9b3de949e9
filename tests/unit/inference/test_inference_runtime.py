"""ONNX Runtime behind the document's interface: loading, running, statistics, and every way a file can be wrong."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest

from sentinel_pipeline.domain.errors import ModelError
from sentinel_pipeline.infrastructure.inference.bound_session import BoundSession
from sentinel_pipeline.infrastructure.inference.ort import load_onnxruntime
from sentinel_pipeline.infrastructure.inference.providers import CPU, CUDA
from sentinel_pipeline.infrastructure.inference.runtime import (
    InferenceRuntime,
    ONNXRuntime,
    PyTorchRuntime,
    TensorInfo,
    create_runtime,
)

ModelMaker = Callable[..., Path]
onnxruntime = load_onnxruntime()
ROWS = np.arange(14, dtype=np.float32).reshape(7, 2)


def pictures(n: int, size: int = 32) -> np.ndarray:
    return np.ones((n, 3, size, size), np.float32)


def linear_model(make: ModelMaker) -> Path:
    """A model whose output depends on its input: the mean of each picture is added to the rows."""
    path = make(ROWS, size=(8, 8))
    model = onnx.load(path)
    for weight in model.graph.initializer:
        if weight.name == "zero":
            weight.CopyFrom(onnx.numpy_helper.from_array(np.ones(1, np.float32), "zero"))
    onnx.save(model, path)
    return path


def assert_for_people(error: ModelError) -> None:
    """An error names its remedy and is one line without library internals."""
    assert error.remedy
    assert "\n" not in str(error)
    assert "Traceback" not in str(error)
    assert "ONNXRuntimeError" not in str(error)
    assert len(str(error)) < 500


def test_onnx_runtime_follows_the_document(constant_model: ModelMaker) -> None:
    """``load_model`` and ``infer`` work as the document shows, and count, total and mean latency are kept."""
    runtime: InferenceRuntime = ONNXRuntime(use_gpu=True, num_threads=1)
    with runtime:
        runtime.load_model(str(constant_model(ROWS)))
        for n in (1, 3):
            outputs = runtime.infer({"images": pictures(n)})
            np.testing.assert_array_equal(outputs["output0"], np.stack([ROWS] * n))
        assert runtime._inference_count == 2
        assert runtime._total_latency_ms > 0
        stats = runtime.stats
    assert (stats.count, stats.rows, stats.batch_mean) == (2, 4, 2.0)
    assert stats.mean_ms == pytest.approx(runtime._total_latency_ms / 2, abs=0.001)
    assert 0 <= stats.p50_ms <= stats.p95_ms <= stats.p99_ms


def test_onnx_runtime_tells_what_the_model_is(constant_model: ModelMaker) -> None:
    """Inputs, outputs, metadata, the provider and the placement of the nodes are there to be reported."""
    with create_runtime(constant_model(ROWS, metadata={"names": "['a']"}), threads=1) as runtime:
        assert runtime.inputs == (TensorInfo("images", (None, 3, 32, 32), "float32"),)
        assert runtime.outputs == (TensorInfo("output0", (None, 7, 2), "float32"),)
        assert runtime.metadata == {"names": "['a']"}
        assert runtime.provider == CPU
        if hasattr(onnxruntime.InferenceSession, "get_provider_graph_assignment_info"):
            assert runtime.placement[CPU] > 0


def test_stats_start_at_zero_and_can_be_reset(constant_model: ModelMaker) -> None:
    """Before the first inference, and after a reset, every figure is zero instead of an error."""
    with create_runtime(constant_model(ROWS), threads=1) as runtime:
        assert (runtime.stats.count, runtime.stats.mean_ms, runtime.stats.p99_ms) == (0, 0.0, 0.0)
        runtime.infer({"images": pictures(1)})
        runtime.reset_stats()
        assert (runtime.stats.count, runtime.stats.mean_ms, runtime.stats.p99_ms) == (0, 0.0, 0.0)


@pytest.mark.parametrize("suffix", [".onnx", ".pt", ".pt2"])
@pytest.mark.parametrize(
    ("kind", "message"), [("missing", "does not exist"), ("empty", "is empty"), ("folder", "is not a file")]
)
def test_a_path_without_a_model_is_named(tmp_path: Path, suffix: str, kind: str, message: str) -> None:
    """A missing or empty file and a folder are told apart, before any library sees them."""
    path = tmp_path / f"model{suffix}"
    if kind == "empty":
        path.touch()
    elif kind == "folder":
        path.mkdir()
    with pytest.raises(ModelError, match=message) as caught:
        create_runtime(path, threads=1)
    assert_for_people(caught.value)


@pytest.mark.parametrize("cut", [True, False], ids=["truncated", "garbage"])
def test_a_broken_onnx_file_is_one_sentence_and_a_remedy(constant_model: ModelMaker, cut: bool) -> None:
    """A truncated download or another format is reported for people, without the library's codes."""
    path = constant_model(ROWS)
    path.write_bytes(path.read_bytes()[:150] if cut else b"<html>404</html>" * 50)
    with pytest.raises(ModelError, match="is not a usable ONNX model") as caught:
        create_runtime(path, threads=1)
    assert_for_people(caught.value)


def test_an_unknown_suffix_is_refused(tmp_path: Path) -> None:
    """The suffix decides the runtime; one that says nothing is refused with the list of those that do."""
    with pytest.raises(ModelError, match=r"no suffix of a model file.*\.onnx or one of"):
        create_runtime(tmp_path / "model.weights")


def test_sha256_pins_a_model(constant_model: ModelMaker) -> None:
    """The pinned digest lets the right file through in any case, and a changed file is never loaded."""
    path = constant_model(ROWS)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    create_runtime(path, threads=1, sha256=digest.upper()).close()
    with path.open("ab") as file:
        file.write(b"\0")
    with pytest.raises(ModelError, match=f"not the pinned {digest}") as caught:
        create_runtime(path, threads=1, sha256=digest)
    assert_for_people(caught.value)


@pytest.mark.parametrize("device", ["cuda", "tensorrt", "openvino"])
def test_a_demanded_device_is_never_replaced_by_the_cpu(constant_model: ModelMaker, device: str) -> None:
    """On a build without the provider, asking for it fails at start."""
    available = onnxruntime.get_available_providers()
    if any(device in provider.lower() for provider in available):
        pytest.skip(f"this build of ONNX Runtime has {device}")
    with pytest.raises(ModelError, match=f"device {device} is not in this build") as caught:
        create_runtime(constant_model(ROWS), device, threads=1)
    assert_for_people(caught.value)


def test_a_strict_session_that_would_use_the_cpu_fails(
    constant_model: ModelMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """CUDA compiled in but unusable (no driver): the real session refuses to fall back, and says what to do."""
    if CUDA in onnxruntime.get_available_providers():
        pytest.skip("this build has CUDA")
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [CUDA, CPU])
    runtime = ONNXRuntime(device="cuda", num_threads=1)
    with (
        pytest.warns(UserWarning, match="CUDAExecutionProvider"),
        pytest.raises(ModelError, match=r"device cuda was demanded but.*device: auto") as caught,
    ):
        runtime.load_model(constant_model(ROWS))
    assert_for_people(caught.value)


def test_auto_goes_on_with_the_next_provider(constant_model: ModelMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU whose libraries are missing makes ``auto`` slower, not unusable: the next provider is tried."""
    real = onnxruntime.InferenceSession

    def refuses_cuda(path: str, options: Any, providers: list[tuple[str, dict[str, str]]], **kwargs: Any) -> Any:
        if providers[0][0] == CUDA:
            raise RuntimeError("libcudnn.so.9: cannot open shared object file")
        return real(path, options, providers=providers, **kwargs)

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [CUDA, CPU])
    monkeypatch.setattr(onnxruntime, "InferenceSession", refuses_cuda)
    with create_runtime(constant_model(ROWS), "auto", threads=1) as runtime:
        assert runtime.provider == CPU
        assert runtime.infer({"images": pictures(1)})["output0"].shape == (1, 7, 2)


def test_a_tensorrt_profile_takes_sizes_from_the_file(constant_model: ModelMaker) -> None:
    """Where the file fixes height and width the engine is built for those, else for what is configured."""
    runtime = ONNXRuntime(num_threads=1, input_shape=(3, 64, 96), max_batch=4)
    fixed = runtime._profile(onnxruntime, constant_model(ROWS))
    free = runtime._profile(onnxruntime, constant_model(ROWS, size=("h", "w")))
    assert fixed is not None
    assert free is not None
    assert (fixed.text(fixed.max_batch), free.text(free.min_batch)) == ("images:4x3x32x32", "images:1x3x64x96")


def test_infer_names_inputs_that_do_not_fit(constant_model: ModelMaker) -> None:
    """Wrong input names and shapes are model errors, and a failed inference is not counted."""
    with create_runtime(constant_model(ROWS), threads=1) as runtime:
        with pytest.raises(ModelError, match=r"takes the inputs \['images'\], not \['x'\]"):
            runtime.infer({"x": pictures(1)})
        with pytest.raises(ModelError, match="the inference failed: Got invalid dimensions"):
            runtime.infer({"images": pictures(1, size=16)})
        assert runtime.stats.count == 0


@pytest.mark.parametrize("runtime", [ONNXRuntime(num_threads=1), PyTorchRuntime(num_threads=1)], ids=["onnx", "torch"])
def test_infer_without_a_model_is_an_error(runtime: InferenceRuntime) -> None:
    """Before ``load_model`` there is nothing to run, and ``close`` does no harm."""
    with pytest.raises(ModelError, match="no model is loaded"):
        runtime.infer({"images": pictures(1)})
    runtime.close()
    runtime.close()


def test_sessions_do_not_spin(constant_model: ModelMaker) -> None:
    """Every session is opened without spinning, sequential, lean, and with the threads asked for."""
    seen: list[Any] = []

    def session(_path: str, options: Any, **_: Any) -> SimpleNamespace:
        seen.append(options)
        return SimpleNamespace()

    real = onnxruntime
    recorder = SimpleNamespace(
        InferenceSession=session, SessionOptions=real.SessionOptions, ExecutionMode=real.ExecutionMode
    )
    runtime = ONNXRuntime(num_threads=3)
    runtime._session_with(recorder, constant_model(ROWS), [CPU], strict=False)
    (options,) = seen
    assert options.intra_op_num_threads == 3
    assert options.enable_cpu_mem_arena, "without the arena memory grows further"
    assert not options.enable_mem_pattern, "with patterns there are two arenas"
    assert options.execution_mode == real.ExecutionMode.ORT_SEQUENTIAL
    for scope in ("intra_op", "inter_op"):
        assert options.get_session_config_entry(f"session.{scope}.allow_spinning") == "0"


def test_bound_buffers_give_what_a_plain_run_gives(constant_model: ModelMaker) -> None:
    """With inputs kept in buffers, every batch size gets its rows, and no run changes what an earlier one returned."""
    session = onnxruntime.InferenceSession(str(linear_model(constant_model)), providers=[CPU])
    bound = BoundSession(onnxruntime, session, "cpu")
    kept = []
    for n in (1, 2, 1, 4, 2):
        batch = np.random.default_rng(n + len(kept)).random((n, 3, 8, 8), np.float32)
        (expected,) = session.run(None, {"images": batch})
        (got,) = bound.run({"images": batch})
        kept.append((got, expected))
    for got, expected in kept:
        np.testing.assert_array_equal(got, expected)


def test_bound_buffers_take_views_and_are_bounded(constant_model: ModelMaker) -> None:
    """An array that is not contiguous is taken as it reads, and ever new shapes do not pile up buffers."""
    session = onnxruntime.InferenceSession(str(linear_model(constant_model)), providers=[CPU])
    bound = BoundSession(onnxruntime, session, "cpu")
    view = np.arange(8 * 8 * 3, dtype=np.float32).reshape(1, 8, 8, 3).transpose(0, 3, 1, 2)
    (got,) = bound.run({"images": view})
    np.testing.assert_array_equal(got, session.run(None, {"images": np.ascontiguousarray(view)})[0])
    for n in range(1, 40):
        bound.run({"images": np.zeros((n, 3, 8, 8), np.float32)})
    assert len(bound._buffers) <= 16


def test_a_runtime_with_bound_buffers_counts_and_closes(constant_model: ModelMaker) -> None:
    """The document's interface stays the same with bound buffers: outputs by name, statistics, errors, closing."""
    with ONNXRuntime(num_threads=1) as runtime:
        runtime.load_model(constant_model(ROWS))
        runtime._bound = BoundSession(onnxruntime, runtime._session, "cpu")
        np.testing.assert_array_equal(runtime.infer({"images": pictures(2)})["output0"], np.stack([ROWS] * 2))
        with pytest.raises(ModelError, match=r"the inference failed: .*Got invalid dimensions"):
            runtime.infer({"images": pictures(1, size=16)})
        assert runtime.stats.rows == 2
    assert runtime._bound is None


def test_torch_missing_names_the_extra(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Without PyTorch installed, a TorchScript model is answered with the command that installs it."""
    monkeypatch.setitem(sys.modules, "torch", None)  # makes ``import torch`` raise ImportError
    (tmp_path / "model.pt").write_bytes(b"x")
    with pytest.raises(ModelError, match=r"pip install 'sentinel-pipeline\[torch\]'"):
        create_runtime(tmp_path / "model.pt")


def test_nothing_is_reported_to_the_maker_of_onnx_runtime(constant_model: ModelMaker, tmp_path: Path) -> None:
    """Outside CI, running a model leaves no device identifier and no telemetry store in the home directory."""
    home = tmp_path / "home"
    home.mkdir()
    code = "import sys; from sentinel_pipeline.infrastructure.inference.runtime import create_runtime\n"
    code += "create_runtime(sys.argv[1], threads=1)"
    keep = {key: os.environ[key] for key in ("PATH", "LD_LIBRARY_PATH") if key in os.environ}
    command = [sys.executable, "-c", code, str(constant_model(ROWS))]
    subprocess.run(command, env={**keep, "HOME": str(home)}, capture_output=True, text=True, timeout=60, check=True)
    assert [path.name for path in home.rglob("*")] == []
