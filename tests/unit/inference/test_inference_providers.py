"""Which execution providers are asked for."""

from __future__ import annotations

from pathlib import Path

import pytest

from sentinel_pipeline.domain.errors import ModelError
from sentinel_pipeline.infrastructure.inference.base import TensorInfo
from sentinel_pipeline.infrastructure.inference.providers import (
    CPU,
    CUDA,
    OPENVINO,
    TENSORRT,
    Plan,
    Profile,
    binds_buffers,
    cache_folder,
    default_threads,
    make_profile,
    plan_providers,
    provider_options,
)
from sentinel_pipeline.infrastructure.inference.torch_runtime import plan_device

ALL = (TENSORRT, CUDA, OPENVINO, CPU)


@pytest.mark.parametrize(
    ("device", "available", "use_gpu", "tensorrt", "expected"),
    [
        pytest.param("auto", (CPU,), True, False, Plan((CPU,), False), id="auto on a CPU build"),
        pytest.param("auto", (TENSORRT, CUDA, CPU), True, False, Plan((CUDA, CPU), False), id="TensorRT is opt-in"),
        pytest.param("auto", ALL, True, True, Plan(ALL, False), id="everything, in order of speed"),
        pytest.param("auto", (OPENVINO, CPU), True, True, Plan((OPENVINO, CPU), False), id="OpenVINO before the CPU"),
        pytest.param("auto", ALL, False, True, Plan((CPU,), False), id="use_gpu False"),
        pytest.param("cuda", ALL, True, False, Plan((CUDA,), True), id="CUDA demanded"),
        pytest.param("tensorrt", ALL, True, False, Plan((TENSORRT, CUDA), True), id="TensorRT demanded"),
        pytest.param("openvino", ALL, True, False, Plan((OPENVINO,), True), id="OpenVINO demanded"),
        pytest.param("cpu", ALL, True, True, Plan((CPU,), False), id="CPU demanded"),
    ],
)
def test_plan_providers_table(
    device: str, available: tuple[str, ...], use_gpu: bool, tensorrt: bool, expected: Plan
) -> None:
    """``auto`` takes what there is, fastest first and the CPU last; a demanded device is asked for alone."""
    assert plan_providers(device, available, use_gpu=use_gpu, tensorrt=tensorrt) == expected


@pytest.mark.parametrize(
    ("device", "message"),
    [
        ("cuda", r"not in this build.*sentinel-pipeline\[gpu\]"),
        ("tensorrt", "not in this build.*TensorRT"),
        ("openvino", r"not in this build.*sentinel-pipeline\[openvino\]"),
        ("tpu", "unknown device 'tpu'.*auto, cuda, tensorrt, openvino, cpu"),
    ],
)
def test_plan_providers_fails_loudly_for_a_device_that_is_not_there(device: str, message: str) -> None:
    """A demanded device that this build lacks is an error with a remedy, never a silent CPU run."""
    with pytest.raises(ModelError, match=message):
        plan_providers(device, (CPU,))


@pytest.mark.parametrize(
    ("wanted", "cuda", "use_gpu", "expected"),
    [
        ("auto", True, True, "cuda"),
        ("auto", False, True, "cpu"),
        ("auto", True, False, "cpu"),
        ("cpu", True, True, "cpu"),
        ("cuda", True, True, "cuda"),
    ],
)
def test_plan_device_table(wanted: str, cuda: bool, use_gpu: bool, expected: str) -> None:
    """PyTorch takes the GPU when it may and can."""
    assert plan_device(wanted, cuda=cuda, use_gpu=use_gpu) == expected


@pytest.mark.parametrize(
    ("wanted", "message"),
    [("cuda", "cannot use it here.*device: auto"), ("openvino", "cannot run on openvino.*export to ONNX")],
)
def test_plan_device_fails_loudly(wanted: str, message: str) -> None:
    """PyTorch on a device that cannot be had is an error with a remedy."""
    with pytest.raises(ModelError, match=message):
        plan_device(wanted, cuda=False)


