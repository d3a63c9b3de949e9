"""docs/api.md: it has every path that the API answers, and every key of the report."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from fastapi.routing import APIRoute
from starlette.routing import Route

from sentinel_pipeline.application.event.emitter import EventEmitter
from sentinel_pipeline.application.ports import Audience, OutputReport, SinkReport
from sentinel_pipeline.application.stream.health import StreamHealth
from sentinel_pipeline.domain.events import Event, EventStage
from sentinel_pipeline.interface.api.app import make_app
from sentinel_pipeline.interface.report import make_report

DOCUMENT = (Path(__file__).parents[3] / "docs" / "api.md").read_text()


def words(text: str) -> set[str]:
    """Return what stands in backticks."""
    return set(re.findall(r"`([^`\n]+)`", text))


def keys(report: Any) -> set[str]:
    """Return the keys of a report, at all depths."""
    below = report.values() if isinstance(report, dict) else report if isinstance(report, list | tuple) else ()
    found = set(report) if isinstance(report, dict) else set()
    return found.union(*map(keys, below))


def test_api_document_has_every_path() -> None:
    """The first column of the first table is what the application answers, no more and no less."""
    routes = {route.path for route in make_app(dict, "").routes if isinstance(route, Route | APIRoute)}
    rows = re.findall(r"^\| `(/[^`]*)` \|", DOCUMENT, flags=re.MULTILINE)
    assert sorted(rows) == sorted(routes)


def test_api_document_has_every_key_of_streams_and_sinks() -> None:
    """A stream that publishes for an audience, a sink, and the process: each key of their reports is explained."""
    health = StreamHealth("gate")
    output = OutputReport("rtsp://127.0.0.1/gate", "running")
    health.sink_report = lambda: SinkReport("running", outputs=(output,), audience=Audience())
    with EventEmitter() as emitter:
        emitter.set_sync_transport(lambda _: True)
        emitter.emit(Event("INTRUSION", EventStage.DETECTED, "gate", "rule", ts=1.0))
        sinks = emitter.snapshot()
    report = make_report(streams={"gate": health.snapshot()}, sinks=sinks, models={}, outbox={}, started=0.0)
    names = keys(report) - {"gate", "sync", "streams", "sinks", "models"}
    assert names - words(DOCUMENT) == set()
    assert len(names) > 40
