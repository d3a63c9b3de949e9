"""Checks on a model file before a library sees it, and short reasons from what libraries say about bad ones."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

from sentinel_pipeline.domain.errors import ModelError
from sentinel_pipeline.domain.redact import redact

_ORT_PREFIX = re.compile(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ")


def check_model_file(path: str | Path) -> Path:
    """Return ``path`` when it is a file with something in it. Raises ``ModelError``."""
    file = Path(path)
    if not file.exists():
        raise ModelError(f"model file {file} does not exist", remedy="check `path:`; it is relative to where you start")
    if not file.is_file():
        raise ModelError(f"model file {file} is not a file", remedy="name the model file itself")
    try:
        with file.open("rb") as stream:
            empty = not stream.read(1)
    except OSError as exc:
        raise ModelError(f"model file {file} cannot be read: {exc.strerror}", remedy="check its permissions") from exc
    if empty:
        raise ModelError(f"model file {file} is empty", remedy="copy or export it again")
    return file


def verify_sha256(path: str | Path, expected: str) -> None:
    """Raise ``ModelError`` unless the file has the digest ``expected`` (64 hex digits, any case).

    ONNX models with external data keep their weights in further files, which this does not cover.
    """
    file = check_model_file(path)
    with file.open("rb") as stream:
        actual = hashlib.file_digest(stream, "sha256").hexdigest()
    if actual != expected.strip().lower():
        raise ModelError(
            f"model file {file} has the sha256 {actual}, not the pinned {expected.strip().lower()}",
            remedy="restore the file, or pin the new digest if you trust it",
        )


def short_reason(exc: BaseException) -> str:
    """Return one clean line out of a library's error text, without its traceback or codes.

    TorchScript errors begin with the interpreter's traceback and end with the reason; others begin with the reason.
    """
    lines = [line.strip() for line in redact(str(exc)).splitlines() if line.strip()]
    if not lines:
        return type(exc).__name__
    line = lines[-1] if "Traceback" in str(exc) else lines[0]
    line = _ORT_PREFIX.sub("", line)
    sentence = re.split(r"(?<=[.:]) (?=This is an internal|Status Message)", line)[0]
    return sentence.rstrip(".")[:200]
