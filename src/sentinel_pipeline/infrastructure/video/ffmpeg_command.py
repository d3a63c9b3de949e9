"""Command lines for the ffmpeg child, as pure functions."""

from __future__ import annotations

import re
from pathlib import PurePath
from urllib.parse import unquote, urlsplit

from sentinel_pipeline.domain.errors import ConfigError
from sentinel_pipeline.domain.redact import redact

_SUPPORTED = "rtsp, rtsps, rtmp, rtmps, srt, or a file ending in .mp4, .mkv or .ts"
_RTSP = ["-f", "rtsp", "-rtsp_transport", "tcp"]
# Without no_duration_filesize the flv muxer complains at the end that it cannot seek back in a network stream.
_FLV = ["-f", "flv", "-flvflags", "no_duration_filesize"]
_MPEGTS = ["-f", "mpegts", "-muxdelay", "0", "-muxpreload", "0", "-flush_packets", "1"]
_MUXERS = {"rtsp": _RTSP, "rtsps": _RTSP, "rtmp": _FLV, "rtmps": _FLV, "srt": _MPEGTS}
# In fragments, each with its own index and written out at once: an ffmpeg that is killed writes no index at the end.
_MP4 = ["-f", "mp4", "-movflags", "+frag_keyframe+empty_moov+default_base_moof", "-flush_packets", "1"]
_FILES = {".mp4": _MP4, ".mkv": ["-f", "matroska", "-flush_packets", "1"], ".ts": _MPEGTS}
_BITRATE = re.compile(r"(\d+(?:\.\d+)?)\s*([kKmMgG]?)")
_UNITS = {"": 1, "k": 1_000, "m": 1_000_000, "g": 1_000_000_000}
# Drivers of VAAPI need the picture on the device; the first render node is right on machines with one GPU.
_VAAPI = ["-vaapi_device", "/dev/dri/renderD128", "-vf", "format=nv12,hwupload"]


def muxer_options(url: str) -> list[str]:
    """Return the output options that the scheme of ``url`` needs.

    Raises ``ConfigError`` for a scheme, or a file type, that nothing here can publish to.
    """
    scheme = _scheme(url)
    if scheme in _MUXERS:
        return list(_MUXERS[scheme])
    suffix = PurePath(file_path(url)).suffix.lower() if is_file(url) else ""
    if suffix in _FILES:
        return list(_FILES[suffix])
    raise ConfigError(f"cannot publish to {redact(url)}", remedy=f"supported are {_SUPPORTED}")


def is_file(url: str) -> bool:
    """Return whether ``url`` is a file output, given as a path or as a ``file:`` URL."""
    return _scheme(url) == "file"


def file_path(url: str) -> str:
    """Return the path of a file output, given as a path or as a ``file:`` URL."""
    return unquote(urlsplit(url).path) if url.startswith("file:") else url


def _scheme(url: str) -> str:
    return urlsplit(url).scheme.lower() if "://" in url or url.startswith("file:") else "file"


def parse_bitrate(text: str | int) -> int:
    """Return bit/s of ``2M``, ``800k`` or a number. Raises ``ConfigError``."""
    match = _BITRATE.fullmatch(str(text).strip())
    value = int(float(match[1]) * _UNITS[match[2].lower()]) if match else 0
    if value <= 0:
        raise ConfigError(f"{text!r} is not a bit rate", remedy="write it as 2M or 800k")
    return value


def encoder_options(codec: str, *, preset: str, bitrate: str | int, fps: float, pix_fmt: str) -> list[str]:
    """Return the options that encode for live viewing: no look-ahead, a keyframe every two seconds, a capped rate.

    ``bufsize`` of half a second keeps a single keyframe from delaying the pictures behind it by more than that.
    Presets have other names in other encoders; ``preset`` is passed to the software encoders only.
    """
    rate = parse_bitrate(bitrate)
    options = [*_VAAPI] if codec.endswith("_vaapi") else []
    options += ["-c:v", codec]
    if not codec.endswith("_vaapi"):
        options += ["-pix_fmt", "nv12" if codec.endswith("_qsv") else pix_fmt]
    if codec in ("libx264", "libx265"):
        options += ["-preset", preset, "-tune", "zerolatency"]
    elif codec.endswith("_nvenc"):
        options += ["-preset", "p1", "-tune", "ull", "-delay", "0"]
    options += ["-b:v", str(bitrate), "-maxrate", str(rate), "-bufsize", str(rate // 2)]
    return [*options, "-g", str(gop_size(fps)), "-bf", "0"]


def gop_size(fps: float) -> int:
    """Return the pictures between two keyframes: two seconds of them."""
    return max(1, round(2 * fps))


def raw_command(
    binary: str,
    url: str,
    *,
    size: tuple[int, int],
    fps: float,
    codec: str,
    preset: str,
    bitrate: str | int,
    pix_fmt: str,
    loglevel: str = "info",
) -> list[str]:
    """Return the command that encodes raw BGR pictures from stdin and publishes them (the user's document).

    Raw video has no timestamps: FFmpeg counts pictures, so the output is of constant rate exactly.
    """
    width, height = size
    return [
        *[binary, "-y", "-nostdin", "-hide_banner", "-nostats", "-loglevel", loglevel],
        *["-f", "rawvideo", "-vcodec", "rawvideo", "-pix_fmt", "bgr24"],
        *["-s", f"{width}x{height}", "-r", str(fps), "-i", "-"],
        *encoder_options(codec, preset=preset, bitrate=bitrate, fps=fps, pix_fmt=pix_fmt),
        *muxer_options(url),
        file_path(url),
    ]


def copy_command(binary: str, url: str) -> list[str]:
    """Return the command that copies encoded packets, as NUT on stdin, to ``url``.

    With the smallest probe FFmpeg opens the output after the first packet. That packet is a keyframe with its parameter
    sets in front, from which FFmpeg takes the extradata that RTSP's SDP (RFC 6184 section 8.1) and FLV need.
    ``-loglevel info`` because the line ``Output #0`` says that the server has accepted the stream.
    """
    return [
        *[binary, "-y", "-nostdin", "-hide_banner", "-nostats", "-loglevel", "info"],
        *["-probesize", "32", "-analyzeduration", "0", "-fpsprobesize", "0"],
        *["-f", "nut", "-i", "pipe:0", "-map", "0", "-c", "copy"],
        *muxer_options(url),
        file_path(url),
    ]
