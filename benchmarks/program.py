"""The whole program as a process, and what it used in a window of time."""

from __future__ import annotations

import os
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import yaml

from benchmarks import cpu
from benchmarks.cameras import PYTHON, ending

WHOLE_PICTURE = [[0, 0], [1, 0], [1, 1], [0, 1]]


class ProgramFailed(RuntimeError):
    """The program ended, or did not do what was waited for."""


@dataclass(frozen=True, slots=True)
class Window:
    """What happened between two looks at a program. ``cpu_s``: the program and its children."""

    before: Mapping[str, Any]
    after: Mapping[str, Any]
    cpu_s: float

    @property
    def seconds(self) -> float:
        """The length of the window."""
        return float(self.after["monotonic"] - self.before["monotonic"])

    def count(self, stream: str, what: str) -> int:
        """Return by how much a counter of a stream has grown."""
        return int(self.after["streams"][stream][what] - self.before["streams"][stream][what])

    def new(self, what: str) -> list[float]:
        """Return the values that a list has grown by."""
        return list(self.after[what][len(self.before[what]) :])

    def threads(self) -> dict[str, float]:
        """Return CPU seconds by kind of thread, with the FFmpeg children as one kind, the largest first."""
        spent = {name: s - self.before["threads"].get(name, 0.0) for name, s in self.after["threads"].items()}
        spent["ffmpeg children, ended threads"] = self.cpu_s - sum(spent.values())
        return {name: round(s, 3) for name, s in sorted(spent.items(), key=lambda item: -item[1])}


class Program:
    """A running program."""

    def __init__(self, process: subprocess.Popen[bytes], errors: Path) -> None:
        self._process, self._errors = process, errors

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    def look(self) -> dict[str, Any]:
        """Return how it is doing now. Raises ``ProgramFailed`` when it has ended."""
        assert self._process.stdin is not None  # noqa: S101
        assert self._process.stdout is not None  # noqa: S101
        try:
            self._process.stdin.write(b"look\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = b""
        if not line:
            raise ProgramFailed(f"the program has ended:\n{self._errors.read_text()[-3000:]}")
        answer: dict[str, Any] = orjson.loads(line)
        return answer

    def until(self, condition: Callable[[dict[str, Any]], Any], timeout: float, what: str) -> dict[str, Any]:
        """Look ten times a second until ``condition`` holds. Raises ``ProgramFailed``."""
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            answer = self.look()
            if condition(answer):
                return answer
            pause(0.1)
        raise ProgramFailed(
            f"not within {timeout:g} s: {what}; {answer['streams']}\n{self._errors.read_text()[-2000:]}"
        )

    def until_running(self, timeout: float = 30.0) -> None:
        """Wait until every stream has decoded frames, and published some where it should."""

        def flows(answer: dict[str, Any]) -> bool:
            return all(
                s["frames_decoded"] > 10 and (s["publish"] is None or s["frames_published"] > 10)
                for s in answer["streams"].values()
            )

        self.until(flows, timeout, "all streams run")

    def window(self, seconds: float) -> Window:
        """Let it run for ``seconds`` and return what it did."""
        before, cpu_before = self.look(), cpu.of_tree(self.pid)
        pause(seconds)
        cpu_after = cpu.of_tree(self.pid)
        return Window(before, self.look(), cpu_after - cpu_before)


@contextmanager
def program(config: Mapping[str, Any]) -> Iterator[Program]:
    """Run the program with ``config`` (see ``configuration``)."""
    with tempfile.TemporaryDirectory(prefix="sentinel-benchmark-") as name:
        folder = Path(name)
        path = folder / "sentinel.yaml"
        whole = {"outbox": {"path": str(folder / "outbox.db")}, **config}
        path.write_text(yaml.safe_dump(whole, sort_keys=False))
        with (folder / "stderr").open("wb") as errors:
            process = subprocess.Popen(
                [PYTHON, "-m", "benchmarks.worker", str(path)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                cwd=Path(__file__).parents[1],
                env=os.environ,
            )
            with ending(process):
                yield Program(process, folder / "stderr")
                assert process.stdin is not None  # noqa: S101
                process.stdin.close()
                try:
                    process.wait(8)
                except subprocess.TimeoutExpired:
                    raise ProgramFailed("the program did not end within 8 s") from None
            if process.stdout is not None:
                process.stdout.close()


def configuration(
    streams: Mapping[str, Mapping[str, Any]], sinks: Mapping[str, Any] | None = None, **model: Any
) -> dict[str, Any]:
    """Return a configuration with the built-in model, ``model`` giving more of its keys."""
    return {
        "version": 1,
        "models": {"people": {"builtin": "nanodet-g-416", **model}},
        "streams": {name: dict(stream) for name, stream in streams.items()},
        "sinks": dict(sinks or {}),
        "api": {"listen": "127.0.0.1:0"},
        "runtime": {"log": {"level": "error"}},
    }


def analyse(fps: float, *, motion: bool = False) -> dict[str, Any]:
    """Return the analysis that the benchmarks ask for: people and cars anywhere in the picture."""
    rule = {"name": "anybody", "when": "zone", "polygon": WHOLE_PICTURE, "classes": ["person"], "event": "INTRUSION"}
    asked = {"fps": fps, "detect": {"model": "people", "classes": ["person", "car"]}, "rules": [rule]}
    return asked | ({"motion": {"enabled": True}} if motion else {})


def pause(seconds: float) -> None:
    """Let the measured processes run."""
    threading.Event().wait(seconds)
