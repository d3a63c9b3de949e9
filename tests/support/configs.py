"""Configurations of one stream, and how a test says what is wrong with one."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from sentinel_pipeline.interface.config import Config
from sentinel_pipeline.interface.config.problems import Problem

Load = Callable[..., Config]
Problems = Callable[..., Sequence[Problem]]


def stream(text: str) -> str:
    """Return a file with the stream ``gate``, which has a source and the keys in ``text``."""
    return f"version: 1\nstreams:\n  gate: {{source: 'test:', {text}}}\n"


def assert_refused(problems: Problems, text: str, where: str, message: str, remedy: str) -> None:
    """Assert that a stream with the keys in ``text`` has one problem: at this place, in these words, with a way out."""
    (found,) = problems(stream(text))
    assert found.where == f"streams.gate.{where}"
    assert message in found.message
    assert remedy in found.remedy
