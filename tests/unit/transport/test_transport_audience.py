"""What media servers answer to the question who watches."""

from __future__ import annotations

import json

import pytest

from sentinel_pipeline.application.ports import Audience
from sentinel_pipeline.domain.errors import ConfigError
from sentinel_pipeline.infrastructure.transport.audience import AudienceWatch, _together, count_readers

MEDIAMTX = {
    "name": "gate", "confName": "all_others", "source": {"type": "rtspSession", "id": "a"}, "ready": True,
    "tracks": ["H264"], "bytesReceived": 1, "bytesSent": 0,
}  # fmt: skip


@pytest.mark.parametrize(
    ("answer", "readers"),
    [
        (MEDIAMTX | {"readers": []}, 0),
        (MEDIAMTX | {"readers": [{"type": "rtspSession", "id": "b"}, {"type": "hlsMuxer", "id": ""}]}, 2),
        ({"readers": 0}, 0),
        ({"readers": 3}, 3),
        (0, 0),
        (7, 7),
        (2.0, 2),
    ],
)
def test_transport_audience_reads_what_servers_say(answer: object, readers: int) -> None:
    """A path document of MediaMTX, a number of readers, or just a number."""
    assert count_readers(json.dumps(answer).encode()) == readers


@pytest.mark.parametrize(
    "answer",
    [b"", b"<html>", b"null", b"true", b'"2"', b"[]", b"{}", b'{"readers": null}', b'{"readers": "2"}', b"-1", b"1e999",
     b"NaN", b"\xff\xfe", b'{"readers": true}'],
)  # fmt: skip
def test_transport_audience_takes_nothing_else_for_an_answer(answer: bytes) -> None:
    """What is no count is an error: it must not be taken for "nobody watches"."""
    with pytest.raises(ValueError):  # noqa: PT011 - json's errors and ours: all that matters is that it is none
        count_readers(answer)


@pytest.mark.parametrize(
    ("audiences", "together"),
    [
        ([Audience(watched=False)], Audience(watched=False)),
        ([Audience(watched=False), Audience(watched=True)], Audience(watched=True)),
        ([Audience(watched=False), Audience(reason="down")], Audience(reason="down")),
    ],
)
def test_transport_audience_of_several_servers(audiences: list[Audience], together: Audience) -> None:
    """One watcher anywhere is enough, and so is one server of which nothing is known."""
    assert _together(audiences) == together


def test_transport_audience_refuses_what_cannot_be_asked() -> None:
    """A URL that is none is an error when it is followed, before anything runs; its password is not in it."""
    with AudienceWatch() as watch, pytest.raises(ConfigError) as caught:
        watch.follow(["ftp://user:s3cret@h/"])
    assert "s3cret" not in str(caught.value)
