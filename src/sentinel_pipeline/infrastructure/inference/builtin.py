"""The files of the models that come with the program."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from sentinel_pipeline.domain.builtin_models import BUILTIN_MODELS
from sentinel_pipeline.domain.errors import ConfigError
from sentinel_pipeline.domain.models import Resize


@dataclass(frozen=True, slots=True)
class BuiltinFile:
    """A shipped model file. ``input_size``: (width, height) in pixels, the default where the file leaves it free."""

    file: str
    sha256: str
    resize: Resize
    input_size: tuple[int, int]

    @property
    def path(self) -> Path:
        """Where the installed package has it."""
        return Path(str(resources.files("sentinel_pipeline.assets") / self.file))


BUILTIN_FILES: dict[str, BuiltinFile] = {
    "nanodet-g-416": BuiltinFile(
        "nanodet-g-416.onnx",
        "440f5c0204dda7f22f3f43637afb3876312914a836c196460d7a7032e4d47e39",
        "letterbox",
        (416, 416),
    ),
    "nanodet-g-416-int8": BuiltinFile(
        "nanodet-g-416-int8.onnx",
        "602b3fb6681f70e341028458a814ecc171150e62331d4b62f68023836c13c6d9",
        "letterbox",
        (416, 416),
    ),
    "centerface": BuiltinFile(
        "centerface.onnx",
        "d32b9bc8142155e7f1e9f9f3dc7dd1761abee80a1588cf081c42d9ac97a435c3",
        "stretch",
        (640, 384),
    ),
}


def find_builtin(name: str) -> BuiltinFile:
    """Return the built-in model called ``name``. Raises ``ConfigError``."""
    if name in BUILTIN_FILES and name in BUILTIN_MODELS:
        return BUILTIN_FILES[name]
    close = difflib.get_close_matches(name, BUILTIN_FILES, n=1)
    remedy = f"did you mean {close[0]}?" if close else f"use one of {', '.join(BUILTIN_FILES)}"
    raise ConfigError(f"there is no built-in model {name!r}", remedy=remedy)
