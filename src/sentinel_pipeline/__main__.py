"""The entry point: joins the command line with the program, and turns errors into exit codes.

Exit codes: 0 done, 1 failed while running, 2 bad usage or configuration.
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sentinel_pipeline.domain.errors import ConfigError, SentinelError
from sentinel_pipeline.domain.redact import redact
from sentinel_pipeline.interface.cli.app import make_app
from sentinel_pipeline.interface.cli.output import complain

if TYPE_CHECKING:
    from sentinel_pipeline.interface.cli.program import EventArchive
    from sentinel_pipeline.interface.config import Config


class LazyProgram:
    """Imports the heavy parts when a command needs them, so that ``--help`` answers at once."""

    def preflight(self, config: Config) -> Sequence[tuple[str, SentinelError]]:
        from sentinel_pipeline.bootstrap.preflight import preflight

        return preflight(config)

    def run(self, config: Config, *, duration: float | None, report: Path | None) -> int:
        from sentinel_pipeline.bootstrap.run import run

        return run(config, duration=duration, report=report)

    def demo(self, *, streams: int, duration: float | None, report: Path | None) -> int:
        from sentinel_pipeline.demo import demo

        return demo(streams=streams, duration=duration, report=report)

    def bench(self, wanted: Mapping[str, Any], *, seconds: float, verify: bool, report: Path | None) -> dict[str, Any]:
        from sentinel_pipeline.bench.bench import bench
        from sentinel_pipeline.bench.capacity import Workload

        return bench(Workload(**wanted), seconds=seconds, verify=verify, report=report)

    def archive(self, path: Path) -> EventArchive:
        from sentinel_pipeline.infrastructure.storage.outbox_reader import OutboxReader

        return OutboxReader(path)

    def status(self, host: str, port: int, token: str) -> dict[str, Any]:
        from sentinel_pipeline.interface.api.client import ask_status

        return ask_status(host, port, token)


def main() -> None:
    """Run ``sentinel``."""
    app = make_app(LazyProgram())
    try:
        app()
    except ConfigError as exc:
        complain(exc)
        sys.exit(2)
    except SentinelError as exc:
        complain(exc)
        sys.exit(1)
    except BrokenPipeError:
        sys.exit(1)  # the reader of our output went away
    except Exception as exc:  # noqa: BLE001 - the outermost frame: nothing leaves it unredacted
        complain(redact("".join(traceback.format_exception(exc))))
        complain("error: this is a bug in sentinel; please report it with the lines above")
        sys.exit(1)


if __name__ == "__main__":
    main()
