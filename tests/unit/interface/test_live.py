"""What a person reads in the live table and in ``sentinel status``."""

from __future__ import annotations

import io
import time
from typing import Any

import pytest
from rich.console import Console

from sentinel_pipeline.interface.live import render

LATENCY = {"mean": 40.0, "p50": 41.0, "p95": 66.0, "p99": 80.0}
STREAM: dict[str, Any] = {
    "state": "RUNNING",
    "since": "2026-11-24T15:03:22.125Z",
    "reason": "",
    "fps": 25.0,
    "analysed_fps": 5.0,
    "latency_ms": LATENCY,
    "frames_published": 100,
    "frames_dropped": 0,
    "events": 3,
    "events_lost": 0,
    "publish": None,
    "idle": False,
}
MODEL: dict[str, Any] = {"state": "ready", "reason": "", "provider": "CPUExecutionProvider", "latency_ms": LATENCY}


def shown(
    streams: dict[str, Any] | None = None, models: dict[str, Any] | None = None, trouble: str = "", width: int = 160
) -> list[str]:
    """Return the lines of the table on a terminal of that width."""
    report = {
        "streams": streams or {"gate": STREAM},
        "sinks": {},
        "outbox": {"trouble": trouble, "dropped": 0, "replaced": 0},
        "models": models or {"people": MODEL},
        "process": {"cpu_s": 1.0, "rss_bytes": 2**28, "uptime_s": 77.0},
    }
    console = Console(file=io.StringIO(), width=width)
    console.print(render(report))
    assert isinstance(console.file, io.StringIO)
    return [line.rstrip() for line in console.file.getvalue().splitlines()]


@pytest.fixture
def seoul(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The reader's clock is nine hours ahead of UTC."""
    monkeypatch.setenv("TZ", "Asia/Seoul")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def test_live_has_no_line_of_trouble_while_all_is_well() -> None:
    """A header, a row and the footer: nothing else takes room."""
    header, row, footer = shown()
    assert header.split()[:2] == ["stream", "state"]
    assert row.split()[:3] == ["gate", "RUNNING", "25.0"]
    assert footer.startswith("people: CPUExecutionProvider, 41.0 ms")


@pytest.mark.usefixtures("seoul")
def test_live_says_since_when_and_why_a_stream_does_not_run() -> None:
    """The time is that of the reader's clock; a stream that runs needs none."""
    lost = {**STREAM, "state": "RECONNECTING", "reason": "cannot open it: Connection refused (check the port)"}
    _, gate, yard, _ = shown({"gate": STREAM, "yard": lost}, width=240)
    assert "since" not in gate
    assert "RECONNECTING since 2026-11-25 00:03:22  cannot open it: Connection refused (check the port)" in yard


@pytest.mark.parametrize(
    ("state", "reason"),
    [("failing", "the model returned NaN [or infinity]"), ("ready", "batches of 4 fail: 2 at once for now")],
)
def test_live_says_what_is_wrong_with_a_model(state: str, reason: str) -> None:
    """A model that fails, and one that is ready with smaller batches; the others are not mentioned."""
    lines = shown(models={"people": {**MODEL, "state": state, "reason": reason}, "faces": MODEL})
    assert f"model people {state}: {reason}" in lines
    assert not any(line.startswith("model faces") for line in lines)


def test_live_says_what_is_wrong_with_the_outbox() -> None:
    """While events cannot be stored, and for good which ones were lost by that."""
    lines = shown({"gate": STREAM, "yard": {**STREAM, "events_lost": 12}}, trouble="the disk under outbox.db is full")
    assert "outbox: the disk under outbox.db is full" in lines
    assert "yard: 12 events lost, because they could not be stored" in lines
    assert not any(line.startswith("gate: ") for line in lines)
