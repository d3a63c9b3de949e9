"""Which ffmpeg binary is used, and what it can really do."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from sentinel_pipeline.domain.errors import ConfigError, PublishError
from sentinel_pipeline.domain.redact import redact
from sentinel_pipeline.infrastructure.video.ffmpeg_command import encoder_options

_REMEDY = "install ffmpeg (apt-get install ffmpeg), or pip install 'sentinel-pipeline[ffmpeg]', or name the binary"


def find_ffmpeg(configured: str | None = None) -> str:
    """Return the path of the binary: ``configured``, else the first ``ffmpeg`` on PATH, else the one of imageio-ffmpeg.

    Raises ``PublishError`` with a remedy when there is none.
    """
    if configured:
        found = shutil.which(configured)
        if found is None:
            raise PublishError(f"FFmpeg was not found at {configured}", remedy=_REMEDY)
        return found
    found = shutil.which("ffmpeg") or _bundled()
    if found is None:
        raise PublishError("FFmpeg was not found", remedy=_REMEDY)
    return found


def ffmpeg_version(binary: str, timeout: float = 10.0) -> str:
    """Return the version, such as ``5.1.9-0+deb12u1``. Raises ``PublishError`` when ``binary`` does not answer."""
    answer = _run([binary, "-hide_banner", "-version"], timeout)
    words = answer.stdout.split()
    if answer.returncode != 0 or len(words) < 3 or words[0] != "ffmpeg":
        raise PublishError(f"{binary} is not a usable FFmpeg", remedy=_REMEDY)
    return words[2]


def probe_encoder(binary: str, codec: str, timeout: float = 15.0) -> None:
    """Encode one picture with ``codec``: hardware encoders are listed on machines that cannot run them.

    Raises ``ConfigError`` with what FFmpeg said when it does not work.
    """
    source = ["-f", "lavfi", "-i", "color=black:size=256x144:rate=25", "-frames:v", "1"]
    options = encoder_options(codec, preset="ultrafast", bitrate=1_000_000, fps=25, pix_fmt="yuv420p")
    command = [binary, "-hide_banner", "-nostdin", "-loglevel", "error", *source, *options, "-f", "null", "-"]
    answer = _run(command, timeout)
    if answer.returncode != 0:
        said = [line.strip() for line in redact(answer.stderr).splitlines() if line.strip()]
        why = said[0] if said else f"exit code {answer.returncode}"
        raise ConfigError(f"the encoder {codec} does not work with {binary}: {why}", remedy="use codec libx264")


def _bundled() -> str | None:
    """Return the binary that the package imageio-ffmpeg (extra ``ffmpeg``) carries in its wheel."""
    try:
        import imageio_ffmpeg
    except ImportError:
        return None
    try:
        path = str(imageio_ffmpeg.get_ffmpeg_exe())
    except RuntimeError:  # a wheel without a binary, for platforms it does not know
        return None
    return path if Path(path).exists() else None


def _run(command: list[str], timeout: float) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
            timeout=timeout,
        )
    except FileNotFoundError as exc:
        raise PublishError(f"FFmpeg was not found at {command[0]}", remedy=_REMEDY) from exc
    except OSError as exc:
        raise PublishError(f"{command[0]} cannot be run: {exc.strerror}", remedy=_REMEDY) from exc
    except subprocess.TimeoutExpired as exc:
        raise PublishError(f"{command[0]} did not answer within {timeout:g} s") from exc
