"""Independent peers: servers that are not ours, each a context manager that leaves nothing behind.

Everything listens on 127.0.0.1 on a free port, keeps its files in a folder of its own, and is reaped. Tests that use
one carry its marker (``gstreamer``, ``nginx``, ``ffprobe``); ``scripts/setup-test-peers`` installs them.
"""

from __future__ import annotations

import json
import socket
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

from support.program import wait_until
from support.streams import CLIP, stop

GST_SERVER = Path(__file__).with_name("gst_rtsp_server.py")
SYSTEM_PYTHON = "/usr/bin/python3"  # Debian's GObject bindings belong to this one
NGINX = "/usr/sbin/nginx"
NGINX_RTMP_MODULE = "/usr/lib/nginx/modules/ngx_rtmp_module.so"
START_S = 20.0
STOP_S = 5.0


class PeerError(RuntimeError):
    """A peer did not start, or did not do what was waited for; the text carries what it said."""


@dataclass(frozen=True, slots=True)
class Recording:
    """What GStreamer's server has received from a publisher. ``seconds``: from the first picture to the last."""

    frames: int = 0
    keyframes: int = 0
    bytes: int = 0
    width: int = 0
    height: int = 0
    seconds: float = 0.0
    ended: bool = False


class GStreamerServer:
    """``gst_rtsp_server.py`` as a child process; a thread reads its JSON lines for as long as it lives."""

    def __init__(self, mode: str, settings: dict[str, str], folder: Path) -> None:
        self._settings = json.dumps(settings)
        self._log = folder / "gstreamer.log"
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [SYSTEM_PYTHON, str(GST_SERVER), mode], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log
            )
        self._changed = threading.Condition()
        self._port = 0
        self._recording = Recording()
        self._silent = False
        self._reader = threading.Thread(target=self._read, name="gstreamer-lines")

    def start(self) -> None:
        self._reader.start()
        assert self._process.stdin is not None
        self._process.stdin.write(self._settings.encode() + b"\n")
        self._process.stdin.flush()
        self._wait(lambda: self._port > 0, START_S, "GStreamer's RTSP server to listen")

    def close(self) -> None:
        """Close its stdin, which ends it; reap it, and join the reader."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        try:
            self._process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            stop(self._process)
        if self._reader.ident is not None:
            self._reader.join(STOP_S)
        self._process.stdout.close()

    @property
    def port(self) -> int:
        return self._port

    @property
    def recording(self) -> Recording:
        """What the latest publisher has sent so far."""
        with self._changed:
            return self._recording

    def wait_for_frames(self, frames: int, timeout_s: float = START_S) -> Recording:
        """Block until the present publisher has sent that many pictures."""
        self._wait(lambda: self._recording.frames >= frames, timeout_s, f"{frames} published frames")
        return self.recording

    def wait_for_end(self, timeout_s: float = START_S) -> Recording:
        """Block until the present publisher has gone."""
        self._wait(lambda: self._recording.ended, timeout_s, "the end of the publication")
        return self.recording

    def _wait(self, condition: Callable[[], bool], timeout_s: float, what: str) -> None:
        with self._changed:
            self._changed.wait_for(lambda: condition() or self._silent, timeout_s)
            if not condition():
                said = self._log.read_text(errors="replace").strip()
                raise PeerError(
                    f"waited in vain for {what}; so far {self._recording}; GStreamer said: {said or 'nothing'}"
                )

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            with self._changed:
                self._take(json.loads(line))
                self._changed.notify_all()
        with self._changed:
            self._silent = True
            self._changed.notify_all()

    def _take(self, said: dict[str, Any]) -> None:
        event = said.pop("event")
        if event == "ready":
            self._port = said["port"]
        elif event == "publishing":
            self._recording = Recording()
        else:
            self._recording = Recording(**said, ended=event == "ended")


@contextmanager
def _gstreamer(mode: str, settings: dict[str, str]) -> Iterator[GStreamerServer]:
    with tempfile.TemporaryDirectory(prefix="sentinel-gst-") as folder:
        server = GStreamerServer(mode, settings, Path(folder))
        try:
            server.start()
            yield server
        finally:
            server.close()


@contextmanager
def gstreamer_camera(
    *,
    clip: Path | None = None,
    size: tuple[int, int] = (640, 360),
    fps: int = 25,
    user: str = "",
    password: str = "",
    method: str = "digest",
) -> Iterator[str]:
    """Run a camera and yield its URL, with the percent-encoded credentials in it when there are any.

    It sends a test picture for ever, or ``clip`` (H.264 in MP4) once, at its own rate. ``method``: basic or digest.
    """
    if clip is None:
        picture = f"video/x-raw,width={size[0]},height={size[1]},framerate={fps}/1"
        video = (
            f"videotestsrc is-live=true pattern=ball ! {picture} "
            f"! x264enc tune=zerolatency speed-preset=ultrafast key-int-max={fps}"
        )
    else:
        video = f"filesrc location={json.dumps(str(clip))} ! qtdemux"
    launch = f"( {video} ! h264parse ! rtph264pay name=pay0 pt=96 config-interval=1 )"
    settings = {"launch": launch, "user": user, "password": password, "method": method}
    who = f"{quote(user, safe='')}:{quote(password, safe='')}@" if user else ""
    with _gstreamer("play", settings) as server:
        yield f"rtsp://{who}127.0.0.1:{server.port}/stream"


@contextmanager
def gstreamer_recorder(file: Path | None = None) -> Iterator[tuple[str, GStreamerServer]]:
    """Run a server that takes an RTSP publisher (ANNOUNCE, RECORD), and yield its URL and itself.

    ``file``: keep what arrives there, as H.264 in Annex B form, ready for a decoder.
    """
    with _gstreamer("record", {"file": str(file)} if file else {}) as server:
        yield f"rtsp://127.0.0.1:{server.port}/stream", server


NGINX_CONFIG = """
daemon off;
master_process off;
worker_processes 1;
pid {folder}/nginx.pid;
lock_file {folder}/nginx.lock;
error_log {folder}/error.log info;
load_module {module};
events {{ worker_connections 64; }}
rtmp {{
  access_log off;
  server {{
    listen 127.0.0.1:{port};
    application live {{
      live on;
      wait_key on;
      wait_video on;
      drop_idle_publisher 10s;
    }}
  }}
}}
"""


@contextmanager
def nginx_rtmp() -> Iterator[str]:
    """Run nginx with its RTMP module, as whoever runs the tests, and yield the URL to publish to and play from.

    Other streams are ``…/live/anything``.
    """
    with tempfile.TemporaryDirectory(prefix="sentinel-nginx-") as folder:
        process, port = _start_nginx(Path(folder))
        try:
            yield f"rtmp://127.0.0.1:{port}/live/stream"
        finally:
            stop(process)


def _start_nginx(folder: Path, attempts: int = 5) -> tuple[subprocess.Popen[bytes], int]:
    """Start nginx on a free port. It cannot choose one itself, so another process may take it first: try again."""
    for _ in range(attempts):
        port = free_port()
        config = folder / "nginx.conf"
        config.write_text(NGINX_CONFIG.format(folder=folder, module=NGINX_RTMP_MODULE, port=port))
        log = folder / "start.log"
        with log.open("wb") as out:
            process = subprocess.Popen(
                # setpriv: nginx notices nothing when the test run is killed, so the kernel ends it then
                ["setpriv", "--pdeathsig", "TERM", NGINX, "-p", str(folder), "-c", str(config), "-e", str(log)],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
            )
        try:
            wait_until(partial(_answers, process, port), START_S, "nginx listens")
        except AssertionError:
            stop(process)
            raise
        if process.poll() is None:
            return process, port
    raise PeerError(f"nginx did not start: {log.read_text(errors='replace')}")


def free_port() -> int:
    """Return a TCP port of 127.0.0.1 that nobody listens on just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _answers(process: subprocess.Popen[bytes], port: int) -> bool:
    with socket.socket() as client:
        return process.poll() is not None or client.connect_ex(("127.0.0.1", port)) == 0


