"""What a model is asked to be: its file or built-in name, how to read its outputs, and where to run it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Device = Literal["auto", "cuda", "tensorrt", "openvino", "cpu"]
Resize = Literal["letterbox", "stretch"]


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """One model, loaded once per process and shared by all streams. Two equal specs need no restart.

    Exactly one of ``builtin`` (a name of the registry) and ``path`` (.onnx, TorchScript .pt or .torchscript, .pt2).
    family, labels, resize, input_size: None takes the built-in model's, the file's or the family's own; ``labels`` is
    ``"coco"``, the path of a file with one name a line, or the names. ``input_size`` is (width, height) in pixels.
    tensorrt: let ``device: auto`` try TensorRT first (building an engine takes minutes and memory).
    max_size, max_wait: most rows per batch across streams, and most seconds that an incomplete batch waits for more.
    max_size None: 8 on a GPU, 1 on a CPU, where a batch costs as much as its pictures one by one.
    sha256: hex digest the file must have. Models are trusted input: TorchScript and ``.pt2`` files can run code.
    threads: CPU threads of one inference. timeout: seconds after which a caller stops waiting for its result.
    """

    id: str
    builtin: str | None = None
    path: str | None = None
    family: str | None = None
    labels: str | tuple[str, ...] | None = None
    device: Device = "auto"
    tensorrt: bool = False
    max_size: int | None = None
    max_wait: float = 0.005
    sha256: str | None = None
    resize: Resize | None = None
    input_size: tuple[int, int] | None = None
    threads: int | None = None
    timeout: float = 2.0
