"""The program as a process, as a user starts it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil
import yaml

COMMAND = [sys.executable, "-m", "sentinel_pipeline"]


def wait_until(condition: Callable[[], Any], timeout: float, what: str) -> Any:
    """Return the first true value of ``condition``, asked about every 50 ms; ``AssertionError`` after ``timeout`` s."""
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        if value := condition():
            return value
        threading.Event().wait(0.05)
    raise AssertionError(f"not within {timeout:g} s: {what}")


def sentinel(
    *arguments: str | Path, env: Mapping[str, str] | None = None, timeout: float = 60, cwd: Path | None = None
):
    """Run one command to its end and return the finished process with its output as text."""
    return subprocess.run(
        [*COMMAND, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        timeout=timeout,
        env={**os.environ, **(env or {})},
        cwd=cwd,
        stdin=subprocess.DEVNULL,
    )


class SentinelProcess:
    """A running ``sentinel run``."""

    def __init__(self, process: subprocess.Popen[bytes], folder: Path, api: str, report: Path) -> None:
        self.process, self.api, self.report = process, api, report
        self._folder = folder

    @property
    def stderr(self) -> str:
        """What it has logged so far."""
        return (self._folder / "stderr").read_text()

    @property
    def stdout(self) -> str:
        """What it has printed so far."""
        return (self._folder / "stdout").read_text()

    def status(self) -> dict[str, Any] | None:
        """Ask its API; None while nothing answers."""
        try:
            return httpx.get(f"{self.api}/api/v1/status", timeout=2, trust_env=False).json()
        except httpx.HTTPError:
            return None

    def until(self, condition: Callable[[dict[str, Any]], Any], timeout: float, what: str) -> dict[str, Any]:
        """Wait for a status that ``condition`` likes, and return it."""

        def check() -> dict[str, Any] | None:
            if self.process.poll() is not None:
                raise AssertionError(
                    f"sentinel ended with {self.process.returncode} while waiting: {what}\n{self.stderr}"
                )
            status = self.status()
            return status if status and condition(status) else None

        try:
            return wait_until(check, timeout, what)
        except AssertionError as exc:
            raise AssertionError(f"{exc}\nlast status: {json.dumps(self.status())}\n{self.stderr[-4000:]}") from None

    def until_running(self, stream: str, timeout: float = 20) -> dict[str, Any]:
        """Wait until a stream runs."""
        return self.until(lambda s: s["streams"][stream]["state"] == "RUNNING", timeout, f"{stream} RUNNING")

    def end(self, timeout: float = 10) -> tuple[int, float]:
        """Send SIGTERM; return the exit code and the seconds that it took. Its children must be gone as well."""
        children = psutil.Process(self.process.pid).children(recursive=True)
        started = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(timeout)
        took = time.monotonic() - started
        _, alive = psutil.wait_procs(children, timeout=2)
        assert not alive, f"orphans: {alive}"
        return code, took


@contextmanager
def running(
    config: Mapping[str, Any] | str, folder: Path, *, env: Mapping[str, str] | None = None
) -> Iterator[SentinelProcess]:
    """Start ``sentinel run`` on a configuration in ``folder``; on leaving it is ended, gently or not."""
    folder.mkdir(parents=True, exist_ok=True)
    path, report = folder / "sentinel.yaml", folder / "report.json"
    path.write_text(config if isinstance(config, str) else yaml.safe_dump(config, sort_keys=False))
    port = yaml.safe_load(path.read_text())["api"]["listen"].rpartition(":")[2]
    with (folder / "stdout").open("wb") as out, (folder / "stderr").open("wb") as err:
        process = subprocess.Popen(
            [*COMMAND, "run", str(path), "--report", str(report)],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            env={**os.environ, **(env or {})},
        )
        try:
            yield SentinelProcess(process, folder, f"http://127.0.0.1:{port}", report)
        finally:
            if process.poll() is None:
                process.terminate()
                try:
                    process.wait(8)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()
