"""What the commands need of the rest of the program; the entry point provides it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:  # the configuration takes a while to import, and --help does not need it
    from sentinel_pipeline.domain.errors import SentinelError
    from sentinel_pipeline.interface.config import Config


class StoredEvent(Protocol):
    """One event in the outbox: ``body`` is wire form 1; ``pending_for`` names the sinks that still wait for it."""

    @property
    def seq(self) -> int: ...
    @property
    def body(self) -> bytes: ...
    @property
    def pending_for(self) -> Sequence[str]: ...


class DeadLetter(Protocol):
    """One event that a sink will never take, and why."""

    @property
    def seq(self) -> int: ...
    @property
    def sink(self) -> str: ...
    @property
    def reason(self) -> str: ...
    @property
    def body(self) -> bytes: ...


class EventArchive(Protocol):
    """The outbox as an operator sees it, whether or not the program runs."""

    def list(
        self, limit: int, *, stream: str | None = None, type: str | None = None, stage: str | None = None
    ) -> Sequence[StoredEvent]: ...
    def show(self, event_id: str) -> StoredEvent: ...
    def dead(self, limit: int) -> Sequence[DeadLetter]: ...
    def replay(self, event_ids: Sequence[str], *, sink: str | None = None) -> int: ...
    def replay_dead(self, *, sink: str | None = None) -> int: ...


class Program(Protocol):
    """The program behind the commands."""

    def preflight(self, config: Config) -> Sequence[tuple[str, SentinelError]]:
        """Try what a configuration needs of this machine; return each (where, error)."""
        ...

    def run(self, config: Config, *, duration: float | None, report: Path | None) -> int:
        """Run until stopped; return the exit code."""
        ...

    def demo(self, *, streams: int, duration: float | None, report: Path | None) -> int:
        """Run the demo; return the exit code."""
        ...

    def bench(self, wanted: Mapping[str, Any], *, seconds: float, verify: bool, report: Path | None) -> dict[str, Any]:
        """Measure how many cameras this machine carries; ``wanted`` are the fields of a workload."""
        ...

    def archive(self, path: Path) -> EventArchive:
        """Open an outbox for looking."""
        ...

    def status(self, host: str, port: int, token: str) -> dict[str, Any]:
        """Ask a running program for its report."""
        ...