def test_tensorrt_declares_its_shapes_and_keeps_its_engines() -> None:
    """TensorRT gets one profile for all batch sizes and a cache, so that an engine is built once."""
    options = provider_options(TENSORRT, Path("cache"), Profile("images", (3, 416, 640), 8), threads=1)
    assert options["trt_profile_min_shapes"] == "images:1x3x416x640"
    assert options["trt_profile_max_shapes"] == options["trt_profile_opt_shapes"] == "images:8x3x416x640"
    assert options["trt_engine_cache_enable"] == options["trt_timing_cache_enable"] == "1"
    assert options["trt_engine_cache_path"] == options["trt_timing_cache_path"] == "cache"
    without = provider_options(TENSORRT, Path("cache"), None, threads=1)
    assert without == {key: value for key, value in options.items() if "profile" not in key}


def test_other_providers_need_few_options() -> None:
    """CUDA grows its memory by what is asked for, OpenVINO is held to the threads it may have; the CPU takes none."""
    assert provider_options(CUDA, Path(), None, threads=3) == {"arena_extend_strategy": "kSameAsRequested"}
    assert provider_options(OPENVINO, Path(), None, threads=3) == {"num_of_threads": "3"}
    assert provider_options(CPU, Path(), None, threads=3) == {}


@pytest.mark.parametrize(
    ("shapes", "expected"),
    [
        pytest.param([(None, 3, 416, 416)], ("a:1x3x416x416", "a:8x3x416x416"), id="free batch"),
        pytest.param([(None, 3, None, None)], ("a:1x3x64x96", "a:8x3x64x96"), id="all free"),
        pytest.param([(4, 3, None, 32)], ("a:4x3x64x32", "a:4x3x64x32"), id="free height, the file's batch"),
        pytest.param([(1, 3, 416, 416)], None, id="nothing free: nothing to declare"),
        pytest.param([(None, 3, 32, 32), (None, 3, 32, 32)], None, id="two free inputs: we cannot know"),
        pytest.param([(None, 7)], None, id="no picture"),
        pytest.param([()], None, id="nothing known"),
    ],
)
def test_profiles_are_declared_for_what_the_file_leaves_free(
    shapes: list[tuple[int | None, ...]], expected: tuple[str, str] | None
) -> None:
    """The file's sizes win; what is free takes the configured size, and 1 to the most rows."""
    inputs = [TensorInfo(name, shape) for name, shape in zip("ab", shapes, strict=False)]
    profile = make_profile(inputs, (3, 64, 96), 8)
    assert (profile and (profile.text(profile.min_batch), profile.text(profile.max_batch))) == expected


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        pytest.param({}, "/home/me/.cache/sentinel", id="default"),
        pytest.param({"XDG_CACHE_HOME": "/var/cache/me"}, "/var/cache/me/sentinel", id="set"),
        pytest.param({"XDG_CACHE_HOME": ""}, "/home/me/.cache/sentinel", id="empty"),
        pytest.param({"XDG_CACHE_HOME": "cache"}, "/home/me/.cache/sentinel", id="relative: to be ignored"),
    ],
)
def test_engines_are_kept_where_the_system_keeps_caches(environ: dict[str, str], expected: str) -> None:
    """The cache follows the XDG Base Directory Specification."""
    assert cache_folder(environ, Path("/home/me")) == Path(expected)


@pytest.mark.parametrize(
    ("provider", "placement", "expected"),
    [
        pytest.param(CUDA, {CUDA: 12}, True, id="all on the GPU"),
        pytest.param(TENSORRT, {TENSORRT: 1, CUDA: 4}, True, id="TensorRT and CUDA: all on the GPU"),
        pytest.param(CUDA, {}, True, id="the runtime does not tell"),
        pytest.param(CUDA, {CUDA: 12, CPU: 2}, False, id="CPU nodes in between"),
        pytest.param(CPU, {CPU: 12}, False, id="CPU"),
        pytest.param(OPENVINO, {OPENVINO: 12}, False, id="OpenVINO"),
    ],
)
def test_buffers_are_bound_where_all_of_the_model_is_on_the_gpu(
    provider: str, placement: dict[str, int], expected: bool
) -> None:
    """I/O binding is for sessions without a single node on the CPU."""
    assert binds_buffers(placement, provider) is expected


@pytest.mark.parametrize(("cores", "threads"), [(1, 1), (2, 1), (4, 2), (8, 4), (64, 4)])
def test_default_threads(cores: int, threads: int) -> None:
    """Inference takes half the cores and never more than four."""
    assert default_threads(cores) == threads
