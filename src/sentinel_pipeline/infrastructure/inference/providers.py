"""Which ONNX Runtime execution providers to ask for, and with what options. Decisions only; tested as tables."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from sentinel_pipeline.domain.errors import ModelError

CPU = "CPUExecutionProvider"
CUDA = "CUDAExecutionProvider"
OPENVINO = "OpenVINOExecutionProvider"
TENSORRT = "TensorrtExecutionProvider"

PROVIDER_OF = {"cuda": CUDA, "tensorrt": TENSORRT, "openvino": OPENVINO, "cpu": CPU}

_INSTALL = {
    "cuda": "install sentinel-pipeline[gpu] and an NVIDIA driver, or set device: auto",
    "tensorrt": "install sentinel-pipeline[gpu] and TensorRT, or set device: auto",
    "openvino": "install sentinel-pipeline[openvino], or set device: auto",
}


@dataclass(frozen=True, slots=True)
class Plan:
    """Providers in order of priority; ``strict``: fail rather than run a node anywhere else."""

    providers: tuple[str, ...]
    strict: bool


def plan_providers(device: str, available: Collection[str], *, use_gpu: bool = True, tensorrt: bool = False) -> Plan:
    """Return what to ask a session for.

    ``auto`` takes TensorRT (only when ``tensorrt`` is set), CUDA and OpenVINO where this build has them, then the CPU;
    with ``use_gpu`` False only the CPU. Any other device is demanded: ``ModelError`` when this build does not have it.
    ``available``: what this build of ONNX Runtime has compiled in, which does not mean that it works on this machine.
    """
    if device == "auto":
        wanted = [TENSORRT] * tensorrt + [CUDA, OPENVINO] if use_gpu else []
        return Plan((*(provider for provider in wanted if provider in available), CPU), strict=False)
    if device not in PROVIDER_OF:
        raise ModelError(f"unknown device {device!r}", remedy=f"use auto, {', '.join(PROVIDER_OF)}")
    if device == "cpu":
        return Plan((CPU,), strict=False)
    if PROVIDER_OF[device] not in available:
        raise ModelError(f"device {device} is not in this build of ONNX Runtime", remedy=_INSTALL[device])
    # TensorRT hands what it cannot build to CUDA: still the GPU
    return Plan((TENSORRT, CUDA) if device == "tensorrt" else (PROVIDER_OF[device],), strict=True)


@dataclass(frozen=True, slots=True)
class Profile:
    """The input shapes that a TensorRT engine must cover: (3, height, width) and up to ``max_batch`` rows."""

    input_name: str
    chw: tuple[int, int, int]
    max_batch: int

    def text(self, batch: int) -> str:
        """Return the shape in TensorRT's notation, such as ``images:1x3x416x416``."""
        return f"{self.input_name}:{'x'.join(map(str, (batch, *self.chw)))}"


def provider_options(provider: str, cache: Path, profile: Profile | None) -> dict[str, str]:
    """Return the options of one provider.

    CUDA: memory grows by what is asked for, not by doubling. TensorRT: engines and timings are kept in ``cache``, for
    building one takes minutes, and the profile is declared, or every new batch size would build another engine.
    """
    if provider == CUDA:
        return {"arena_extend_strategy": "kSameAsRequested"}
    if provider != TENSORRT:
        return {}
    options = {
        "trt_engine_cache_enable": "1",
        "trt_engine_cache_path": str(cache),
        "trt_timing_cache_enable": "1",
        "trt_timing_cache_path": str(cache),
    }
    if profile is not None:
        options |= {
            "trt_profile_min_shapes": profile.text(1),
            "trt_profile_opt_shapes": profile.text(profile.max_batch),
            "trt_profile_max_shapes": profile.text(profile.max_batch),
        }
    return options


def default_threads(cores: int) -> int:
    """Return the CPU threads of one inference: half the cores, 1 to 4; decoding and encoding need the others."""
    return max(1, min(4, cores // 2))
