"""Runs ONNX models with ONNX Runtime."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import structlog

from sentinel_pipeline.domain.errors import ModelError
from sentinel_pipeline.infrastructure.inference.base import InferenceRuntime, TensorInfo, TensorType
from sentinel_pipeline.infrastructure.inference.bound_session import BoundSession
from sentinel_pipeline.infrastructure.inference.memory import return_freed_memory
from sentinel_pipeline.infrastructure.inference.model_file import check_model_file, short_reason
from sentinel_pipeline.infrastructure.inference.ort import load_onnxruntime
from sentinel_pipeline.infrastructure.inference.providers import (
    CPU,
    CUDA,
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

log = structlog.get_logger(__name__)

_DTYPES = {"tensor(float)": "float32", "tensor(float16)": "float16", "tensor(double)": "float64"}


class ONNXRuntime(InferenceRuntime):
    """An ONNX Runtime session that never spins and uses few threads.

    use_gpu: False keeps ``device: auto`` on the CPU.
    device: ``auto``, or ``cuda``, ``tensorrt``, ``openvino``, ``cpu``, which is then demanded: ``load_model`` raises
    ``ModelError`` when the session did not get it for every node.
    num_threads: CPU threads of one inference; None takes half the cores, at most 4.
    tensorrt: lets ``auto`` try TensorRT. input_shape, max_batch: (3, height, width) and rows to prepare engines for.
    """

    def __init__(
        self,
        use_gpu: bool = True,
        device: str = "auto",
        num_threads: int | None = None,
        *,
        tensorrt: bool = False,
        input_shape: tuple[int, int, int] | None = None,
        max_batch: int = 1,
    ) -> None:
        super().__init__()
        self._use_gpu = use_gpu
        self._device = device
        self._num_threads = num_threads or default_threads(os.cpu_count() or 1)
        self._tensorrt = tensorrt
        self._input_shape = input_shape
        self._max_batch = max_batch
        self._session: Any = None
        self._bound: BoundSession | None = None
        self._output_names: list[str] = []
        self._placement: dict[str, int] = {}
        self._metadata: dict[str, str] = {}

    @property
    def placement(self) -> Mapping[str, int]:
        """How many graph nodes run on which provider; empty before ONNX Runtime 1.32."""
        return self._placement

    @property
    def metadata(self) -> Mapping[str, str]:
        """The custom metadata of the file."""
        return self._metadata

    def load_model(self, model_path: str | Path) -> None:
        """Create the session. Raises ``ModelError``."""
        ort = load_onnxruntime()
        path = check_model_file(model_path)
        plan = plan_providers(
            self._device, ort.get_available_providers(), use_gpu=self._use_gpu, tensorrt=self._tensorrt
        )
        session = self._open(ort, path, plan)
        got = session.get_providers()
        if plan.strict and got[0] != plan.providers[0]:
            raise ModelError(
                f"device {self._device} was demanded but ONNX Runtime gave {got[0]}",
                remedy="check the driver and its libraries, or set device: auto",
            )
        if got[0] != plan.providers[0]:
            log.warning("faster provider not to be had", asked=plan.providers[0], got=got[0], file=path.name)
        return_freed_memory()
        self._session = session
        self._inputs = tuple(_info(arg) for arg in session.get_inputs())
        self._outputs = tuple(_info(arg) for arg in session.get_outputs())
        self._output_names = [info.name for info in self._outputs]
        self._metadata = dict(session.get_modelmeta().custom_metadata_map)
        self._placement = _placement(session)
        self._provider = max(self._placement, key=self._placement.__getitem__) if self._placement else got[0]
        self._bound = BoundSession(ort, session, "cuda") if binds_buffers(self._placement, self._provider) else None
        log.info("model loaded", file=path.name, provider=self._provider, asked=plan.providers, nodes=self._placement)

    def infer(self, inputs: dict[str, TensorType]) -> dict[str, TensorType]:
        """Run the session. Raises ``ModelError``."""
        if self._session is None:
            raise ModelError("no model is loaded", remedy="call load_model first")
        self._check_inputs(inputs)
        try:
            with self._timed(inputs):
                outputs = self._bound.run(inputs) if self._bound else self._session.run(self._output_names, inputs)
        except Exception as exc:  # ONNX Runtime's errors have no common base class
            raise ModelError(f"the inference failed: {short_reason(exc)}") from exc
        return dict(zip(self._output_names, outputs, strict=True))

    def close(self) -> None:
        """Free the session."""
        self._session = self._bound = None

    def _open(self, ort: Any, path: Path, plan: Plan) -> Any:
        """Return a session; ``auto`` goes on with the next provider where one raises (a GPU without its libraries)."""
        if CUDA in plan.providers and hasattr(ort, "preload_dlls"):
            ort.preload_dlls()  # finds CUDA and cuDNN in the nvidia-* packages, which are on no library path
        left = list(plan.providers)
        while True:
            try:
                return self._session_with(ort, path, left, strict=plan.strict)
            except Exception as exc:
                if plan.strict or len(left) == 1:
                    raise self._load_error(path, plan, exc) from exc
                log.warning("provider failed, the next is tried", provider=left[0], reason=short_reason(exc))
                del left[0]

    def _session_with(self, ort: Any, path: Path, providers: list[str], *, strict: bool) -> Any:
        with_options = [(name, self._options(ort, path, name)) for name in providers]
        return ort.InferenceSession(
            str(path), self._session_options(ort, strict=strict), providers=with_options, enable_fallback=0
        )

    def _load_error(self, path: Path, plan: Plan, exc: Exception) -> ModelError:
        reason = short_reason(exc)
        if plan.strict and "CPU EP" in reason:
            return ModelError(
                f"device {self._device} was demanded but it cannot run every node of {path.name}",
                remedy="check the driver and its libraries, or set device: auto to run the rest on the CPU",
            )
        return ModelError(f"{path} is not a usable ONNX model: {reason}", remedy="check it, or export it again")

    def _session_options(self, ort: Any, *, strict: bool) -> Any:
        options = ort.SessionOptions()
        options.intra_op_num_threads = self._num_threads
        options.inter_op_num_threads = 1
        options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
        # A pattern is a second copy of the arena, planned for one input shape: 9 MB at batch 1, 74 MB at batch 8
        # (NanoDet 416), and no CPU time is saved. Without the arena itself memory grows further, and runs cost more.
        options.enable_mem_pattern = False
        options.log_severity_level = 4  # fatal only: errors come as exceptions, and are logged once, by us
        entries = {
            # Spinning burns 94 % of a core at 30 small inferences a second, 3 % without
            "session.intra_op.allow_spinning": "0",
            "session.inter_op.allow_spinning": "0",
            "session.record_ep_graph_assignment_info": "1",
            "session.disable_cpu_ep_fallback": "1" if strict else "0",
        }
        for key, value in entries.items():
            options.add_session_config_entry(key, value)
        return options

    def _options(self, ort: Any, path: Path, provider: str) -> dict[str, str]:
        cache, profile = cache_folder(os.environ, Path.home()) / "tensorrt", None
        if provider == TENSORRT:
            cache.mkdir(parents=True, exist_ok=True)
            profile = self._profile(ort, path)
        return provider_options(provider, cache, profile, self._num_threads)

    def _profile(self, ort: Any, path: Path) -> Profile | None:
        """Return the shapes to build an engine for; a first session on the CPU tells the inputs' names and sizes."""
        if self._input_shape is None:
            return None
        inputs = [_info(arg) for arg in ort.InferenceSession(str(path), providers=[CPU]).get_inputs()]
        return make_profile(inputs, self._input_shape, self._max_batch)


def _info(arg: Any) -> TensorInfo:
    shape = tuple(dim if isinstance(dim, int) else None for dim in arg.shape)
    return TensorInfo(arg.name, shape, _DTYPES.get(arg.type, arg.type))


def _placement(session: Any) -> dict[str, int]:
    """Return the nodes per provider; ONNX Runtime tells since 1.32."""
    if not hasattr(session, "get_provider_graph_assignment_info"):
        return {}
    nodes: Counter[str] = Counter()
    for subgraph in session.get_provider_graph_assignment_info():
        nodes[subgraph.ep_name] += len(subgraph.get_nodes())
    return dict(nodes)
