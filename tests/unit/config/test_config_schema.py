"""The JSON Schema, the example and the reference say the same as the code."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sentinel_pipeline.domain.builtin_models import BUILTIN_MODELS, COCO_LABELS
from sentinel_pipeline.domain.settings import ApiSpec, RuntimeSpec
from sentinel_pipeline.domain.streams import DecodeSpec, ReconnectSpec
from sentinel_pipeline.interface.config import json_schema, load_config
from sentinel_pipeline.interface.config.reference import reference
from sentinel_pipeline.interface.config.unsupported import UNSUPPORTED

ROOT = Path(__file__).parents[3]
EXAMPLE = ROOT / "examples/sentinel.yaml"
MANUAL = ROOT / "docs/configuration.md"


def fields() -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Yield section, key and schema of every setting there is."""
    schema = json_schema()
    for section, content in [("root", schema), *schema["$defs"].items()]:
        for key, field in content["properties"].items():
            yield section, key, field


def test_config_schema_describes_every_setting() -> None:
    """Every setting has a sentence, and its default where it has one that says something."""
    for section, key, field in fields():
        assert len(field["description"]) > 3, (section, key)
        if field.get("default") not in (None, "", {}, []):
            assert "Default: " in field["description"], (section, key)


def test_config_schema_has_the_units() -> None:
    """Ranges and defaults are written with their units."""
    described = {(section, key): field["description"] for section, key, field in fields()}
    assert "Range: 100ms to 5m. Default: 10s." in described["DecodeSection", "open_timeout"]
    assert "Range: 1MiB to 1TiB. Default: 512MiB." in described["OutboxSection", "max_size"]


def test_config_schema_allows_substitutions_and_nothing_unknown() -> None:
    """Editors accept ``${VAR}`` for a number or a choice, and flag unknown keys and ids."""
    schema = json_schema()
    assert all(section["additionalProperties"] is False for section in [schema, *schema["$defs"].values()])
    assert schema["properties"]["streams"]["additionalProperties"] is False
    fps = schema["$defs"]["AnalyseSection"]["properties"]["fps"]
    assert any(re.search(option.get("pattern", "$^"), "${FPS}") for option in fps["anyOf"])


def test_config_schema_is_a_fresh_copy() -> None:
    """Changing what was returned changes nothing for the next caller."""
    json_schema()["$defs"].clear()
    assert json_schema()["$defs"]


def test_config_example_loads() -> None:
    """The commented example is a usable configuration by itself."""
    config = load_config(EXAMPLE, {"GATE_PASSWORD": "p@ss", "VMS_TOKEN": "t"})
    (stream,) = config.streams
    assert stream.source == "rtsp://viewer:p%40ss@10.0.0.5:554/stream1"
    assert config.sinks[0].headers == {"Authorization": "Bearer t"}
    assert load_config(EXAMPLE, {}).streams[0].id == "gate"


def test_config_example_writes_the_defaults() -> None:
    """What the example shows as a default is one."""
    config = load_config(EXAMPLE, {})
    (stream,) = config.streams
    assert (stream.decode, stream.reconnect) == (DecodeSpec(), ReconnectSpec())
    assert (config.api, config.runtime) == (ApiSpec(), RuntimeSpec())


def test_config_example_has_every_key() -> None:
    """No setting is missing from the example: each key occurs in it, commented out where it has no value to show."""
    text = EXAMPLE.read_text()
    words = set(re.findall(r"[a-z_0-9]+", text))
    assert {key for _, key, _ in fields()} - words == set()


def test_config_manual_has_the_reference() -> None:
    """The tables of the manual are those that the code gives; see its comment for how to make them again."""
    text = MANUAL.read_text()
    block = re.search(r"<!-- begin: [^\n]*-->\n\n(.*?)\n\n<!-- end -->", text, flags=re.DOTALL)
    assert block
    assert block[1] == reference()


def test_config_manual_names_what_is_missing() -> None:
    """Every feature that is refused is marked in the manual."""
    assert MANUAL.read_text().count("**Not in this version:**") == len(UNSUPPORTED)


def test_config_manual_example_loads(tmp_path: Path) -> None:
    """The smallest useful file of the manual is usable."""
    block = re.search(r"```yaml\n(.*?)```", MANUAL.read_text(), flags=re.DOTALL)
    assert block
    (tmp_path / "a.yaml").write_text(block[1])
    assert load_config(tmp_path / "a.yaml", {"GATE_PASSWORD": "x"}).streams[0].publish is not None


@pytest.mark.parametrize(
    ("index", "label"), [(0, "person"), (2, "car"), (39, "bottle"), (62, "tv"), (79, "toothbrush")]
)
def test_config_coco_labels_are_in_their_order(index: int, label: str) -> None:
    """The COCO classes have the numbers that detection models give them."""
    assert len(set(COCO_LABELS)) == 80
    assert COCO_LABELS[index] == label


def test_config_builtin_models_have_known_families() -> None:
    """Every built-in model can be referred to without an entry in the file."""
    assert {model.family for model in BUILTIN_MODELS.values()} <= {"yolov8", "centerface"}
    assert all(name and model.labels for name, model in BUILTIN_MODELS.items())
