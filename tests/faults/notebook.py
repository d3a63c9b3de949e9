"""What the tests of the laboratory have seen, for docs/reliability.md."""

from __future__ import annotations

from typing import Any


class Notebook:
    """The entries of one test."""

    def __init__(self, test: str) -> None:
        self._test = test
        self.entries: list[dict[str, Any]] = []

    def fault(
        self,
        row: str,
        fault: str,
        *,
        seen: str,
        noticed_s: float | None = None,
        recovered_s: float | None = None,
        ended_s: float | None = None,
    ) -> None:
        """Note one fault: the state and reason that the user saw, and seconds to notice, to recover, to end on SIGTERM.

        row: the part of the fault table, one of ``faults.reliability.ROWS``.
        """
        self.entries.append(
            {
                "kind": "fault", "test": self._test, "row": row, "fault": fault, "seen": seen,
                "noticed_s": noticed_s, "recovered_s": recovered_s, "ended_s": ended_s,
            }
        )  # fmt: skip

    def figure(self, what: str, wanted: str, measured: str) -> None:
        """Note one of the figures to reach."""
        self.entries.append(
            {"kind": "figure", "test": self._test, "what": what, "wanted": wanted, "measured": measured}
        )
