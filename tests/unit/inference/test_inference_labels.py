"""Where class names come from, and what the shipped models are."""

from __future__ import annotations

from pathlib import Path

import pytest

from sentinel_pipeline.domain.builtin_models import BUILTIN_MODELS
from sentinel_pipeline.domain.errors import ConfigError
from sentinel_pipeline.infrastructure.inference.builtin import BUILTIN_FILES, find_builtin
from sentinel_pipeline.infrastructure.inference.families import FAMILIES
from sentinel_pipeline.infrastructure.inference.labels import labels_in_metadata, read_labels
from sentinel_pipeline.infrastructure.inference.model_file import verify_sha256

ROOT = Path(__file__).parents[3]


def test_coco_has_its_eighty_classes_in_order() -> None:
    """``coco`` stands for the 80 detection classes in the order in which models count them."""
    coco = read_labels("coco")
    assert (len(coco), len(set(coco))) == (80, 80)
    assert (coco[0], coco[2], coco[24], coco[60], coco[79]) == (
        "person",
        "car",
        "backpack",
        "dining table",
        "toothbrush",
    )


def test_labels_from_a_list_and_from_a_file(tmp_path: Path) -> None:
    """A list is taken as it is; a file has one name a line, spaces around it do not count."""
    assert read_labels(("fire", "smoke")) == ("fire", "smoke")
    file = tmp_path / "labels.txt"
    file.write_text(" fire \nhot smoke\n\n\n", encoding="utf-8")
    assert read_labels(str(file)) == ("fire", "hot smoke")


@pytest.mark.parametrize("content", [None, b"", b"a\n\nb\n", b"\xff\xfe\x00"], ids=["none", "empty", "gap", "binary"])
def test_labels_that_cannot_be_used_are_refused(tmp_path: Path, content: bytes | None) -> None:
    """A missing, empty or binary file and a gap between names are configuration errors."""
    file = tmp_path / "labels.txt"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ConfigError, match="label"):
        read_labels(str(file))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{0: 'person', 1: 'car'}", ("person", "car")),
        ("['a', 'b']", ("a", "b")),
        ("{1: 'person'}", None),
        ("__import__('os')", None),
        ("", None),
        ("[]", None),
    ],
)
def test_labels_in_metadata(text: str, expected: tuple[str, ...] | None) -> None:
    """The exporter's names are read as data; anything else is ignored."""
    assert labels_in_metadata({"names": text}) == expected
    assert labels_in_metadata({}) is None


def test_find_builtin_suggests_the_nearest_name() -> None:
    """A misspelt built-in model is answered with the right name, a strange one with the list."""
    with pytest.raises(ConfigError, match=r"no built-in model 'nanodet-416' \(did you mean nanodet-g-416\?\)"):
        find_builtin("nanodet-416")
    with pytest.raises(ConfigError, match="use one of nanodet-g-416, nanodet-g-416-int8, centerface"):
        find_builtin("zzz")


@pytest.mark.parametrize("name", BUILTIN_FILES)
def test_builtin_models_are_the_files_that_were_pinned(name: str) -> None:
    """Every built-in model has a known family, its file is in the package, unchanged, and NOTICE names its origin."""
    assert set(BUILTIN_FILES) == set(BUILTIN_MODELS)
    assert BUILTIN_MODELS[name].family in FAMILIES
    verify_sha256(find_builtin(name).path, BUILTIN_FILES[name].sha256)
    assert f"sha256 {BUILTIN_FILES[name].sha256}" in " ".join((ROOT / "NOTICE").read_text().split())
