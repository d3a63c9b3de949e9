"""Encoding in process."""

from __future__ import annotations

from fractions import Fraction

import av
import numpy as np
import pytest

from sentinel_pipeline.domain.errors import ConfigError
from sentinel_pipeline.infrastructure.video.canvas import Canvas
from sentinel_pipeline.infrastructure.video.encoder import (
    EncodedPacket,
    H264Encoder,
    check_codec,
    rate_of,
    require_codec,
)
from support.pictures import PlanarImage


def _encode(encoder: H264Encoder, count: int, first: int = 0) -> list[EncodedPacket]:
    canvas = Canvas(*encoder.format.size)
    packets = []
    for slot in range(first, first + count):
        picture, _ = canvas.take(PlanarImage(*canvas.size, shade=60 + slot % 100))
        packets += encoder.encode(picture, slot)
    return packets


def _nal_types(data: bytes) -> list[int]:
    return [part[0] & 31 for part in data.split(b"\0\0\1")[1:]]


def test_every_picture_gives_its_packet_at_once() -> None:
    """No look-ahead and no B-frames: each call returns the packet of its own slot."""
    encoder = H264Encoder(320, 180, 25)
    canvas = Canvas(320, 180)
    for slot in (0, 1, 2, 7, 8, 100):
        packets = encoder.encode(canvas.take(PlanarImage(320, 180))[0], slot)
        assert [packet.pts_slot for packet in packets] == [slot]


def test_a_keyframe_every_two_seconds_with_its_parameter_sets() -> None:
    """A decoder can begin at any keyframe: SPS (7) and PPS (8) stand in front of the IDR picture (5)."""
    packets = _encode(H264Encoder(320, 180, 10), 45)
    keyframes = [packet for packet in packets if packet.keyframe]
    assert [packet.pts_slot for packet in keyframes] == [0, 20, 40]
    for packet in keyframes:
        types = _nal_types(packet.data)
        assert types.index(7) < types.index(8) < types.index(5)
    assert all(set(_nal_types(packet.data)) == {1} for packet in packets if not packet.keyframe)


def test_a_requested_keyframe_comes_next_and_only_once() -> None:
    """A request makes the very next picture a keyframe; the one after it is not."""
    encoder = H264Encoder(320, 180, 25)
    assert [packet.keyframe for packet in _encode(encoder, 3)] == [True, False, False]
    encoder.request_keyframe()
    assert [packet.keyframe for packet in _encode(encoder, 3, first=3)] == [True, False, False]


def test_extradata_are_the_parameter_sets() -> None:
    """An RTSP session description can be made before the first packet."""
    assert _nal_types(H264Encoder(320, 180, 25).extradata) == [7, 8]


def test_packets_decode_to_the_pictures_that_went_in() -> None:
    """What is decoded from packet i is picture i, with its brightness."""
    packets = _encode(H264Encoder(320, 180, 25), 10)
    decoder = av.CodecContext.create("h264", "r")
    decoded = [frame for packet in packets for frame in decoder.decode(av.Packet(packet.data))]
    decoded += decoder.decode(None)
    shades = [int(np.median(frame.to_ndarray()[:20, :100])) for frame in decoded]
    assert len(shades) == 10
    assert np.allclose(shades, range(60, 70), atol=1)


def test_the_rate_is_capped() -> None:
    """Noise, which cannot be compressed, is held to the bit rate asked for."""
    encoder = H264Encoder(320, 180, 25, bitrate=400_000)
    random = np.random.default_rng(1)
    canvas, size = Canvas(320, 180), 0
    for slot in range(75):
        picture, planes = canvas.take(PlanarImage(320, 180))
        planes.y[:] = random.integers(16, 235, planes.y.shape, np.uint8)
        size += sum(len(packet.data) for packet in encoder.encode(picture, slot))
    assert size * 8 / 3 < 1.4 * 400_000


def test_a_picture_that_repeats_needs_few_bits() -> None:
    """A still picture with sensor noise in it is not refined for ever at the full bit rate."""
    encoder = H264Encoder(320, 180, 25, bitrate=1_000_000)
    picture, planes = Canvas(320, 180).take(PlanarImage(320, 180))
    planes.y[:] = np.random.default_rng(1).integers(90, 130, planes.y.shape, np.uint8)
    sizes = [len(packet.data) for slot in range(50) for packet in encoder.encode(picture, slot)]
    assert sum(sizes[25:]) * 8 < 0.1 * 1_000_000


@pytest.mark.parametrize("size", [(641, 360), (640, 361), (0, 0)])
def test_odd_sizes_are_refused(size: tuple[int, int]) -> None:
    """4:2:0 needs even sides; the canvas provides them."""
    with pytest.raises(ConfigError, match="cannot be encoded"):
        H264Encoder(*size, 25)


@pytest.mark.parametrize("codec", ["h264_nonsense", "aac"])
def test_other_codecs_are_refused(codec: str) -> None:
    """A codec that is not there, or is not for video, is a configuration error with a remedy."""
    with pytest.raises(ConfigError, match="libx264"):
        require_codec(codec)
    with pytest.raises(ConfigError, match="libx264"):
        H264Encoder(320, 180, 25, codec=codec)


def test_codecs_are_checked_by_encoding() -> None:
    """The software encoders work here; H.265 has the same low latency."""
    check_codec("libx264")
    check_codec("libx265")
    packets = _encode(H264Encoder(320, 180, 25, codec="libx265"), 5)
    assert [packet.pts_slot for packet in packets] == [0, 1, 2, 3, 4]


def test_presets_are_checked_with_their_codec() -> None:
    """A mistyped preset is told from a codec that does not work; an encoder without presets is not asked for one."""
    check_codec("libx264", "veryfast")
    check_codec("mpeg4", "ultrfast")
    for codec in ("libx264", "libx265"):
        with pytest.raises(ConfigError, match=f"{codec} has no preset ultrfast") as caught:
            check_codec(codec, "ultrfast")
        assert "ultrafast" in caught.value.remedy


def test_a_wrong_preset_is_a_configuration_error() -> None:
    """A preset that the encoder does not know is reported as such, not as a crash."""
    with pytest.raises(ConfigError, match="cannot be opened"):
        H264Encoder(320, 180, 25, preset="warp-speed")


@pytest.mark.parametrize(
    ("fps", "rate"),
    [(25, Fraction(25)), (29.97, Fraction(30000, 1001)), (23.976, Fraction(24000, 1001)), (12.5, Fraction(25, 2))],
)
def test_rates_are_exact(fps: float, rate: Fraction) -> None:
    """The usual broken rates become the fractions they stand for."""
    assert rate_of(fps) == rate
