"""The live table that ``run`` and ``demo`` show on a terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from types import TracebackType
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

STATE_STYLES = {"RUNNING": "green", "CONNECTING": "yellow", "RECONNECTING": "yellow", "FAILED": "red", "STOPPED": "dim"}
SINK_STYLES = {"up": "green", "idle": "green", "retrying": "yellow", "paused": "red", "stopped": "red"}

Report = Mapping[str, Any]


class LiveTable:
    """Shows a report and refreshes it. A context manager; one thread only."""

    def __init__(self, console: Console, report: Callable[[], Report], notes: Sequence[str] = ()) -> None:
        self._report, self._notes = report, notes
        self._live = Live(console=console, refresh_per_second=4, auto_refresh=False)

    def __enter__(self) -> LiveTable:
        self._live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._live.stop()

    def refresh(self) -> None:
        """Draw the table anew."""
        self._live.update(render(self._report(), self._notes), refresh=True)


def render(report: Report, notes: Sequence[str] = ()) -> Group:
    """Return the report as tables for a terminal."""
    parts: list[Any] = [stream_table(report["streams"])]
    if report["sinks"]:
        parts.append(sink_table(report["sinks"]))
    parts += [Text(line, "yellow") for line in _troubles(report)]
    parts.append(_footer(report))
    parts += [Text.from_markup(note) for note in notes]
    return Group(*parts)


def stream_table(streams: Mapping[str, Report]) -> Table:
    """Return one row per stream."""
    table = _table("stream", "state", "fps>", "analysed>", "latency p50>", "p95>", "published>", "dropped>", "events>")
    for stream_id, stream in streams.items():
        latency = stream["latency_ms"]
        state = Text(stream["state"], STATE_STYLES.get(stream["state"], ""))
        if stream["state"] != "RUNNING":
            state.append(f" since {_local(stream['since'])}", "dim")
        if stream["reason"]:
            state.append(f"  {stream['reason']}", "dim")
        elif stream.get("idle"):
            state.append("  nothing moves: key frames only", "dim")
        publish = stream.get("publish")
        published = Text(str(stream["frames_published"]))
        if publish and publish["reason"]:
            published.append(f"  {publish['state']}: {publish['reason']}", "yellow")
        elif publish and publish["audience"] and not publish["audience"]["watched"]:
            published.append("  nobody watches", "dim")
        table.add_row(
            stream_id,
            state,
            f"{stream['fps']:.1f}",
            f"{stream['analysed_fps']:.1f}",
            f"{latency['p50']:.0f} ms",
            f"{latency['p95']:.0f} ms",
            published,
            str(stream["frames_dropped"]),
            str(stream["events"]),
        )
    return table


def sink_table(sinks: Mapping[str, Report]) -> Table:
    """Return one row per sink."""
    table = _table("sink", "state", "delivered>", "pending>", "retried>", "dead>", "oldest pending>")
    for sink_id, sink in sinks.items():
        state = Text(sink["state"], SINK_STYLES.get(sink["state"], ""))
        if sink["circuit"] != "closed":
            state.append(f" ({sink['circuit']})", "dim")
        if sink.get("reason"):
            state.append(f"  {sink['reason']}", "dim")
        counts = [str(sink[key]) for key in ("delivered", "pending", "retried", "dead")]
        table.add_row(sink_id, state, *counts, f"{sink['oldest_pending_s']:.1f} s")
    return table


def _table(*columns: str) -> Table:
    table = Table(expand=True, header_style="bold", box=None, pad_edge=False)
    for column in columns:
        table.add_column(column.rstrip(">"), justify="right" if column.endswith(">") else "left", no_wrap=False)
    return table


def _troubles(report: Report) -> Iterator[str]:
    """Yield what is wrong beside the streams and the sinks, and which events nobody will ever get."""
    for name, model in report["models"].items():
        if model["state"] != "ready" or model["reason"]:
            yield f"model {name} {model['state']}: {model['reason']}"
    if trouble := report["outbox"]["trouble"]:
        yield f"outbox: {trouble}"
    for stream_id, stream in report["streams"].items():
        if lost := stream["events_lost"]:
            yield f"{stream_id}: {lost} events lost, because they could not be stored"


def _local(time: str) -> str:
    """Return a time of the report in the time zone of the person who reads it, to the second."""
    return f"{datetime.fromisoformat(time).astimezone():%Y-%m-%d %H:%M:%S}"


def _footer(report: Report) -> Text:
    process = report["process"]
    models = [
        f"{name}: {model['provider']}, {model['latency_ms']['p50']:.1f} ms" for name, model in report["models"].items()
    ]
    usage = f"{process['cpu_s']:.0f} s CPU, {process['rss_bytes'] / 2**20:.0f} MiB, up {process['uptime_s']:.0f} s"
    return Text(" · ".join([*models, usage]), "dim")
