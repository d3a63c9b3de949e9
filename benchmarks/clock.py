"""A clock in the picture that a program can read: 32 black or white blocks along the lower edge.

24 bits of milliseconds of the machine's monotonic clock (which all processes share) and 8 bits of checksum, so that a
block that a label hides makes the picture unreadable, not wrong.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

BITS = 32
_WHITE, _BLACK, _GREY = 235, 16, 126
_PERIOD_MS = 1 << 24


def luma_of(frame: Any) -> NDArray[np.uint8]:
    """Return a view of the luma plane (H, W) of a PyAV frame; writable when the frame is."""
    plane = frame.planes[0]
    rows: NDArray[np.uint8] = np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)
    return rows[: plane.height, : plane.width]


def stamp(luma: NDArray[np.uint8], now: float) -> None:
    """Write ``now`` (monotonic seconds) into a luma plane (H, W), W at least 256, in place."""
    value = int(now * 1000) % _PERIOD_MS
    word = value << 8 | _checksum(value)
    side = luma.shape[1] // BITS
    for bit in range(BITS):
        luma[-side:, bit * side : (bit + 1) * side] = _WHITE if word >> (BITS - 1 - bit) & 1 else _BLACK


def read(luma: NDArray[np.uint8]) -> int | None:
    """Return the milliseconds in a luma plane, None when they cannot be read."""
    side = luma.shape[1] // BITS
    edge = side // 4
    word = 0
    for bit in range(BITS):
        middle = luma[-side + edge : -edge, bit * side + edge : (bit + 1) * side - edge]
        word = word << 1 | int(middle.mean() > _GREY)
    value, check = word >> 8, word & 0xFF
    return value if check == _checksum(value) else None


def elapsed_ms(then_ms: int, now: float) -> float:
    """Return the milliseconds from a stamp to ``now`` (monotonic seconds)."""
    return (now * 1000 - then_ms) % _PERIOD_MS


def _checksum(value: int) -> int:
    return (value & 0xFF) ^ (value >> 8 & 0xFF) ^ (value >> 16) ^ 0x5A
