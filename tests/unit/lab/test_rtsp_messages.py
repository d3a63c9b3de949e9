"""RTSP messages survive any splitting, and garbage raises one error only."""

from __future__ import annotations

import contextlib
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sentinel_pipeline.lab.rtsp_messages import (
    MAX_BODY_BYTES,
    MAX_HEAD_BYTES,
    Interleaved,
    MessageReader,
    Request,
    Response,
    RtspSyntaxError,
)

OPTIONS = b"OPTIONS rtsp://h/cam RTSP/1.0\r\nCSeq: 1\r\n\r\n"

tokens = st.text("ABCDEFGHIJKLMNOPQRSTUVWXYZ_", min_size=1, max_size=12)
values = st.text(st.characters(min_codepoint=33, max_codepoint=0x2FF, exclude_categories=["C", "Z"]), max_size=30)
headers = st.lists(st.tuples(tokens.map(lambda name: f"X-{name}"), values), max_size=4).map(tuple)
bodies = st.binary(max_size=60)
requests = st.builds(Request, headers, bodies, method=tokens, url=values.filter(bool), version=st.just("1.0"))
responses = st.builds(Response, headers, bodies, status=st.integers(100, 999), reason=values.filter(bool))
packets = st.builds(
    Interleaved, st.integers(0, 255), st.binary(max_size=80).map(lambda data: len(data).to_bytes(2, "big") + data)
)


def read(*chunks: bytes) -> list[Request | Response | Interleaved]:
    """Feed chunks to a fresh reader and return everything that comes out."""
    reader = MessageReader()
    return [event for chunk in chunks for event in reader.feed(chunk)]


def without_length(event: Request | Response | Interleaved) -> object:
    """Return the event without the header that sending adds."""
    if isinstance(event, Interleaved):
        return event
    kept = tuple(pair for pair in event.headers if pair[0] != "Content-Length")
    return (
        type(event),
        kept,
        event.body,
        *((event.method, event.url) if isinstance(event, Request) else (event.status,)),
    )


def encoded(event: Request | Response | Interleaved) -> bytes:
    """Return the event as it is sent."""
    return bytes((0x24, event.channel)) + event.sized if isinstance(event, Interleaved) else event.encode()


@given(st.lists(st.one_of(requests, responses, packets), max_size=5), st.lists(st.integers(0, 600), max_size=8))
def test_messages_round_trip_however_they_are_split(
    sent: list[Request | Response | Interleaved], cuts: list[int]
) -> None:
    """Whatever is encoded comes back unchanged and in order, wherever the stream is cut into chunks."""
    stream = b"".join(map(encoded, sent))
    edges = [0, *sorted(min(cut, len(stream)) for cut in cuts), len(stream)]
    received = read(*(stream[start:end] for start, end in pairwise(edges)))
    assert [without_length(event) for event in received] == [without_length(event) for event in sent]


@given(st.lists(st.binary(max_size=200), max_size=6))
def test_garbage_raises_nothing_but_a_syntax_error(chunks: list[bytes]) -> None:
    """Random bytes either wait for more, or are understood, or raise the one listed error."""
    with contextlib.suppress(RtspSyntaxError):
        read(*chunks)


@given(st.data())
def test_damaged_messages_raise_nothing_but_a_syntax_error(data: st.DataObject) -> None:
    """A real message with some bytes replaced never raises an unlisted error."""
    message = bytearray(data.draw(st.one_of(requests, responses)).encode())
    for position, value in data.draw(
        st.lists(st.tuples(st.integers(0, len(message) - 1), st.integers(0, 255)), max_size=4)
    ):
        message[position] = value
    with contextlib.suppress(RtspSyntaxError):
        read(bytes(message), OPTIONS)


@pytest.mark.parametrize(
    ("stream", "status"),
    [
        pytest.param(b"\x16\x03\x01\x02\x00", 400, id="tls-client-hello"),
        pytest.param(b"OPTIONS\r\n\r\n", 400, id="no-url"),
        pytest.param(b"OPT(IONS rtsp://h/ RTSP/1.0\r\n\r\n", 400, id="method-is-no-token"),
        pytest.param(b"OPTIONS rtsp://h/ HTTP/1.1\r\n\r\n", 400, id="http"),
        pytest.param(b"OPTIONS rtsp://h/ RTSP/1.0\r\nCSeq\r\n\r\n", 400, id="header-without-colon"),
        pytest.param(b"OPTIONS rtsp://h/ RTSP/1.0\r\n: 1\r\n\r\n", 400, id="header-without-name"),
        pytest.param(b"OPTIONS rtsp://h/\xff RTSP/1.0\r\n\r\n", 400, id="not-utf-8"),
        pytest.param(b"SETUP rtsp://h/ RTSP/1.0\r\nContent-Length: -1\r\n\r\n", 400, id="negative-length"),
        pytest.param(b"SETUP rtsp://h/ RTSP/1.0\r\nContent-Length: \xc2\xb2\r\n\r\n", 400, id="superscript-length"),
        pytest.param(
            b"SETUP rtsp://h/ RTSP/1.0\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", 400, id="two-lengths"
        ),
        pytest.param(
            b"A rtsp://h/ RTSP/1.0\r\nContent-Length: %d\r\n\r\n" % (MAX_BODY_BYTES + 1), 413, id="body-too-long"
        ),
        pytest.param(b"OPTIONS " + b"x" * MAX_HEAD_BYTES, 413, id="head-too-long"),
    ],
)
def test_what_is_no_rtsp_is_refused_at_once(stream: bytes, status: int) -> None:
    """Each way of breaking the syntax is named with the status to answer, without waiting for more bytes."""
    with pytest.raises(RtspSyntaxError) as caught:
        read(stream)
    assert caught.value.status == status


def test_a_head_just_within_the_limit_is_read_in_any_split() -> None:
    """The limit is on the head alone: it does not depend on how many bytes have arrived."""
    line = b"OPTIONS rtsp://h/ RTSP/1.0\r\nX: "
    stream = line + b"y" * (MAX_HEAD_BYTES - len(line) - 4) + b"\r\n\r\n"
    assert len(read(stream[:-1], stream[-1:] + OPTIONS)) == 2
    with pytest.raises(RtspSyntaxError):
        read(line + b"yy" + stream[len(line) :])


def test_bare_line_feeds_and_folded_headers_are_understood() -> None:
    """RFC 2326 section 4 tolerates LF alone, and old senders fold long headers."""
    (request,) = read(b"\r\n\nSETUP rtsp://h/ RTSP/1.0\nCSeq : 7\nTransport: RTP/AVP;\n unicast\n\n")
    assert isinstance(request, Request)
    assert (request.header("cseq"), request.header("TRANSPORT")) == ("7", "RTP/AVP; unicast")


def test_repeated_headers_are_joined() -> None:
    """RFC 2326 section 4.2: the same header twice means a list."""
    assert Request((("Accept", "a"), ("accept", "b")), method="DESCRIBE", url="*").header("Accept") == "a, b"


def test_messages_before_a_broken_one_are_delivered() -> None:
    """A syntax error does not swallow what came before it in the same chunk."""
    reader = MessageReader()
    events = reader.feed(OPTIONS + b"\x00")
    assert isinstance(next(events), Request)
    with pytest.raises(RtspSyntaxError):
        next(events)


def test_an_empty_packet_is_a_packet() -> None:
    """Length zero is legal in RFC 2326 section 10.12 and must not stop the reader."""
    assert read(b"$\x05\x00\x00" + OPTIONS)[0] == Interleaved(5, b"\x00\x00")
