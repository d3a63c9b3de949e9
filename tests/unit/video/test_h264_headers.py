"""The headers of real encoders, read by our few lines."""

from __future__ import annotations

import av
import pytest
from av.codec.context import Flags

from sentinel_pipeline.infrastructure.video.h264_headers import progressive, recovery_point

_START = b"\0\0\0\1"


def sps(pix_fmt: str = "yuv420p", **options: str) -> bytes:
    """Return the SPS that x264 writes, without its start code."""
    encoder = av.CodecContext.create("libx264", "w")
    encoder.width, encoder.height, encoder.pix_fmt, encoder.framerate = 176, 144, pix_fmt, 25
    encoder.flags |= Flags.global_header
    encoder.options = options
    encoder.open()
    return next(nal for nal in (encoder.extradata or b"").split(_START) if nal and nal[0] & 0x1F == 7)


@pytest.mark.parametrize(
    "options",
    [
        {"profile": "baseline"},
        {"profile": "main"},
        {"profile": "high"},
        {"preset": "ultrafast", "tune": "zerolatency"},
        {"pix_fmt": "yuv444p", "profile": "high444"},
        {"pix_fmt": "yuv422p"},
    ],
)
def test_progressive_sequences_are_known(options: dict[str, str]) -> None:
    """In each profile the flag for frames only is found behind the fields that the profile has."""
    assert progressive(sps(**options))


@pytest.mark.parametrize("profile", ["main", "high"])
def test_sequences_with_fields_are_known(profile: str) -> None:
    """An interlaced stream, whose pictures may be two fields, is not taken for a progressive one."""
    assert not progressive(sps(profile=profile, **{"x264-params": "interlaced=1"}))


def test_what_cannot_be_read_is_not_progressive() -> None:
    """A cut-off SPS, an empty one, and one with scaling matrices (lists of any length) count as unknown."""
    whole = sps(profile="high")
    assert not any(progressive(whole[:length]) for length in range(8))
    high = f"{100:08b}" + "0" * 16 + "1" + "010" + "11" + "0"  # profile, level, id, 4:2:0, two depths, no bypass
    plain, matrices = (int((high + flag).ljust(128, "1"), 2).to_bytes(16, "big") for flag in "01")
    assert progressive(b"\x67" + plain)
    assert not progressive(b"\x67" + matrices)


def test_recovery_point_is_found_behind_other_payloads() -> None:
    """Of several payloads in one SEI message each is looked at, also behind one of more than 255 bytes."""
    recovery = bytes([6, 1, 0x84, 0x80])
    other = bytes([5, 0xFF, 10]) + bytes([1]) * 265
    assert recovery_point(b"\x06" + recovery)
    assert recovery_point(b"\x06" + other + recovery)
    assert not recovery_point(b"\x06" + other + b"\x80")
    assert not recovery_point(b"\x06" + recovery[:1])
    assert not recovery_point(b"\x06")
