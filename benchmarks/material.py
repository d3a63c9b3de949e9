"""The footage: made once with FFmpeg from the built-in clip, kept in the temporary directory."""

from __future__ import annotations

import os
import subprocess
import tempfile
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

SOURCE = Path(str(files("sentinel_pipeline.assets") / "vtest-768x576-10fps.mp4"))
_VERSION = 2  # change it when the recipe changes


@dataclass(frozen=True, slots=True)
class Clip:
    """H.264 Main, one slice, no B-frames, a keyframe every 2 s: what a camera sends in its low-latency mode.

    Upscaled footage has less detail than a native camera of that size; sensor noise (``noise``, 0 to 100) makes up for
    some of it. ``still``: the first picture only, with noise: a camera that looks at nothing.
    """

    width: int
    height: int
    fps: int = 25
    seconds: int = 30
    bitrate: int = 4_000_000
    noise: int = 5
    still: bool = False

    @property
    def frames(self) -> int:
        """Pictures in the clip."""
        return self.fps * self.seconds

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels."""
        return (self.width, self.height)

    def path(self) -> Path:
        """Return the file, made now when it is not there yet."""
        kind = "still" if self.still else "moving"
        name = f"{self.width}x{self.height}-{self.fps}fps-{self.seconds}s-{self.bitrate}-n{self.noise}-{kind}"
        path = folder() / f"v{_VERSION}-{name}.mp4"
        if not path.exists():
            part = path.with_suffix(f".{os.getpid()}.mp4")
            subprocess.run([*self._command(), str(part)], check=True, stdin=subprocess.DEVNULL)
            part.replace(path)
        return path

    def _command(self) -> list[str]:
        filters = [f"fps={self.fps}", f"scale={self.width}:{self.height}"]
        if self.still:
            filters.insert(0, "trim=end_frame=1,loop=-1:1:0,setpts=N/10/TB")
        if self.noise:
            filters.append(f"noise=all_strength={self.noise}:allf=t")
        gop, kbit = str(2 * self.fps), self.bitrate // 1000
        return [
            *["ffmpeg", "-hide_banner", "-nostdin", "-loglevel", "error", "-y", "-stream_loop", "-1"],
            *["-i", str(SOURCE), "-an", "-vf", ",".join(filters), "-t", str(self.seconds)],
            *["-c:v", "libx264", "-profile:v", "main", "-preset", "veryfast", "-tune", "zerolatency"],
            *["-x264-params", "slices=1:sliced-threads=0", "-b:v", f"{kbit}k", "-maxrate", f"{kbit}k"],
            *["-bufsize", f"{kbit}k", "-g", gop, "-keyint_min", gop, "-sc_threshold", "0", "-bf", "0"],
            *["-pix_fmt", "yuv420p"],
        ]


def folder() -> Path:
    """Return the directory for footage."""
    made = Path(tempfile.gettempdir()) / f"sentinel-benchmarks-{os.getuid()}"
    made.mkdir(exist_ok=True)
    return made


FULL_HD = Clip(1920, 1080)
IDLE = Clip(1920, 1080, still=True)
SMALL = Clip(640, 360, seconds=40, bitrate=1_000_000)
