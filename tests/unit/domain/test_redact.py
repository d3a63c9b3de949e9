"""Redaction: nothing that looks like a credential leaves, everything else stays readable."""

from __future__ import annotations

import time
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sentinel_pipeline.domain.redact import redact

CASES = {
    "the document's example": (
        "rtsp://admin:password123@192.168.1.100:554/stream1",
        "rtsp://admin:****@192.168.1.100:554/stream1",
    ),
    "user only": ("rtsp://admin@10.0.0.5/x", "rtsp://admin@10.0.0.5/x"),
    "no user": ("rtsp://:hunter2@cam/x", "rtsp://:****@cam/x"),
    "no credentials": ("rtsp://10.0.0.5:554/stream1", "rtsp://10.0.0.5:554/stream1"),
    "percent-encoded": ("rtsp://u:p%40ss%3Aw@cam/x", "rtsp://u:****@cam/x"),
    "at sign in the password": ("rtsp://u:p@ss@cam/x", "rtsp://u:****@cam/x"),
    "colon in the password": ("rtsp://u:p:ss@cam/x", "rtsp://u:****@cam/x"),
    "slash in the password": ("rtsp://u:p/ss@cam/x", "rtsp://u:****@cam/x"),
    "slash and at sign in the password": ("rtsp://u:p@s/s@cam/x", "rtsp://u:****@cam/x"),
    "question mark and hash in the password": ("rtsp://u:p?s#s@cam/x", "rtsp://u:****@cam/x"),
    "digits and a slash in the password": ("rtsp://admin:12/34@cam/x", "rtsp://admin:****@cam/x"),
    "scheme in the password": ("rtsp://u:x://y@cam", "rtsp://u:****@cam"),
    "IPv6 host": ("rtsp://u:p@[fe80::1]:554/x", "rtsp://u:****@[fe80::1]:554/x"),
    "at sign in the path of an address": ("http://10.0.0.1:80/a@b", "http://10.0.0.1:80/a@b"),
    "address, then an at sign": ("rtsp://u:p@10.0.0.1:554/a@b", "rtsp://u:****@10.0.0.1:554/a@b"),
    "two in a sentence": (
        "from rtsp://a:b@h1/x to rtmp://c:d@h2/y, failed",
        "from rtsp://a:****@h1/x to rtmp://c:****@h2/y, failed",
    ),
    "two in compact JSON": ('["rtsp://a:b@h1","rtsp://c:d@h2/x"]', '["rtsp://a:****@h1","rtsp://c:****@h2/x"]'),
    "two with a comma": ("rtsp://a:b@h1,rtsp://c:d@h2", "rtsp://a:****@h1,rtsp://c:****@h2"),
    "JSON goes on behind the URL": (
        '{"url":"rtsp://u:p@h/x","mail":"a@b.c"}',
        '{"url":"rtsp://u:****@h/x","mail":"a@b.c"}',
    ),
    "PyAV's message": (
        "[Errno 111] Connection refused: 'rtsp://u:pw@127.0.0.1:1/x'",
        "[Errno 111] Connection refused: 'rtsp://u:****@127.0.0.1:1/x'",
    ),
    "nested in a query": ("http://h/?u=rtsp://admin:pw@cam/1", "http://h/?u=rtsp://admin:****@cam/1"),
    "nested and encoded": ("http://h/?u=rtsp%3A%2F%2Fadmin%3Apw%40cam&x=1", "http://h/?u=rtsp%3A%2F%2Fadmin%3A****%40cam&x=1"),
    "query tokens": (
        "http://h/x?password=a,b&token=t&key=k&auth_sig=s&channel=1",
        "http://h/x?password=****&token=****&key=****&auth_sig=****&channel=1",
    ),
    "a colon behind a query": ("http://h/x?token=t: refused", "http://h/x?token=****: refused"),
    "query in quotes": ("open 'http://h/x?pwd=a': no", "open 'http://h/x?pwd=****': no"),
    "bearer header": ("Authorization: Bearer abc.def", "Authorization: Bearer ****"),
    "basic header": ("Authorization: Basic dTpw\r\nCSeq: 2", "Authorization: Basic ****\r\nCSeq: 2"),
    "digest header": (
        'authorization: Digest username="u", realm="r", response="x"\r\nCSeq: 2',
        "authorization: Digest ****\r\nCSeq: 2",
    ),
    "header without a scheme": ("Authorization: s3cret and more", "Authorization: ****"),
    "header in a dict": (
        "{'Authorization': 'Basic dTpw', 'Accept': '*/*'}",
        "{'Authorization': 'Basic ****', 'Accept': '*/*'}",
    ),
    "headers as byte pairs": ("[(b'authorization', b'Bearer xyz')]", "[(b'authorization', b'Bearer ****')]"),
    "API key header": ("{'X-API-Key': 'abc'}", "{'X-API-Key': '****'}"),
    "cookie": ("Cookie: session=abc; other=1", "Cookie: ****"),
    "header on a command line": ("curl -H 'Authorization: Bearer abc' http://x/", "curl -H 'Authorization: Bearer ****' http://x/"),
    "JSON": ('{"password":"a\\"b","x":1}', '{"password":"****","x":1}'),
    "JSON with spaces": ('{"api_key": "abc", "x": 1}', '{"api_key": "****", "x": 1}'),
    "JSON in JSON": ('{\\"secret\\":\\"abc\\",\\"x\\":1}', '{\\"secret\\":\\"****\\",\\"x\\":1}'),
    "repr of a dict": ("{'password': \"a'b\", 'x': 1}", "{'password': \"****\", 'x': 1}"),
    "keyword arguments": ("Spec(user='u', password='p', port=1)", "Spec(user='u', password='****', port=1)"),
    "YAML": ("password: hunter2\nuser: u", "password: ****\nuser: u"),
    "bearer without a header": ("sent Bearer eyJhbGciOi.J9.x", "sent Bearer ****"),
}  # fmt: skip


