"""How the C library keeps memory: set for a program of many threads, in which large pictures come and go."""

from __future__ import annotations

import ctypes
import sys

_M_ARENA_MAX = -8  # malloc.h of glibc
_PR_SET_THP_DISABLE = 41  # linux/prctl.h


def keep_little_memory() -> None:
    """Make this process keep less memory than it does by itself; it cannot be undone.

    All threads share one arena of glibc: with one for each, every stream has room of its own for what its analysis
    needs some times a second. Call it before the first thread is started: one that has allocated something has an arena
    already, and later threads share that as well. And no huge pages, which x264 asks for: of each large buffer they
    fill up 2 MiB of memory with parts that are never used. Children inherit that (prctl(2)), which changes nothing for
    FFmpeg's: they encode nothing. Does nothing where there is no such thing (musl, macOS).
    """
    if sys.platform != "linux":
        return
    libc = ctypes.CDLL(None)
    mallopt = getattr(libc, "mallopt", None)
    if mallopt is not None:
        mallopt(_M_ARENA_MAX, 1)
    libc.prctl(_PR_SET_THP_DISABLE, 1, 0, 0, 0)
