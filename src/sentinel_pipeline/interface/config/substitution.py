"""Values from outside the file: ``${VAR}``, ``${VAR:-default}`` and ``${file:/run/secrets/x}``.

``$${`` is a literal ``${``. A default also takes the place of an empty variable, as in the shell.
No message carries what was read, nor text from around the substitution: both may be secrets.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from sentinel_pipeline.interface.config.suggestions import closest

SECRET_LIMIT = 64 * 1024  # bytes; a file that is larger is not a secret but a mistake

_TOKEN = re.compile(r"\$\$\{|\$\{([^{}]*)\}|\$\{")
_VARIABLE = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)(?::-(.*))?", re.ASCII | re.DOTALL)


@dataclass(frozen=True, slots=True)
class Fault:
    """A substitution that cannot be done."""

    message: str
    remedy: str


@dataclass(frozen=True, slots=True)
class Substituted:
    """The text with everything filled in. ``touched`` when something came from outside; it may be a secret then."""

    text: str = field(repr=False)
    touched: bool = False
    faults: tuple[Fault, ...] = ()


def substitute(text: str, environ: Mapping[str, str], base: Path) -> Substituted:
    """Fill in every substitution of ``text``. Files are read relative to ``base``; values are not substituted again."""
    if "${" not in text:
        return Substituted(text)
    faults: list[Fault] = []
    touched = False

    def fill(match: re.Match[str]) -> str:
        nonlocal touched
        if match[0] == "$${":
            return "${"
        touched = True
        found = _look_up(match[1], environ, base)
        if isinstance(found, Fault):
            faults.append(found)
            return ""
        return found

    return Substituted(_TOKEN.sub(fill, text), touched, tuple(faults))


def _look_up(body: str | None, environ: Mapping[str, str], base: Path) -> str | Fault:
    if body is None:
        return Fault("`${` has no closing `}`", "write ${NAME}, or $${ for a literal ${")
    if body.startswith("file:"):
        return _read_secret(base / body.removeprefix("file:"))
    match = _VARIABLE.fullmatch(body)
    if match is None:
        return Fault("`${…}` does not hold the name of a variable", "write ${NAME}, ${NAME:-default} or ${file:/path}")
    name, default = match[1], match[2]
    value = environ.get(name, "")
    if not _is_text(value):
        return Fault(f"the environment variable {name} is not UTF-8 text", f"set {name} again")
    if default is not None:
        return value or default
    return value if name in environ else _unset(name, environ)


def _unset(name: str, environ: Mapping[str, str]) -> Fault:
    near = closest(name, environ)
    hint = f"did you mean {near}? Otherwise " if near else ""
    return Fault(f"the environment variable {name} is not set", f"{hint}set it, or give a default: ${{{name}:-…}}")


def _read_secret(path: Path) -> str | Fault:
    remedy = "name a readable text file, relative to the configuration file or absolute"
    try:
        if not path.is_file():
            return Fault(f"the file {path} of a substitution does not exist or is not a plain file", remedy)
        with path.open("rb") as file:
            raw = file.read(SECRET_LIMIT + 1)
    except OSError as exc:
        return Fault(f"the file {path} of a substitution cannot be read: {exc.strerror}", remedy)
    if len(raw) > SECRET_LIMIT:
        return Fault(f"the file {path} of a substitution is larger than {SECRET_LIMIT // 1024} KiB", remedy)
    try:
        return raw.decode("utf-8").rstrip("\r\n")
    except UnicodeDecodeError:
        return Fault(f"the file {path} of a substitution is not UTF-8 text", remedy)


def _is_text(value: str) -> bool:
    """Return False for the lone surrogates by which Python carries undecodable bytes of the environment."""
    return not any("\ud800" <= character <= "\udfff" for character in value)
