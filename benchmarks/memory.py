"""Memory of ``sentinel run`` by number of 1080p streams, and what ``sentinel --help`` takes and imports.

Memory is the resident set of the program itself, and the proportional set (PSS: shared pages counted once) of the
program with its FFmpeg children. Every stream is analysed and published.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import psutil
import yaml

from benchmarks import cameras, cpu, program, report
from benchmarks.figures import Figure, Target
from benchmarks.material import FULL_HD, Clip

MIB = 2**20
HEAVY = ("av", "cv2", "numpy", "onnxruntime", "torch", "httpx", "fastapi", "uvicorn", "pydantic", "PIL", "websockets",
         "sqlite3", "asyncio", "rich", "yaml")  # fmt: skip
_ASK = """
import json, sys
sys.argv = ["sentinel", "--help"]
from sentinel_pipeline.__main__ import main
try:
    main()
except SystemExit:
    pass
print("\\n" + json.dumps(sorted(sys.modules)))
"""


def parser() -> argparse.ArgumentParser:
    """Return the options."""
    made = report.parser(__doc__)
    made.add_argument("--streams", type=int, nargs="+", default=[], help="numbers of streams (default 1 2 4)")
    made.add_argument(
        "--settle", type=float, default=0, help="seconds before memory is read (default 8, 3 with --quick)"
    )
    return made


def measure(options: argparse.Namespace) -> int:
    """Measure and report."""
    results = report.Report("memory", options)
    _help(results, 2 * options.pairs)
    counts = options.streams or ([1, 2] if options.quick else [1, 2, 4])
    settle = options.settle or (3 if options.quick else 8)
    clip = Clip(*FULL_HD.size, seconds=10 if options.quick else 30)
    with cameras.relay() as relay, cameras.cameras(relay, clip.path(), max(counts)) as urls:
        empty = [_memory([], relay, settle) for _ in range(options.pairs)]
        by_count = {n: [_memory(urls[:n], relay, settle) for _ in range(options.pairs)] for n in counts}
    results.add(Figure("model loaded, no stream: RSS", "MiB", tuple(m["rss"] for m in empty), None, Target(200)))
    results.add(Figure("  PSS", "MiB", tuple(m["pss"] for m in empty)))
    for n, measured in by_count.items():
        results.add(Figure(f"{n} streams: RSS of the program", "MiB", tuple(m["rss"] for m in measured)))
        results.add(Figure("  PSS of the program and its children", "MiB", tuple(m["all_pss"] for m in measured)))
        results.add(Figure("  threads", "", tuple(float(m["threads"]) for m in measured)))
    first, last = counts[0], counts[-1]
    for what, name in (("rss", "per added 1080p stream: RSS of the program"), ("all_pss", "  with its child: PSS")):
        slope = tuple(
            (b[what] - a[what]) / (last - first) for a, b in zip(by_count[first], by_count[last], strict=True)
        )
        results.add(Figure(name, "MiB", slope, None, Target(45)))
    return results.finish()


def _help(results: report.Report, runs: int) -> None:
    command = [cameras.PYTHON, "-m", "sentinel_pipeline", "--help"]
    cpu.run(command)  # not counted: fills the file cache, writes the byte code
    done = [cpu.run(command) for _ in range(runs)]
    bare = [cpu.run([cameras.PYTHON, "-c", "pass"]) for _ in range(runs)]
    results.add(Figure("sentinel --help, wall", "s", tuple(d.wall_s for d in done), None, Target(0.4)))
    results.add(Figure("  CPU; floor: python -c pass", "s", tuple(d.cpu_s for d in done), tuple(d.cpu_s for d in bare)))
    loaded = set(json.loads(cpu.run([cameras.PYTHON, "-c", _ASK]).output.strip().splitlines()[-1]))
    heavy = [name for name in HEAVY if name in loaded]
    results.detail("modules_of_help", sorted(loaded & set(HEAVY)))
    results.note(f"--help imports {len(loaded)} modules, of the heavy ones: {', '.join(heavy) or 'none'}")


def _memory(urls: list[str], relay: Any, settle: float) -> dict[str, float]:
    """Run the program and return its memory in MiB. Without URLs one camera is named that nobody answers for."""
    streams = {
        f"s{n}": {
            "source": url,
            "analyse": program.analyse(2),
            "publish": {"url": relay.url(f"out{n}"), "fps": 25, "bitrate": "4M"},
        }
        for n, url in enumerate(urls)
    } or {"absent": {"source": "rtsp://127.0.0.1:9/none", "analyse": program.analyse(2)}}
    with tempfile.TemporaryDirectory(prefix="sentinel-benchmark-") as name:
        folder = Path(name)
        config = program.configuration(streams) | {"outbox": {"path": str(folder / "outbox.db")}}
        (folder / "sentinel.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
        command = [cameras.PYTHON, "-m", "sentinel_pipeline", "run", str(folder / "sentinel.yaml")]
        with (folder / "out").open("wb") as out:
            running = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=out)
        with cameras.ending(running) as process:
            for number in range(len(urls)):
                relay.wait_for_publisher(f"out{number}", 60)
            program.pause(settle if urls else settle + 2)
            if process.poll() is not None:
                raise RuntimeError((folder / "out").read_text()[-2000:])
            measured = _read(psutil.Process(process.pid))
    for number in range(len(urls)):
        relay.wait_until_idle(f"out{number}", 10)
    return measured


def _read(process: psutil.Process) -> dict[str, float]:
    own = process.memory_full_info()
    children = sum(child.memory_full_info().pss for child in process.children(recursive=True))
    return {
        "rss": own.rss / MIB,
        "pss": own.pss / MIB,
        "all_pss": (own.pss + children) / MIB,
        "threads": process.num_threads(),
    }


if __name__ == "__main__":
    report.main(parser, measure)
