"""A publisher's SDP reaches the players with its codec parameters, and with track names of the relay."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sentinel_pipeline.lab.rtsp_messages import RtspSyntaxError
from sentinel_pipeline.lab.sdp import read_description

FFMPEG = """v=0
o=- 0 0 IN IP4 127.0.0.1
s=No Name
c=IN IP4 127.0.0.1
t=0 0
a=tool:libavformat 59.27.100
a=control:*
m=video 5000 RTP/AVP 96
b=AS:318
a=rtpmap:96 H264/90000
a=fmtp:96 packetization-mode=1; sprop-parameter-sets=Z2QAHqzZQMAk,aOvjyyLA; profile-level-id=64001E
a=control:streamid=0
m=audio 0 RTP/AVP 97
c=IN IP6 ::1
a=control:rtsp://127.0.0.1/cam1/streamid=1
m=application 0 RTP/AVP 98
"""


def test_tracks_are_renamed_and_parameters_kept() -> None:
    """Players get fmtp as announced, null addresses, port 0, and trackID=N as the only track names."""
    description = read_description(FFMPEG.replace("\n", "\r\n").encode())
    lines = description.sdp.decode().split("\r\n")
    assert (
        "a=fmtp:96 packetization-mode=1; sprop-parameter-sets=Z2QAHqzZQMAk,aOvjyyLA; profile-level-id=64001E" in lines
    )
    assert [line for line in lines if "control" in line] == [
        "a=control:*",
        "a=control:trackID=0",
        "a=control:trackID=1",
        "a=control:trackID=2",
    ]
    assert [line for line in lines if line[:2] in {"c=", "m="}] == [
        "c=IN IP4 0.0.0.0",
        "m=video 0 RTP/AVP 96",
        "m=audio 0 RTP/AVP 97",
        "c=IN IP6 ::",
        "m=application 0 RTP/AVP 98",
    ]
    assert lines[-1] == ""


def test_the_publishers_own_track_names_are_remembered() -> None:
    """Relative, absolute and missing control names all say how the publisher's SETUP will end."""
    assert read_description(FFMPEG.encode()).controls == ("streamid=0", "streamid=1", "trackID=2")


@pytest.mark.parametrize("body", [b"", b"v=0\r\ns=x\r\n", b"m=video 0 RTP/AVP 96\r\n", b"\xff", b"hello"])
def test_what_describes_no_track_is_refused(body: bytes) -> None:
    """An ANNOUNCE without a session or without a track is a syntax error."""
    with pytest.raises(RtspSyntaxError):
        read_description(body)


@given(st.binary(max_size=200))
def test_any_body_is_read_or_refused(body: bytes) -> None:
    """No body raises anything but the listed error."""
    with contextlib.suppress(RtspSyntaxError):
        read_description(b"v=0\nm=video 0 RTP/AVP 96\n" + body)
