"""``sentinel demo``: everything on this machine, with real streams.

An RTSP relay, the built-in footage played into it as cameras, the built-in model, annotated RTSP out, an HTTP and a
WebSocket receiver. The pipeline runs from a configuration file like any other.
"""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from importlib.resources import as_file, files
from pathlib import Path

import structlog
import yaml

from sentinel_pipeline.bootstrap.run import run_until
from sentinel_pipeline.domain.errors import SentinelError
from sentinel_pipeline.infrastructure.allocator import keep_little_memory
from sentinel_pipeline.infrastructure.video.ffmpeg_binary import find_ffmpeg
from sentinel_pipeline.interface.config import load_config
from sentinel_pipeline.interface.ending import Ending
from sentinel_pipeline.interface.logs import configure_logging
from sentinel_pipeline.lab.receivers import HttpReceiver, WebSocketReceiver
from sentinel_pipeline.lab.rtsp_relay import RtspRelay

log = structlog.get_logger(__name__)

CLIP = "vtest-768x576-10fps.mp4"
CLIP_FPS = 10
CLIP_SECONDS = 79
# The junction in the middle of the footage, as shares of width and height.
ZONE = [[0.38, 0.37], [0.73, 0.34], [0.91, 0.42], [0.99, 0.73], [0.68, 0.64], [0.43, 0.50]]


def demo(*, streams: int, duration: float | None, report: Path | None) -> int:
    """Run the demo until Ctrl-C or the end of ``duration`` seconds; return the exit code."""
    keep_little_memory()
    configure_logging("auto", "warning")
    ffmpeg = find_ffmpeg(None)
    with Ending() as ending, ExitStack() as stack:
        clip = stack.enter_context(as_file(files("sentinel_pipeline.assets") / CLIP))
        relay = stack.enter_context(_relay())
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="sentinel-demo-")))
        http = stack.enter_context(HttpReceiver())
        websocket = stack.enter_context(WebSocketReceiver())
        for number in range(1, streams + 1):
            if ending.asked.is_set():
                return 0
            start = (number - 1) * 7 % CLIP_SECONDS
            stack.enter_context(playing(ffmpeg, clip, relay.url(f"camera{number}"), start))
            relay.wait_for_publisher(f"camera{number}", timeout=10.0)
        config = folder / "sentinel.yaml"
        config.write_text(
            yaml.safe_dump(_configuration(relay, http.url, websocket.url, streams, folder), sort_keys=False)
        )
        urls = [relay.url(f"annotated{number}") for number in range(1, streams + 1)]
        notes = ["", *(f"[bold]watch[/bold]  ffplay -rtsp_transport tcp {url}" for url in urls)]
        notes += [f"[dim]events go to {http.url} and {websocket.url}; Ctrl-C ends[/dim]"]
        code = run_until(ending, load_config(config, {}), duration=duration, report=report, notes=notes)
        log.info("received", http=http.count, websocket=websocket.count)
    return code


def _configuration(relay: RtspRelay, http: str, websocket: str, streams: int, folder: Path) -> dict[str, object]:
    """Return the demo's configuration: what an integrator would write."""
    return {
        "version": 1,
        "models": {"people": {"builtin": "nanodet-g-416"}},
        "streams": {f"camera{n}": _stream(relay, n) for n in range(1, streams + 1)},
        "sinks": {"vms": {"type": "http", "url": http}, "live": {"type": "websocket", "url": websocket}},
        "outbox": {"path": str(folder / "outbox.db")},
        "api": {"listen": "127.0.0.1:0"},
        "runtime": {"log": {"level": "warning"}},
    }


def _stream(relay: RtspRelay, number: int) -> dict[str, object]:
    rule = {
        "name": "someone-at-the-junction",
        "when": "zone",
        "polygon": ZONE,
        "classes": ["person"],
        "event": "INTRUSION",
        "confirm_after": "500ms",
        "clear_after": "2s",
    }
    return {
        "source": relay.url(f"camera{number}"),
        "analyse": {
            "fps": 5,
            "detect": {"model": "people", "classes": ["person", "car", "bicycle"], "confidence": 0.4},
            "rules": [rule],
        },
        "publish": {"url": relay.url(f"annotated{number}"), "fps": CLIP_FPS},
    }


@contextmanager
def _relay() -> Iterator[RtspRelay]:
    """Open the relay on RTSP's usual second port, or on any free one."""
    with ExitStack() as stack:
        try:
            relay = stack.enter_context(RtspRelay(port=8554))
        except SentinelError:
            relay = stack.enter_context(RtspRelay())
        yield relay


@contextmanager
def playing(ffmpeg: str, footage: Path, url: str, start: int = 0) -> Iterator[None]:
    """Play ``footage`` from second ``start`` into an RTSP server, over and over, as a camera would."""
    command = [ffmpeg, "-hide_banner", "-loglevel", "error", "-nostdin", "-re", "-stream_loop", "-1", "-ss", str(start)]
    command += ["-i", str(footage), "-an", "-c", "copy", "-f", "rtsp", "-rtsp_transport", "tcp", url]
    with child(command, patience=2.0, stderr=subprocess.DEVNULL):
        yield


@contextmanager
def child(command: Sequence[str], *, patience: float, stderr: int | None = None) -> Iterator[None]:
    """Run a program beside this one; leaving ends it, by force after ``patience`` seconds, and reaps it.

    It has a session of its own: Ctrl-C in the terminal reaches us only, and we end it when its turn has come.
    """
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=stderr, start_new_session=True
    )
    try:
        yield
    finally:
        process.terminate()
        try:
            process.wait(patience)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
