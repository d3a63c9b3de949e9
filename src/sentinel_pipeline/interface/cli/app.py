"""The commands. Each prints, calls the program and returns its exit code; heavy imports happen inside."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import orjson
import typer

from sentinel_pipeline.domain.errors import ConfigError
from sentinel_pipeline.domain.events import EventStage
from sentinel_pipeline.interface.cli.output import complain, emit, explain, machine, say
from sentinel_pipeline.interface.cli.program import EventArchive, Program

if TYPE_CHECKING:
    from sentinel_pipeline.interface.config import Config

File = Annotated[Path, typer.Argument(metavar="FILE", help="The configuration (YAML or JSON).")]
ConfigOption = Annotated[
    Path | None, typer.Option("--config", metavar="FILE", help="The configuration of the program.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="JSON also on a terminal.")]
DurationOption = Annotated[str | None, typer.Option(metavar="TIME", help="End by itself after this time: 30s, 5m.")]
LimitOption = Annotated[int, typer.Option(min=1, max=1_000_000, help="How many at most.")]
ReportOption = Annotated[Path | None, typer.Option(metavar="FILE", help="Write a JSON report here at the end.")]


T = TypeVar("T")

_URL = re.compile(r"(?!file:)[A-Za-z][A-Za-z0-9+.-]+:/")  # a path has lost one of the slashes


def make_app(program: Program) -> typer.Typer:
    """Return the ``sentinel`` command."""
    app = typer.Typer(
        name="sentinel",
        help="Real-time video AI for many cameras.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
    )
    _add_running(app, program)
    _add_checking(app, program)
    _add_measuring(app, program)
    _add_asking(app, program)
    app.add_typer(_events(program), name="events")
    return app


def _add_running(app: typer.Typer, program: Program) -> None:
    @app.command()
    def demo(
        streams: Annotated[int, typer.Option(min=1, max=64, help="How many cameras.")] = 1,
        duration: DurationOption = None,
        report: ReportOption = None,
    ) -> None:
        """Show everything on this machine: cameras from built-in footage, model, annotated RTSP, receivers."""
        seconds = _seconds(duration)
        raise typer.Exit(program.demo(streams=streams, duration=seconds, report=report))

    @app.command()
    def run(config: File, duration: DurationOption = None, report: ReportOption = None) -> None:
        """Run a configuration until it is stopped."""
        seconds = _seconds(duration)
        raise typer.Exit(program.run(_load(config), duration=seconds, report=report))


def _add_checking(app: typer.Typer, program: Program) -> None:
    @app.command()
    def check(config: File) -> None:
        """Check a configuration, and whether this machine has what it needs; name every fault at once."""
        loaded = _load(config)
        faults = program.preflight(loaded)
        for where, error in faults:
            complain(f"{config}: {where}: {error.args[0]}" + (f"\n  remedy: {error.remedy}" if error.remedy else ""))
            if machine():
                emit({"file": str(config), "where": where, "message": error.args[0], "remedy": error.remedy})
        if faults:
            raise typer.Exit(2)
        counts = {"streams": len(loaded.streams), "models": len(loaded.models), "sinks": len(loaded.sinks)}
        if machine():
            emit({"file": str(config), "ok": True, **counts})
        else:
            say(f"{config} is fine: " + ", ".join(f"{n} {what}" for what, n in counts.items()))

    @app.command()
    def schema() -> None:
        """Print the JSON Schema of the configuration, for editors."""
        import json

        from sentinel_pipeline.interface.config import json_schema

        say(json.dumps(json_schema(), indent=2, ensure_ascii=False))


def _add_measuring(app: typer.Typer, program: Program) -> None:
    @app.command()
    def bench(
        size: Annotated[str, typer.Option(metavar="WxH", help="Size of the cameras' pictures.")] = "1920x1080",
        fps: Annotated[float, typer.Option(min=1, max=120, help="Their frames per second.")] = 25.0,
        analyse_fps: Annotated[float, typer.Option(min=0, max=60, help="Analysed per second; 0: none.")] = 5.0,
        model: Annotated[str, typer.Option(help="The built-in model to analyse with.")] = "nanodet-g-416",
        publish: Annotated[bool, typer.Option(help="Whether the annotated streams are published.")] = True,
        duration: Annotated[str, typer.Option(metavar="TIME", help="Length of each trial.")] = "15s",
        verify: Annotated[bool, typer.Option(help="Whether to try the answer.")] = True,
        report: ReportOption = None,
        json: JsonOption = False,
    ) -> None:
        """Measure how many cameras this machine carries, and what runs out first; takes a minute or two."""
        from sentinel_pipeline.interface.cli.bench_view import bench_text
        from sentinel_pipeline.interface.config.units import parse_picture

        try:
            pixels = parse_picture(size)
        except ValueError as exc:
            raise typer.BadParameter(f"{exc}; write it like 1280x720", param_hint="--size") from None
        wanted = {"size": pixels, "fps": fps, "analyse_fps": analyse_fps, "model": model, "publish": publish}
        result = program.bench(wanted, seconds=_seconds(duration) or 15.0, verify=verify, report=report)
        if machine(json):
            emit(result)
        else:
            say(bench_text(result))


def _add_asking(app: typer.Typer, program: Program) -> None:
    @app.command()
    def status(config: ConfigOption = None, json: JsonOption = False) -> None:
        """Ask the running program how its streams, sinks and models are."""
        host, port, token = "127.0.0.1", 8080, os.environ.get("SENTINEL_TOKEN", "")
        if config is not None:
            from sentinel_pipeline.interface.config import load_api

            api = _read(config, load_api)
            host, port, token = api.host, api.port, api.token
        report = program.status(host, port, token)
        if machine(json):
            emit(report)
            return
        from rich.console import Console

        from sentinel_pipeline.interface.live import render

        Console().print(render(report))

    @app.command()
    def version() -> None:
        """Print the version."""
        import platform

        from sentinel_pipeline import __version__

        if machine():
            emit({"sentinel": __version__, "python": platform.python_version()})
        else:
            say(f"sentinel {__version__}")


def _events(program: Program) -> typer.Typer:
    events = typer.Typer(help="Look into the outbox, and resend.", no_args_is_help=True, rich_markup_mode=None)

    @events.command("list")
    def list_(
        config: ConfigOption = None,
        json: JsonOption = False,
        limit: LimitOption = 50,
        stream: Annotated[str | None, typer.Option(help="Of this stream only.")] = None,
        type: Annotated[str | None, typer.Option(help="Of this event type only.")] = None,
        stage: Annotated[EventStage | None, typer.Option(case_sensitive=False, help="Of this stage only.")] = None,
    ) -> None:
        """List the newest events, oldest first, with the sinks that still wait for them."""
        newest = _archive(program, config).list(limit, stream=stream, type=type, stage=stage and str(stage))
        for stored in reversed(newest):
            waiting = ", ".join(stored.pending_for)
            _show_line(stored.body, json, f"waits for {waiting}" if waiting else "")

    @events.command()
    def show(event_id: str, config: ConfigOption = None, json: JsonOption = False) -> None:
        """Show one event whole."""
        event = orjson.loads(_archive(program, config).show(event_id).body)
        if machine(json):
            emit(event)
        else:
            say(orjson.dumps(event, option=orjson.OPT_INDENT_2).decode())

    @events.command()
    def dead(config: ConfigOption = None, json: JsonOption = False, limit: LimitOption = 50) -> None:
        """List the events that a sink will never take, with its reason."""
        for letter in reversed(_archive(program, config).dead(limit)):
            _show_line(letter.body, json, f"{letter.sink}: {letter.reason}", sink=letter.sink, reason=letter.reason)

    @events.command()
    def replay(
        event_ids: Annotated[list[str] | None, typer.Argument(metavar="[EVENT_ID]...")] = None,
        config: ConfigOption = None,
        sink: Annotated[str | None, typer.Option(help="To this sink only.")] = None,
        dead: Annotated[
            bool, typer.Option("--dead", help="All dead letters, each to the sink that refused it.")
        ] = False,
        json: JsonOption = False,
    ) -> None:
        """Send events again, under the ids that they have; with --dead those that a sink has refused."""
        if bool(event_ids) == dead:
            raise typer.BadParameter("name the events to send again, or --dead for all dead letters, not both")
        archive = _archive(program, config)
        count = archive.replay_dead(sink=sink) if dead else archive.replay(event_ids or [], sink=sink)
        if machine(json):
            emit({"replayed": count})
        else:
            say(f"{count} events will be sent again")

    return events


def _show_line(body: bytes, as_json: bool, note: str, **more: Any) -> None:
    import json

    event = json.loads(body)
    if machine(as_json):
        emit({**event, **({"dead_letter": more} if more else {})})
        return
    where = f"{event['stream_id']}/{event['module_name']}"
    waiting = f"  [{note}]" if note else ""
    say(f"{event['ts_iso']}  {event['type']:<16} {event['stage']:<9} {where}  {event['event_id']}{waiting}")


def _archive(program: Program, config: Path | None) -> EventArchive:
    from sentinel_pipeline.interface.config import load_outbox

    return program.archive(_read(config, load_outbox).path if config is not None else Path("var/outbox.db"))


def _load(path: Path) -> Config:
    from sentinel_pipeline.interface.config import load_config

    return _read(path, load_config)


def _read(path: Path, load: Callable[[Path, Mapping[str, str]], T]) -> T:
    """Load a configuration, or a part of it; print every fault and leave with code 2 when there are any."""
    from sentinel_pipeline.interface.config import ConfigProblems, format_problems

    if _URL.match(str(path)):  # not shown: what looks like a camera's address may hold its password
        raise ConfigError(
            "this is a URL, not a file", remedy="write it as `source` of a stream in a configuration file"
        )
    try:
        return load(path, os.environ)
    except ConfigProblems as exc:
        explain(format_problems(exc.problems))
        if machine():
            for problem in exc.problems:
                emit(
                    {
                        "file": problem.file,
                        "line": problem.line,
                        "where": problem.where,
                        "message": problem.message,
                        "remedy": problem.remedy,
                    }
                )
        raise typer.Exit(2) from None


def _seconds(text: str | None) -> float | None:
    from sentinel_pipeline.interface.config.units import parse_duration

    if text is None:
        return None
    try:
        return parse_duration(text)
    except ValueError as exc:
        raise typer.BadParameter(str(exc), param_hint="--duration") from None
