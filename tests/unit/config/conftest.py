"""Writes a configuration, loads it, and says what was wrong."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from sentinel_pipeline.interface.config import Config, ConfigProblems, Problem, load_config

Load = Callable[..., Config]
Problems = Callable[..., tuple[Problem, ...]]


@pytest.fixture
def load(tmp_path: Path) -> Load:
    """Return a function that loads a configuration given as text."""

    def load_text(text: str, environ: Mapping[str, str] | None = None, name: str = "site.yaml") -> Config:
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return load_config(path, environ or {})

    return load_text


@pytest.fixture
def problems(load: Load) -> Problems:
    """Return a function that loads a configuration which cannot be used, and gives its problems."""

    def problems_of(
        text: str, environ: Mapping[str, str] | None = None, name: str = "site.yaml"
    ) -> tuple[Problem, ...]:
        with pytest.raises(ConfigProblems) as caught:
            load(text, environ, name)
        return caught.value.problems

    return problems_of