@pytest.mark.parametrize(("text", "expected"), CASES.values(), ids=CASES.keys())
def test_redact_masks_credentials_and_nothing_else(text: str, expected: str) -> None:
    """Each kind of credential is masked and the text around it is untouched, also the second time."""
    assert redact(text) == expected
    assert redact(expected) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "401 Unauthorized: wrong user name or password",
        "invalid token: line 3",
        "Basic authentication failed",
        "mail a@b.c and c@d.e: nothing",
        "keyframe=12 key=4 fps=25",
        "model cuda:0 loaded at 12:30:01",
        "://@", "a://", "http://", "=@:", "\x00\n\t", "Ünï😀://ö:ü",
    ],
)  # fmt: skip
def test_redact_leaves_harmless_text_alone(text: str) -> None:
    """What holds no credential stays as it is, whatever it looks like; the last one is left because it has no @."""
    assert redact(text) == text


NASTY = "@:/%#?&=+!$*,;|~^[]{}()._-aZ9é\\`"
passwords = st.builds(
    lambda a, b: f"{a}S3cr3tCore{b}", st.text(NASTY, max_size=8), st.text(NASTY + "\"'<>", max_size=8)
)
SENTENCES = (
    "cannot open rtsp://admin:{}@camera.example:554/stream1 now",
    "rtsp://admin:{}@10.0.0.5/Streaming/Channels/101?transportmode=unicast",
    "two: rtsp://other:word@h1/x and rtsp://admin:{}@[::1]:8554/x; a@b",
    "url=rtsp://admin:{}@cam\nnext line",
)


@pytest.mark.parametrize("sentence", SENTENCES)
@given(password=passwords)
def test_redact_never_leaks_a_password_from_a_url(sentence: str, password: str) -> None:
    """Whatever characters stand before and after it in a raw or quoted password, its core never comes out."""
    for written in (password, quote(password, safe="")):
        once = redact(sentence.format(written))
        assert "S3cr3tCore" not in once
        assert redact(once) == once


@given(password=st.text("@:/%#?&=+!$*,;|~^._-aZ9", min_size=0, max_size=8).map(lambda tail: "S3cr3tCore" + tail))
def test_redact_never_leaks_a_password_from_a_quoted_url(password: str) -> None:
    """A URL in quotes, as exceptions and JSON print it, does not leak its password, and what follows is kept."""
    text = f"[Errno 5] Input/output error: 'rtsp://u:{password}@cam.example/x' and \"rtsp://u:{password}@cam/y\""
    assert "S3cr3tCore" not in redact(text)
    assert redact(text).startswith("[Errno 5] Input/output error: 'rtsp://u:****@")


@given(value=st.text(st.characters(blacklist_categories=("Cs",)), max_size=20).map(lambda tail: "S3cr3tCore" + tail))
def test_redact_never_leaks_a_value_from_json_or_a_repr(value: str) -> None:
    """Any value of a telling key, escaped as JSON and Python escape it, is masked."""
    import json

    headers = {"Authorization": f"Bearer {value}", "password": value, "ok": 1}
    for text in (json.dumps(headers), repr(headers), json.dumps({"body": json.dumps(headers)})):
        assert "S3cr3tCore" not in redact(text)


@given(st.text(max_size=200) | st.text("@:/=&?\"'\\ ,pwasordtkeniu://%40", max_size=60))
def test_redact_is_idempotent_and_never_raises(text: str) -> None:
    """Text that went through once comes out the same the second time, whatever it was."""
    once = redact(text)
    assert redact(once) == once


@pytest.mark.parametrize(
    "unit",
    ["a", "://", "://a/", "rtsp://a:b,", "@", "'x://", '"', "password=", "key",
      "%3A%2F%2F", "%3A", "Bearer ", "\\\"a", "a:", "rtsp://[", "&a", "Authorization: "],
)  # fmt: skip
def test_redact_takes_linear_time(unit: str) -> None:
    """A hundred thousand characters of anything take well under a second of CPU: no pattern backtracks badly."""
    text = unit * (100_000 // len(unit))
    for hostile in (text, text + "@h", "rtsp://" + text, text + "@" + text):
        started = time.thread_time()
        redact(hostile)
        assert time.thread_time() - started < 1.5
