"""Classes that only the model's own file can tell."""

from __future__ import annotations

import subprocess
from pathlib import Path

import onnx
import pytest

from faults.models import make_onnx
from support.program import COMMAND

ASKED = {
    "privacy": "privacy: {blur: [persom], model: mine}",
    "detection": "analyse: {detect: {model: mine, classes: [persom]}}",
}


def _configuration(folder: Path, asked: str) -> Path:
    path = make_onnx(folder / "mine.onnx", "none")
    model = onnx.load(str(path))
    model.metadata_props.add(key="names", value="{0: 'person'}")
    onnx.save(model, str(path))
    file = folder / "sentinel.yaml"
    file.write_text(
        f"version: 1\nmodels: {{mine: {{path: mine.onnx}}}}\nstreams: {{gate: {{source: 'test:', {asked}}}}}\n"
        "outbox: {path: outbox.db}\napi: {listen: '127.0.0.1:0'}\n"
    )
    return file


@pytest.mark.parametrize("asked", ASKED.values(), ids=ASKED)
def test_model_without_a_class_that_is_asked_for(asked: str, tmp_path: Path) -> None:
    """A slip is refused by ``check`` and at the start: a class that nobody finds would be seen, or hidden, never."""
    file = _configuration(tmp_path, asked)
    for command in ("check", "run"):
        ended = subprocess.run(
            [*COMMAND, command, str(file)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        assert ended.returncode == 2, ended.stderr
        assert "streams.gate" in ended.stdout + ended.stderr
        assert "has no class persom" in ended.stdout + ended.stderr
        assert "Traceback" not in ended.stderr
