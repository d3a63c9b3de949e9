"""Classes that only the model's own file can tell."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest

from faults.models import make_onnx
from sentinel_pipeline.bootstrap import preflight, running
from sentinel_pipeline.domain.errors import ConfigError
from sentinel_pipeline.interface.config import Config, load_config

ASKED = {
    "privacy": "privacy: {blur: [persom], model: mine}",
    "detection": "analyse: {detect: {model: mine, classes: [persom]}}",
}


def _config(folder: Path, asked: str) -> Config:
    path = make_onnx(folder / "mine.onnx", "none")
    model = onnx.load(str(path))
    model.metadata_props.add(key="names", value="{0: 'person'}")
    onnx.save(model, str(path))
    file = folder / "sentinel.yaml"
    file.write_text(
        f"version: 1\nmodels: {{mine: {{path: mine.onnx}}}}\nstreams: {{gate: {{source: 'test:', {asked}}}}}\n"
        "outbox: {path: outbox.db}\napi: {listen: '127.0.0.1:0'}\n"
    )
    return load_config(file, {})


@pytest.mark.parametrize("asked", ASKED.values(), ids=ASKED)
def test_model_without_a_class_that_is_asked_for(asked: str, tmp_path: Path) -> None:
    """A slip is refused by ``check`` and at the start: a class that nobody finds would be seen, or hidden, never."""
    config = _config(tmp_path, asked)
    ((where, error),) = preflight(config)
    assert where == "models.mine"
    assert "streams.gate" in str(error)
    assert "has no class persom" in str(error)
    with pytest.raises(ConfigError, match="persom"), running(config):
        pytest.fail("it runs")
