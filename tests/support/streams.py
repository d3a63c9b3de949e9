"""Real streams for tests: publish a clip with FFmpeg, look at a stream with ffprobe, make a clip."""

from __future__ import annotations

import importlib.resources
import json
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Literal

from sentinel_pipeline.domain.redact import redact

# 768x576, 10 fps, H.264 High without B-frames, a keyframe every 2 s (GOP 20), 79.5 s, 0.3 Mbit/s
CLIP = Path(str(importlib.resources.files("sentinel_pipeline.assets") / "vtest-768x576-10fps.mp4"))

_STOP_DEADLINE_S = 5.0
_TAIL_CHARS = 2000

Transport = Literal["tcp", "udp"]


class ProbeError(AssertionError):
    """ffprobe found no stream; the message is what it said, without credentials."""


@contextmanager
def publishing(
    url: str, *, clip: Path = CLIP, transport: Transport = "tcp", extra_args: Sequence[str] = ()
) -> Iterator[subprocess.Popen[bytes]]:
    """Publish ``clip`` in real time, over and over, until the block ends; its packets are copied, not encoded again.

    extra_args: further output options. FFmpeg is terminated and reaped at the end. When the block fails after FFmpeg
    had ended by itself, what FFmpeg said is added to the failure.
    """
    command = ["ffmpeg", "-hide_banner", "-nostdin", "-loglevel", "warning", "-re", "-stream_loop", "-1"]
    command += ["-i", str(clip), "-an", "-c", "copy", *extra_args, "-f", "rtsp", "-rtsp_transport", transport, url]
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=said)
        try:
            yield process
        except BaseException as exc:
            if process.poll() is not None:
                exc.add_note(f"the publishing ffmpeg had ended with {process.returncode}: {_tail(said)}")
            raise
        finally:
            stop(process)


def stop(process: subprocess.Popen[bytes]) -> int:
    """Terminate and reap a child, by force after 5 s, and return its exit code."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(_STOP_DEADLINE_S)
        except subprocess.TimeoutExpired:
            process.kill()
    return process.wait(_STOP_DEADLINE_S)


def probe(url: str, *, transport: Transport = "tcp", timeout: float = 15.0) -> dict[str, Any]:
    """Return what ``ffprobe -show_streams`` tells about the first video stream. Raises ``ProbeError``.

    timeout: seconds for the whole probe.
    """
    command = ["ffprobe", "-hide_banner", "-loglevel", "error", "-rtsp_transport", transport]
    command += ["-analyzeduration", "500000"]  # half a second: by default 4 s go into guessing the frame rate
    command += [
        "-timeout",
        str(int(timeout * 1_000_000)),
        "-select_streams",
        "v:0",
        "-show_streams",
        "-of",
        "json",
        url,
    ]
    try:
        done = subprocess.run(command, capture_output=True, check=False, timeout=timeout, stdin=subprocess.DEVNULL)
    except subprocess.TimeoutExpired:
        raise ProbeError(redact(f"ffprobe did not end within {timeout} s: {url}")) from None
    streams = json.loads(done.stdout or b"{}").get("streams", [])
    if done.returncode != 0 or not streams:
        said = redact(done.stderr.decode(errors="replace")[-_TAIL_CHARS:])
        raise ProbeError(f"ffprobe ended with {done.returncode} and {len(streams)} video streams: {said}")
    return dict(streams[0])


def make_clip(
    path: Path,
    *,
    size: tuple[int, int] = (640, 360),
    fps: int = 25,
    seconds: float = 5,
    gop: int = 50,
    codec: str = "libx264",
    pix_fmt: str = "yuv420p",
    pattern: str = "testsrc2",
    params: str = "",
) -> Path:
    """Encode an FFmpeg test pattern into ``path`` (the suffix chooses the container) and return ``path``.

    size: width and height in pixels.  gop: frames from one keyframe to the next.
    params: further parameters of x264.
    """
    source = f"{pattern}=size={size[0]}x{size[1]}:rate={fps}:duration={seconds}"
    command = ["ffmpeg", "-hide_banner", "-nostdin", "-loglevel", "error", "-y", "-f", "lavfi", "-i", source]
    command += ["-c:v", codec, "-pix_fmt", pix_fmt, "-g", str(gop), "-bf", "0"]
    if codec in {"libx264", "libx265"}:
        command += ["-preset", "ultrafast"]
    if params:
        command += ["-x264-params", params]
    done = subprocess.run([*command, str(path)], capture_output=True, check=False, timeout=120)
    if done.returncode != 0:
        raise AssertionError(
            f"ffmpeg could not make {path.name}: {done.stderr.decode(errors='replace')[-_TAIL_CHARS:]}"
        )
    return path


def _tail(said: IO[bytes]) -> str:
    said.seek(0)
    return redact(said.read().decode(errors="replace")[-_TAIL_CHARS:])
