"""Durations, sizes, bit rates and picture sizes as people write them.

Every ``parse_*`` takes what YAML gave (text or a number) and raises ``ValueError``, without the value in its message.
Every ``format_*`` returns text that parses back to the same number.
"""

from __future__ import annotations

import re

DURATIONS = "500ms, 5s, 2m, 1h or 7d"
SIZES = "512MiB or 10MB"
BITRATES = "2M or 800k"

_NUMBER_AND_UNIT = re.compile(r"\s*([0-9]{1,18}(?:\.[0-9]{1,9})?)\s*([A-Za-z]*)\s*", re.ASCII)
_PICTURE = re.compile(r"\s*([0-9]{1,5})\s*[xX]\s*([0-9]{1,5})\s*", re.ASCII)

_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}
_BYTES = {"b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12}
_BYTES |= {"kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40}
_BITS = {"k": 10**3, "m": 10**6, "g": 10**9}


def _split(value: object, plain: str, examples: str) -> tuple[float, str]:
    """Return the number and its unit in lower case, ``plain`` when there is none."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError(f"write {examples}")
    match = _NUMBER_AND_UNIT.fullmatch(str(value))
    if match is None:
        raise ValueError(f"write {examples}")
    return float(match[1]), match[2].lower() or plain


def _scaled(value: object, units: dict[str, int], plain: str, examples: str) -> float:
    number, unit = _split(value, plain, examples)
    if unit not in units:
        raise ValueError(f"write {examples}")
    return number * units[unit]


def parse_duration(value: object) -> float:
    """Return seconds for ``500ms``, ``5s``, ``2m``, ``1h`` or ``7d``; a plain number is in seconds."""
    number, unit = _split(value, "s", DURATIONS)
    if unit == "ms":
        return number / 1000  # exact where multiplying by 0.001 is not: 100ms is 0.1
    if unit not in _SECONDS:
        raise ValueError(f"write {DURATIONS}")
    return number * _SECONDS[unit]


def parse_size(value: object) -> int:
    """Return bytes for ``512MiB`` (2**20) or ``10MB`` (10**6), in any case; a plain number is in bytes."""
    return round(_scaled(value, _BYTES, "b", SIZES))


def parse_bitrate(value: object) -> int:
    """Return bit/s for ``2M`` or ``800k`` (powers of ten); a plain number is in bit/s."""
    return round(_scaled(value, _BITS | {"": 1}, "", BITRATES))


def parse_picture(value: object) -> tuple[int, int]:
    """Return (width, height) in pixels for ``1280x720``."""
    match = _PICTURE.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise ValueError("write WIDTHxHEIGHT, such as 1280x720")
    return int(match[1]), int(match[2])


def format_duration(seconds: float) -> str:
    """Return the shortest exact text: the largest unit that divides it, milliseconds below a second."""
    for unit in ("d", "h", "m", "s"):
        if seconds >= _SECONDS[unit] and seconds % _SECONDS[unit] == 0:
            return f"{int(seconds // _SECONDS[unit])}{unit}"
    return f"{_plain(seconds * 1000)}ms" if 0 < seconds < 1 else f"{_plain(seconds)}s"


def format_size(size: int) -> str:
    """Return the size in the largest binary unit that divides it, else in bytes."""
    for unit, name in ((2**40, "TiB"), (2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
        if size and size % unit == 0:
            return f"{size // unit}{name}"
    return f"{size}B"


def format_bitrate(bits: int) -> str:
    """Return the rate in the largest unit that divides it, else in bit/s."""
    for unit, name in ((10**9, "G"), (10**6, "M"), (10**3, "k")):
        if bits and bits % unit == 0:
            return f"{bits // unit}{name}"
    return str(bits)


def _plain(number: float) -> str:
    return f"{number:.9f}".rstrip("0").rstrip(".")
