"""What is wrong with a configuration, where, and what to do about it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from sentinel_pipeline.domain.errors import ConfigError

_HARMLESS_KEY = re.compile(r"[\w .<-]{0,64}")
Steps = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing to repair.

    ``line`` and ``column`` count from 1; ``where`` is a dotted path such as ``streams.gate.source``.
    No field ever carries the value of a secret, of a substitution or of a URL.
    """

    file: str
    line: int
    column: int
    where: str
    message: str
    remedy: str = ""

    def __str__(self) -> str:
        where = f"{self.where}: " if self.where else ""
        remedy = f" ({self.remedy})" if self.remedy else ""
        return f"{self.file}:{self.line}:{self.column}: {where}{self.message}{remedy}"


class ConfigProblems(ConfigError):
    """A configuration that cannot be used: every problem found, in the order of the file."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems: tuple[Problem, ...] = tuple(
            sorted(set(problems), key=lambda p: (p.line, p.column, p.where, p.message))
        )
        count = len(self.problems)
        super().__init__(
            f"{count} problem{'s' if count != 1 else ''} in the configuration\n{format_problems(self.problems)}"
        )


def format_problems(problems: Sequence[Problem]) -> str:
    """Return one line per problem: ``file:line:column: where: message (remedy)``."""
    return "\n".join(str(problem) for problem in problems)


def key_shown(key: str) -> str:
    """Return a key as it may be shown: a URL with a password, written where a key belongs, becomes ``…``."""
    return key if _HARMLESS_KEY.fullmatch(key) else "…"


def dotted(path: Steps) -> str:
    """Return ``streams.gate.analyse.rules[0].polygon`` for a path of keys and indexes."""
    text = ""
    for step in path:
        text += f"[{step}]" if isinstance(step, int) else f"{'.' if text else ''}{key_shown(step)}"
    return text
