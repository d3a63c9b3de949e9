"""Did you mean …?"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


def closest(wrong: str, known: Iterable[str]) -> str | None:
    """Return the known name that is most like ``wrong``, or None when none is like it; case does not count."""
    names = {name.lower(): name for name in known}
    found = get_close_matches(wrong.lower(), names, n=1, cutoff=0.6)
    return names[found[0]] if found else None


def listing(known: Iterable[str], most: int = 8) -> str:
    """Return ``a, b or c``; of long lists the first ``most`` names and how many there are."""
    names = list(known)
    if len(names) > most:
        return f"{', '.join(names[:most])} … ({len(names)} in all)"
    return " or ".join(part for part in (", ".join(names[:-1]), names[-1]) if part) if names else "none"


def did_you_mean(wrong: str | None, known: Iterable[str]) -> str:
    """Return a remedy: the closest known name, or all of them. ``wrong`` None when it must not be looked at."""
    names = list(known)
    match = closest(wrong, names) if wrong is not None else None
    return f"did you mean {match}?" if match else f"write {listing(names)}"
