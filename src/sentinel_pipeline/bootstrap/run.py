"""Runs a configuration until somebody wants it to end."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path

import structlog
from rich.console import Console

from sentinel_pipeline.bootstrap.program import Running, running
from sentinel_pipeline.infrastructure.allocator import keep_little_memory
from sentinel_pipeline.interface.config import Config
from sentinel_pipeline.interface.ending import Ending
from sentinel_pipeline.interface.live import LiveTable
from sentinel_pipeline.interface.logs import configure_logging
from sentinel_pipeline.interface.outlet import Outlet
from sentinel_pipeline.interface.report import ensure_writable, write_report

log = structlog.get_logger(__name__)


def run(config: Config, *, duration: float | None = None, report: Path | None = None) -> int:
    """Run ``config`` until SIGTERM, SIGINT or the end of ``duration`` seconds; return the exit code.

    At SIGHUP the configuration's file is read again.
    """
    keep_little_memory()  # before Ending, whose thread would have an arena of its own
    with Ending(reloads=True) as ending:
        return run_until(ending, config, duration=duration, report=report)


def run_until(
    ending: Ending,
    config: Config,
    *,
    duration: float | None = None,
    report: Path | None = None,
    notes: Sequence[str] = (),
) -> int:
    """Run ``config`` until ``ending`` is asked for or ``duration`` seconds are over; return the exit code."""
    configure_logging(config.runtime.log_format, config.runtime.log_level)
    if report is not None:
        ensure_writable(report)
    with running(config) as program:
        log.info("running", streams=len(config.streams), sinks=len(config.sinks), api=program.api_url)
        watch(program, ending, duration, notes)
        ending.begin()
        final = program.finish()
        if report is not None:
            write_report(report, final)
    log.info("stopped")
    return 0


def watch(program: Running, ending: Ending, duration: float | None, notes: Sequence[str]) -> None:
    """Wait for the end; meanwhile show the live table on a terminal, a JSON line every ten seconds otherwise."""
    until = time.monotonic() + duration if duration is not None else float("inf")

    def wait(seconds: float) -> bool:
        if ending.heard(max(0.0, min(seconds, until - time.monotonic()))):
            program.reload()
        return ending.asked.is_set() or time.monotonic() >= until

    if sys.stdout.isatty():
        try:
            with LiveTable(Console(), program.report, notes) as table:
                while not wait(0.5):
                    table.refresh()
                table.refresh()
        except OSError:
            log.warning("the terminal is gone; the program goes on")
        else:
            return
    import orjson

    outlet = Outlet(1, 1.0)
    while not wait(10.0):
        outlet.write(orjson.dumps(program.report()).decode())
