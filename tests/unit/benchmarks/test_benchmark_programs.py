"""The benchmarks as programs: they start, refuse nonsense, and measure CPU time that is true."""

from __future__ import annotations

import json
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path
from types import SimpleNamespace

import pytest
from benchmarks import cpu, transcode
from benchmarks.chart import Line, svg
from benchmarks.figures import Figure, Target
from benchmarks.report import Report

ROOT = Path(__file__).parents[3]
PROGRAMS = ("frame_path", "events_only", "latency", "startup", "streams", "overload", "memory", "outbox", "compare")


@pytest.mark.parametrize("name", PROGRAMS)
def test_program_explains_itself(name: str) -> None:
    """Every benchmark answers --help with what it measures, and is in the README."""
    done = subprocess.run(
        [sys.executable, "-m", f"benchmarks.{name}", "--help"], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "--pairs" in done.stdout
    assert f"benchmarks.{name}" in (ROOT / "benchmarks" / "README.md").read_text()


def test_cpu_time_of_a_command_includes_its_children() -> None:
    """The kernel's figure of the whole tree, so that a child that encodes is not forgotten."""
    burn = "import time\nwhile time.process_time() < 0.3: pass"
    child = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {burn!r}])"
    done = cpu.run([sys.executable, "-c", child])
    assert 0.3 <= done.cpu_s < 1.5


def test_command_that_fails_is_told() -> None:
    """A floor that did not run is no floor: its error says why."""
    with pytest.raises(cpu.ProcessFailed, match="ended with 3: because"):
        cpu.run([sys.executable, "-c", "import sys; sys.stderr.write('because'); sys.exit(3)"])


def test_floor_encodes_with_the_settings_of_the_program() -> None:
    """The floor's encoder options are those that the program's encoder uses, or the ratio would mean nothing."""
    from sentinel_pipeline.infrastructure.video.encoder import H264Encoder
    from sentinel_pipeline.infrastructure.video.ffmpeg_command import encoder_options, gop_size

    ours = encoder_options("libx264", preset="ultrafast", bitrate=4_000_000, fps=25, pix_fmt="yuv420p")
    floor = transcode.encoder(25, 4_000_000)
    for option in ("-preset", "-tune", "-b:v", "-maxrate", "-bufsize", "-g", "-bf", "-pix_fmt"):
        assert floor[floor.index(option) + 1] == ours[ours.index(option) + 1], option
    context = H264Encoder(64, 64, 25, bitrate=4_000_000)._context
    assert (context.gop_size, context.bit_rate, context.thread_count) == (gop_size(25), 4_000_000, 1)


def test_report_writes_machine_and_figures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The file names the machine and versions; a missed target is an exit code only with --check."""
    options = SimpleNamespace(quick=True, out=tmp_path / "r.json", check=False)
    report = Report("test", options)  # type: ignore[arg-type]
    report.add(Figure("cost", "ms", (3.0,), (2.0,), Target(1.1)))
    assert report.finish() == 0
    data = json.loads((tmp_path / "r.json").read_text())
    assert data["machine"]["cores"] >= 1
    assert data["machine"]["packages"]["av"]
    assert data["figures"][0]["met"] is False
    assert "MISSED" in capsys.readouterr().out
    options.check = True
    assert report.finish() == 1


def test_chart_is_well_formed_and_holds_every_point() -> None:
    """The SVG parses, escapes names, and has a dot for each measurement but none for a target."""
    drawn = svg("a < b", "x", "y", [Line("m & n", [(1, 10), (16, 12)]), Line("t", [(1, 11), (16, 11)], target=True)])
    root = ET.fromstring(drawn)  # noqa: S314 - our own text
    assert len(root.findall("{http://www.w3.org/2000/svg}circle")) == 2
    assert "m & n" in [text.text for text in root.iter("{http://www.w3.org/2000/svg}text")]


def test_table_keeps_what_people_wrote() -> None:
    """New measurements replace the old ones, the explanation of a gap stays with its figure."""
    from benchmarks.table import gaps, render

    figure = Figure("  cost of it", "ms", (3.0, 3.2, 3.1), (2.0, 2.0, 2.0), Target(1.1))
    result = {"benchmark": "frame_path", "figures": [figure.to_json(), Figure("untold", "ms", (1.0,)).to_json()]}
    first = render([result], {"cost of it": "drawing"})
    assert "| cost of it | ≤ 1.1 | **1.55** | 1.5..1.6 | missed | `frame_path` | drawing |" in first
    assert "untold" not in first
    assert render([result], gaps(first)) == first
