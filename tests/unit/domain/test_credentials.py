"""User information in URLs: found, taken out and written so that every reader agrees."""

from __future__ import annotations

from urllib.parse import urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sentinel_pipeline.domain.credentials import normalise_url, split_credentials, with_credentials

SPLITS = {
    "plain": ("rtsp://u:p@cam:554/x?a=b", ("rtsp://cam:554/x?a=b", "u", "p")),
    "encoded": ("rtsp://u:p%40%3A@cam", ("rtsp://cam", "u", "p@:")),
    "user only": ("rtsp://u@cam", ("rtsp://cam", "u", None)),
    "empty password": ("rtsp://u:@cam", ("rtsp://cam", "u", "")),
    "none": ("rtsp://cam:554/x", ("rtsp://cam:554/x", None, None)),
    "no URL": ("/videos/a@b.mp4", ("/videos/a@b.mp4", None, None)),
    "raw at sign": ("rtsp://u:p@ss@cam/x", ("rtsp://cam/x", "u", "p@ss")),
    "raw slash": ("rtsp://u:p/ss@cam/x", ("rtsp://cam/x", "u", "p/ss")),
    "raw hash and question mark": ("rtsp://u:p#s?s@cam/x", ("rtsp://cam/x", "u", "p#s?s")),
    "raw digits and slash": ("rtsp://u:12/34@cam/x", ("rtsp://cam/x", "u", "12/34")),
    "raw per cent": ("rtsp://u:100%@cam", ("rtsp://cam", "u", "100%")),
    "valid by the RFC, at sign in the path": ("rtsp://u:p@cam/x@2", ("rtsp://cam/x@2", "u", "p")),
    "raw at sign and slash before an address": (
        "rtsp://u:p@s/w@10.0.0.1:554/x",
        ("rtsp://10.0.0.1:554/x", "u", "p@s/w"),
    ),
    "at sign in the path of an address": ("rtsp://10.0.0.1:554/x@2", ("rtsp://10.0.0.1:554/x@2", None, None)),
    "IPv6": ("rtsp://u:p@[fe80::1]:554/x", ("rtsp://[fe80::1]:554/x", "u", "p")),
}


@pytest.mark.parametrize(("url", "expected"), SPLITS.values(), ids=SPLITS.keys())
def test_split_credentials_follows_the_documented_rules(url: str, expected: tuple[str, str | None, str | None]) -> None:
    """Each rule of the module's docstring, one URL each."""
    assert split_credentials(url) == expected


@given(user=st.text(min_size=1), password=st.text())
def test_with_credentials_round_trips_through_urllib_and_ours(user: str, password: str) -> None:
    """Any user and password come back exactly, and the URL stays one that urllib reads the same way."""
    url = with_credentials("rtsp://old:word@cam:554/x", user, password)
    assert split_credentials(url) == ("rtsp://cam:554/x", user, password)
    assert urlsplit(url).hostname == "cam"
    assert normalise_url(url) == url


@given(st.text("@:/%#?&= '\"abc09", min_size=1).filter(lambda raw: not raw.startswith("@")))
def test_normalise_url_makes_raw_passwords_unambiguous(raw: str) -> None:
    """A normalised URL has exactly one @ before its path and is left alone the second time."""
    once = normalise_url(f"rtsp://admin:{raw}@camera/stream")
    assert normalise_url(once) == once
    if "@" not in raw or not any(mark in raw for mark in "/?#"):
        assert urlsplit(once).hostname == "camera"
        assert urlsplit(once).username == "admin"


def test_normalise_url_keeps_percent_escapes() -> None:
    """A valid escape is taken as one, because the text cannot say otherwise; a lone per cent sign is encoded."""
    assert normalise_url("rtsp://u:%41%zz@cam/x%20y") == "rtsp://u:%41%25zz@cam/x%20y"


def test_with_credentials_refuses_what_is_no_url() -> None:
    """Credentials cannot be put into a file name."""
    with pytest.raises(ValueError, match="scheme://host"):
        with_credentials("/videos/a.mp4", "u", "p")
