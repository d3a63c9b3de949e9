"""Gives memory that a library has freed back to the system."""

from __future__ import annotations

import ctypes


def return_freed_memory() -> None:
    """Ask the C library to return what is free; does nothing where it cannot (musl, macOS).

    Loading a model takes three times its weights for a moment; glibc keeps what was freed (28 MB for NanoDet 416).
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
