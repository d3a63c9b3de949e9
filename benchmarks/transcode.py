"""The floor of a published stream: one FFmpeg that decodes and encodes with the settings that the program uses."""

from __future__ import annotations

from collections.abc import Sequence

FFMPEG = ["ffmpeg", "-hide_banner", "-nostdin", "-y", "-loglevel", "error"]


def decode(source: Sequence[object]) -> list[str]:
    """Return the command that decodes ``source`` (input options and the input) on one thread to nowhere."""
    return [*FFMPEG, "-threads", "1", *map(str, source), "-an", "-f", "null", "-"]


def transcode(source: Sequence[object], target: Sequence[object], *, fps: float, bitrate: int) -> list[str]:
    """Return the command that decodes ``source`` and encodes it to ``target`` (output options and the output)."""
    return [
        *[*FFMPEG, "-threads", "1", *map(str, source), "-an"],
        *encoder(fps, bitrate),
        *map(str, target),
    ]


def encoder(fps: float, bitrate: int, *, threads: int = 1) -> list[str]:
    """Return the encoder's options: those of ``sentinel_pipeline.infrastructure.video.encoder``."""
    return [
        *["-c:v", "libx264", "-threads", str(threads), "-preset", "ultrafast", "-tune", "zerolatency"],
        *["-pix_fmt", "yuv420p", "-b:v", str(bitrate), "-maxrate", str(bitrate), "-bufsize", str(bitrate // 2)],
        *["-g", str(round(2 * fps)), "-bf", "0"],
    ]


def rtsp(url: str) -> list[str]:
    """Return input options and input for a camera, opened without probing."""
    return ["-rtsp_transport", "tcp", "-probesize", "32", "-analyzeduration", "0", "-i", url]


def to_rtsp(url: str) -> list[str]:
    """Return output options and output for the relay."""
    return ["-f", "rtsp", "-rtsp_transport", "tcp", url]
