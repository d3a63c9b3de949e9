"""Which ONNX Runtime execution providers to ask for, and with what options. Decisions only; tested as tables."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from sentinel_pipeline.domain.errors import ModelError
from sentinel_pipeline.infrastructure.inference.base import TensorInfo

CPU = "CPUExecutionProvider"
CUDA = "CUDAExecutionProvider"
OPENVINO = "OpenVINOExecutionProvider"
TENSORRT = "TensorrtExecutionProvider"

PROVIDER_OF = {"cuda": CUDA, "tensorrt": TENSORRT, "openvino": OPENVINO, "cpu": CPU}

_GPU = (CUDA, TENSORRT)

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


def on_cpu(provider: str) -> bool:
    """Return whether ``provider`` computes on the CPU's cores; OpenVINO does unless it is told otherwise."""
    return provider in (CPU, OPENVINO, "cpu")


def binds_buffers(placement: Mapping[str, int], provider: str) -> bool:
    """Return whether a session's inputs are kept in buffers on the GPU: where all of it runs there.

    placement: graph nodes per provider, empty when unknown. With nodes on the CPU in between there is nothing to gain.
    """
    return provider in _GPU and all(name in _GPU for name in placement)


def cache_folder(environ: Mapping[str, str], home: Path) -> Path:
    """Return where built engines are kept (XDG Base Directory Specification: a relative path is ignored)."""
    base = Path(environ.get("XDG_CACHE_HOME", ""))
    return (base if base.is_absolute() else home / ".cache") / "sentinel"


@dataclass(frozen=True, slots=True)
class Profile:
    """The input shapes that a TensorRT engine must cover: (3, height, width), ``min_batch`` to ``max_batch`` rows."""

    input_name: str
    chw: tuple[int, int, int]
    max_batch: int
    min_batch: int = 1

    def text(self, batch: int) -> str:
        """Return the shape in TensorRT's notation, such as ``images:1x3x416x416``."""
        return f"{self.input_name}:{'x'.join(map(str, (batch, *self.chw)))}"


def make_profile(inputs: Sequence[TensorInfo], chw: tuple[int, int, int], max_batch: int) -> Profile | None:
    """Return the shapes to build engines for; None where the file fixes them all, or has several free inputs.

    ``chw``: (3, height, width) for what the file leaves free.
    """
    free = [info for info in inputs if None in info.shape]
    if len(free) != 1 or len(free[0].shape) != 4:
        return None
    batch, *own = free[0].shape
    channels, height, width = (size or asked for size, asked in zip(own, chw, strict=True))
    return Profile(free[0].name, (channels, height, width), batch or max_batch, batch or 1)


def provider_options(provider: str, cache: Path, profile: Profile | None, threads: int) -> dict[str, str]:
    """Return the options of one provider.

    OpenVINO: its threads, for it does not take over the session's and would use every core. CUDA: memory grows by what
    is asked for, not by doubling. TensorRT: engines and timings are kept in ``cache``, for
    building one takes minutes, and the profile is declared, or every new batch size would build another engine.
    """
    if provider == OPENVINO:
        return {"num_of_threads": str(threads)}
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
            "trt_profile_min_shapes": profile.text(profile.min_batch),
            "trt_profile_opt_shapes": profile.text(profile.max_batch),
            "trt_profile_max_shapes": profile.text(profile.max_batch),
        }
    return options


def default_threads(cores: int) -> int:
    """Return the CPU threads of one inference: half the cores, 1 to 4; decoding and encoding need the others."""
    return max(1, min(4, cores // 2))
