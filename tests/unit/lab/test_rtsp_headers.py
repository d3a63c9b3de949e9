"""Request URLs and Transport headers are understood as clients send them, and refused when they cannot be."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sentinel_pipeline.lab.rtsp_headers import (
    TransportOffer,
    base_url,
    path_name,
    transport_offers,
    url_rest,
    without_control,
)
from sentinel_pipeline.lab.rtsp_messages import RtspSyntaxError


@pytest.mark.parametrize(
    ("value", "offers"),
    [
        ("RTP/AVP/TCP;unicast;interleaved=0-1", [TransportOffer("tcp", (0, 1))]),
        ("RTP/AVP/TCP;unicast;interleaved=4", [TransportOffer("tcp", (4, 5))]),
        ("RTP/AVP/TCP;unicast;mode=record", [TransportOffer("tcp", None)]),
        ("rtp/avp/udp; Unicast; Client_Port=5000-5001", [TransportOffer("udp", (5000, 5001))]),
        ("RTP/AVP;unicast;client_port=5000-5001", [TransportOffer("udp", (5000, 5001))]),
        ("RTP/AVP;multicast,RTP/AVP/TCP;interleaved=2-3", [TransportOffer("tcp", (2, 3))]),
        ("RTP/SAVP/TCP;unicast;interleaved=0-1", []),
        ("", []),
    ],
)
def test_transport_offers_are_read_in_order(value: str, offers: list[TransportOffer]) -> None:
    """What FFmpeg, GStreamer and VLC offer is read; multicast and encrypted profiles are left out."""
    assert transport_offers(value) == offers


@pytest.mark.parametrize("pair", ["256-257", "255-256", "1-0", "3-3", "a-b", "1-", "-1", "99999999-1"])
def test_impossible_channels_are_a_syntax_error(pair: str) -> None:
    """Channels are bytes, the second above the first; everything else is refused with 400."""
    with pytest.raises(RtspSyntaxError):
        transport_offers(f"RTP/AVP/TCP;interleaved={pair}")


@given(st.text(max_size=80))
def test_any_transport_text_is_read_or_refused(value: str) -> None:
    """No text raises anything but the listed error."""
    with contextlib.suppress(RtspSyntaxError):
        transport_offers(value)


@pytest.mark.parametrize(
    ("url", "rest", "name", "base"),
    [
        ("rtsp://h:8554/cam1", "cam1", "cam1", "rtsp://h:8554/cam1/"),
        ("rtsp://h:8554/cam1/", "cam1", "cam1", "rtsp://h:8554/cam1/"),
        ("rtsp://u:p@h/site/cam%201?token=x", "site/cam%201?token=x", "site/cam 1", "rtsp://h/site/cam%201/"),
        ("RTSP://[::1]:554/a", "a", "a", "RTSP://[::1]:554/a/"),
    ],
)
def test_urls_lose_credentials_and_query(url: str, rest: str, name: str, base: str) -> None:
    """The path name is decoded without the query, and no answer carries the user info of the request."""
    assert (url_rest(url), path_name(url_rest(url)), base_url(url)) == (rest, name, base)


@pytest.mark.parametrize("url", ["http://h/cam", "cam1", "*", ""])
def test_other_urls_are_a_syntax_error(url: str) -> None:
    """Only rtsp:// and rtsps:// URLs name a path."""
    with pytest.raises(RtspSyntaxError):
        url_rest(url)


@pytest.mark.parametrize("rest", ["x" * 201, "cam%0a1", "cam%00"])
def test_path_names_that_would_break_logs_are_refused(rest: str) -> None:
    """Names are bounded and printable."""
    with pytest.raises(RtspSyntaxError):
        path_name(rest)


def test_a_tracks_name_is_cut_off_behind_path_or_query() -> None:
    """FFmpeg appends the track's name to the whole URL, query included."""
    assert without_control("cam1/streamid=0", "streamid=0") == "cam1"
    assert without_control("cam1?k=v/streamid=0", "streamid=0") == "cam1?k=v"
    assert without_control("streamid=0", "streamid=0") == ""
    assert without_control("cam1/streamid=10", "streamid=0") is None
