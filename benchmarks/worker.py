"""The whole program in a process of its own, as ``sentinel run`` builds it, that answers how it is doing.

``python -m benchmarks.worker CONFIG``: a JSON line on stdout answers each line on stdin; the end of stdin ends it.
Besides the program's own report the answer has CPU time by thread, and what the report cannot know: when events were
stored and how old frames were when the model had answered.
"""

from __future__ import annotations

import sys
import threading
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import orjson

from benchmarks import cpu
from sentinel_pipeline.application.event.emitter import EventEmitter
from sentinel_pipeline.bootstrap.program import Running, running
from sentinel_pipeline.domain.events import Event
from sentinel_pipeline.domain.frame import Frame
from sentinel_pipeline.infrastructure.allocator import keep_little_memory
from sentinel_pipeline.infrastructure.inference.detector import ModelDetector
from sentinel_pipeline.interface.config import load_config
from sentinel_pipeline.interface.logs import configure_logging


class Watcher:
    """Notes what passes; list appends need no lock."""

    def __init__(self) -> None:
        self.stored_ms: list[float] = []
        self.age_ms: list[float] = []

    def install(self) -> None:
        """Watch the two places where a frame's way ends."""
        emit, detect = EventEmitter.emit, ModelDetector.detect
        watcher = self

        def watched_emit(self: EventEmitter, events: Any, *rest: Any, **more: Any) -> Any:
            started = time.monotonic()
            result = emit(self, events, *rest, **more)
            took = (time.monotonic() - started) * 1000
            batch: Sequence[Event] = [events] if isinstance(events, Event) else events
            watcher.stored_ms.extend(event.latency_ms + took for event in batch)
            return result

        def watched_detect(self: ModelDetector, frame: Frame, **options: Any) -> Any:
            result = detect(self, frame, **options)
            watcher.age_ms.append((time.monotonic() - frame.received_at) * 1000)
            return result

        EventEmitter.emit = watched_emit  # type: ignore[method-assign]
        ModelDetector.detect = watched_detect  # type: ignore[method-assign]


def main() -> None:
    """Run the program until stdin ends."""
    configure_logging("json", "error")
    keep_little_memory()  # as the program does
    config = load_config(Path(sys.argv[1]), {})
    watcher = Watcher()
    watcher.install()
    with running(config) as program:
        for _ in sys.stdin.buffer:
            sys.stdout.buffer.write(orjson.dumps(_answer(program, watcher), option=orjson.OPT_APPEND_NEWLINE))
            sys.stdout.buffer.flush()


def _answer(program: Running, watcher: Watcher) -> dict[str, Any]:
    return {
        "monotonic": time.monotonic(),
        "threads": _threads(),
        "stored_ms": watcher.stored_ms,
        "age_ms": watcher.age_ms,
        **program.report(),
    }


def _threads() -> dict[str, float]:
    """Return CPU seconds by kind of thread; names end with the stream's id, which is left out."""
    names = {thread.native_id: thread.name for thread in threading.enumerate()}
    spent: defaultdict[str, float] = defaultdict(float)
    for native, seconds in cpu.of_threads().items():
        spent[_kind(names.get(native, "native (model, libraries)"))] += seconds
    return dict(spent)


def _kind(name: str) -> str:
    for kind in ("capture:", "analyse:", "publish:", "publish-", "stream:", "model-", "sink", "native"):
        if name.startswith(kind):
            return kind
    return name


if __name__ == "__main__":
    main()