@contextmanager
def publishing_rtmp(url: str, clip: Path = CLIP) -> Iterator[subprocess.Popen[bytes]]:
    """Publish ``clip`` over RTMP in real time, over and over, with the plain ``ffmpeg`` program; nothing is encoded."""
    command = ["ffmpeg", "-nostdin", "-v", "error", "-re", "-stream_loop", "-1", "-i", str(clip), "-an", "-c", "copy"]
    process = subprocess.Popen(
        [*command, "-f", "flv", url], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        yield process
    finally:
        stop(process)


def ffprobe(url: str, *options: str, timeout_s: float = 30.0) -> dict[str, Any]:
    """Return what the plain ``ffprobe`` says about the first video stream of anything (``streams.probe``: of RTSP).

    Raises ``PeerError`` with its complaint.
    """
    ask = ["ffprobe", "-v", "error", *options, "-select_streams", "v:0", "-show_streams", "-of", "json", url]
    done = subprocess.run(ask, capture_output=True, text=True, timeout=timeout_s, check=False)
    streams = json.loads(done.stdout or "{}").get("streams", [])
    if done.returncode != 0 or not streams:
        raise PeerError(f"ffprobe: {done.stderr.strip() or 'no video stream'}")
    return dict(streams[0])


def ffmpeg_counts_frames(url: str, frames: int, *options: str, timeout_s: float = 30.0) -> int:
    """Decode up to ``frames`` pictures with the plain ``ffmpeg`` program and return how many there were."""
    ask = ["ffmpeg", "-nostdin", "-v", "error", *options, "-i", url, "-frames:v", str(frames), "-f", "framemd5", "-"]
    done = subprocess.run(ask, capture_output=True, text=True, timeout=timeout_s, check=False)
    if done.returncode != 0:
        raise PeerError(f"ffmpeg: {done.stderr.strip()}")
    return sum(not line.startswith("#") for line in done.stdout.splitlines())
