"""Encodes the published picture once, in this process, where nothing can block."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Any, cast

import av
import av.error
from av.codec.context import Flags
from av.video.frame import PictureType

from sentinel_pipeline.domain.errors import ConfigError, PublishError
from sentinel_pipeline.infrastructure.video.ffmpeg_command import gop_size

PRESETS = "ultrafast, superfast, veryfast, faster, fast, medium, slow, slower or veryslow"  # of libx264 and libx265


@dataclass(frozen=True, slots=True)
class StreamFormat:
    """What an output must know about the packets. ``codec`` is the format (h264), ``rate`` in pictures per second."""

    codec: str
    size: tuple[int, int]
    rate: Fraction


@dataclass(frozen=True, slots=True)
class EncodedPacket:
    """One encoded picture (Annex B), shown in output slot ``pts_slot`` of 1/fps seconds.

    A keyframe carries its parameter sets in front, so that a decoder can begin with it. ``format`` is the same for all
    packets of an encoder.
    """

    data: bytes
    pts_slot: int
    keyframe: bool
    format: StreamFormat


class H264Encoder:
    """A low-latency encoder: one picture in, one packet out. One thread only, but for ``request_keyframe``.

    width, height: even. bitrate: bit/s, also the maximum; half a second of it is the buffer.
    codec: any encoder of PyAV for yuv420p, with libx264 and libx265 tuned for latency.

    Raises ``ConfigError`` when PyAV does not have the codec or this machine cannot run it.
    """

    def __init__(
        self,
        width: int,
        height: int,
        fps: float,
        preset: str = "ultrafast",
        bitrate: int = 2_000_000,
        codec: str = "libx264",
    ) -> None:
        if width % 2 or height % 2 or width < 2 or height < 2:
            raise ConfigError(f"{width}x{height} cannot be encoded", remedy="4:2:0 pictures have even sides")
        self._tick = 1 / rate_of(fps)
        self._keyframe_wanted = False
        self._context = _open(codec, (width, height), fps, preset, bitrate)
        self.format = StreamFormat(self._context.codec.canonical_name, (width, height), rate_of(fps))

    @property
    def extradata(self) -> bytes:
        """The parameter sets (SPS and PPS, Annex B), the same that stand in front of every keyframe."""
        return bytes(self._context.extradata or b"")

    def request_keyframe(self) -> None:
        """Make the next picture a keyframe: somebody begins to watch. Safe from any thread."""
        self._keyframe_wanted = True

    def encode(self, frame: av.VideoFrame, slot: int) -> list[EncodedPacket]:
        """Encode a yuv420p picture for ``slot``; slots must increase. Raises ``PublishError``."""
        frame.pts, frame.time_base = slot, self._tick
        # Taken before the call: a request that comes during it is for the next picture.
        wanted, self._keyframe_wanted = self._keyframe_wanted, False
        frame.pict_type = PictureType.I if wanted else PictureType.NONE
        try:
            return [_packet(packet, self.format) for packet in self._context.encode(frame)]
        except (av.error.FFmpegError, ValueError) as exc:
            raise PublishError(f"a picture cannot be encoded: {exc}") from exc


def rate_of(fps: float) -> Fraction:
    """Return pictures per second as an exact fraction: 29.97 is 30000/1001."""
    ntsc = Fraction(round(fps * 1001 / 1000) * 1000, 1001)
    return ntsc if fps % 1 and abs(float(ntsc) - fps) < 0.005 else Fraction(fps).limit_denominator(1001)


def require_codec(codec: str) -> None:
    """Raise ``ConfigError`` when PyAV has no video encoder of that name."""
    try:
        kind = av.Codec(codec, "w").type
    except ValueError as exc:  # av.codec.codec.UnknownCodecError
        raise ConfigError(
            f"codec {codec} is not available in this process", remedy="use libx264, libx265 or another encoder of PyAV"
        ) from exc
    if kind != "video":
        raise ConfigError(f"codec {codec} does not encode video", remedy="use libx264")


def check_codec(codec: str, preset: str = "ultrafast") -> None:
    """Encode one picture: hardware codecs are listed on machines that cannot run them. Then try the preset.

    Raises ``ConfigError``.
    """
    _encode_one(codec)
    try:
        H264Encoder(256, 144, 25, preset, codec=codec)
    except ConfigError as exc:  # the codec itself has just worked
        raise ConfigError(f"the encoder {codec} has no preset {preset}", remedy=f"use preset {PRESETS}") from exc


def _encode_one(codec: str) -> None:
    encoder = H264Encoder(256, 144, 25, codec=codec)
    try:
        encoder.encode(av.VideoFrame(256, 144, "yuv420p"), 0)
    except PublishError as exc:
        raise ConfigError(f"the encoder {codec} does not work here: {exc}", remedy="use codec libx264") from exc


def _open(codec: str, size: tuple[int, int], fps: float, preset: str, bitrate: int) -> av.VideoCodecContext:
    require_codec(codec)
    context = cast(av.VideoCodecContext, av.CodecContext.create(codec, "w"))
    context.width, context.height = size
    context.pix_fmt = "yuv420p"
    context.framerate = rate_of(fps)
    context.time_base = 1 / rate_of(fps)
    context.bit_rate = bitrate
    context.gop_size = gop_size(fps)
    context.max_b_frames = 0
    context.thread_count = 1  # frame threads would hold pictures back; the streams are parallel enough
    context.flags |= Flags.global_header  # fills ``extradata``; the parameter sets are repeated by _options
    context.options = _options(codec, preset, bitrate)
    try:
        context.open()
    except (av.error.FFmpegError, ValueError) as exc:
        raise ConfigError(
            f"the encoder {codec} cannot be opened: {exc}", remedy="use codec libx264, and one of its presets"
        ) from exc
    return context


def _options(codec: str, preset: str, bitrate: int) -> dict[str, str]:
    options = {"maxrate": str(bitrate), "bufsize": str(bitrate // 2)}
    if codec in ("libx264", "libx265"):
        # Without qmin the rate control spends the whole bit rate on refining a picture that repeats, and much time.
        options |= {"preset": preset, "tune": "zerolatency", "forced-idr": "1", "qmin": "18"}
        options |= {f"{codec[3:]}-params": "repeat-headers=1"}
    if codec == "libx265":
        options["x265-params"] += ":log-level=error"  # it writes to stderr otherwise
    return options


def _packet(packet: av.Packet[Any], stream_format: StreamFormat) -> EncodedPacket:
    if packet.pts is None:
        raise PublishError("the encoder returned a packet without a timestamp")
    return EncodedPacket(bytes(packet), packet.pts, packet.is_keyframe, stream_format)
