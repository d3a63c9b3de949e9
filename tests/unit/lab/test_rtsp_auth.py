"""Basic and Digest checks accept what the RFCs' examples show and refuse everything else."""

from __future__ import annotations

import base64
import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sentinel_pipeline.lab.rtsp_auth import Access, BasicAuth, DigestAuth, digest_parameters
from sentinel_pipeline.lab.rtsp_messages import Request

AWKWARD = "p@ss:w/rd%41#ü?"


def request(authorization: str, *, method: str = "DESCRIBE", url: str = "rtsp://h/cam") -> Request:
    """Return a request with that Authorization header."""
    return Request((("Authorization", authorization),), method=method, url=url)


def basic(user: str, password: str) -> str:
    """Return what a client sends for Basic."""
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


def digest(user: str, password: str, nonce: str, *, realm: str = "sentinel lab", url: str = "rtsp://h/cam") -> str:
    """Return what a client sends for Digest in the form of RFC 2069."""
    parts = (f"{user}:{realm}:{password}", f"DESCRIBE:{url}")
    secret, what = (hashlib.md5(part.encode(), usedforsecurity=False).hexdigest() for part in parts)
    response = hashlib.md5(f"{secret}:{nonce}:{what}".encode(), usedforsecurity=False).hexdigest()
    quoted = user.replace("\\", "\\\\").replace('"', '\\"')
    return f'Digest username="{quoted}", realm="{realm}", nonce="{nonce}", uri="{url}", response="{response}"'


RFC_7616 = (
    'Digest username="Mufasa", realm="http-auth@example.org", uri="/dir/index.html", algorithm={algorithm}, '
    'nonce="7ypf/xlj9XXwfDPEoM4URrv/xwf94BcCAzFZH4GiTo0v", nc=00000001, '
    'cnonce="f2/wE4q74E6zIJEtWaHKaf5wv/H5QzzpXusqGemxURZJ", qop=auth, response="{response}", '
    'opaque="FQhe/qaU925kfnzjCev0ciny7QMkPqMAFRtzCUYo5tdS"'
)


@pytest.mark.parametrize(
    ("algorithm", "response"),
    [
        ("MD5", "8ca523f5e9506fed4657c9700eebdbec"),
        ("SHA-256", "753927fa0e85d155564e2e272a28d1802ca10daf4496794697cf8db5856cb6c1"),
    ],
)
def test_digest_accepts_the_examples_of_rfc_7616(algorithm: str, response: str) -> None:
    """The worked example of section 3.9.1 is accepted for both hashes, and not with another digit in it."""
    auth = DigestAuth({"Mufasa": "Circle of Life"}, realm="http-auth@example.org")
    nonce = "7ypf/xlj9XXwfDPEoM4URrv/xwf94BcCAzFZH4GiTo0v"
    good = RFC_7616.format(algorithm=algorithm, response=response)
    assert auth.accepts(request(good, method="GET", url="/dir/index.html"), nonce)
    bad = RFC_7616.format(algorithm=algorithm, response="0" + response[1:])
    assert not auth.accepts(request(bad, method="GET", url="/dir/index.html"), nonce)


def test_digest_accepts_the_corrected_example_of_rfc_2069() -> None:
    """The form without qop, which cameras speak, gives the value in the RFC's erratum 749."""
    auth = DigestAuth({"Mufasa": "CircleOfLife"}, realm="testrealm@host.com")
    header = (
        'Digest username="Mufasa", realm="testrealm@host.com", nonce="dcd98b7102dd2f0e8b11d0f600bfb0c093", '
        'uri="/dir/index.html", response="1949323746fe6a43ef61f9606e7febea"'
    )
    sent = request(header, method="GET", url="/dir/index.html")
    assert auth.accepts(sent, "dcd98b7102dd2f0e8b11d0f600bfb0c093")


@pytest.mark.parametrize(
    "header",
    [
        pytest.param(digest("me", "wrong", "n1"), id="password"),
        pytest.param(digest("you", AWKWARD, "n1"), id="user"),
        pytest.param(digest("me", AWKWARD, "n0"), id="nonce-of-another"),
        pytest.param(digest("me", AWKWARD, "n1", realm="elsewhere"), id="realm"),
        pytest.param(digest("me", AWKWARD, "n1", url="rtsp://h/other"), id="url-of-another-request"),
        pytest.param(digest("me", AWKWARD, "n1") + ", algorithm=SHA-512", id="unknown-hash"),
        pytest.param(basic("me", AWKWARD), id="basic-instead"),
        pytest.param("", id="nothing"),
    ],
)
def test_digest_refuses_whatever_does_not_fit(header: str) -> None:
    """A digest is bound to user, password, nonce, realm and URL."""
    assert not DigestAuth({"me": AWKWARD}).accepts(request(header), "n1")


@given(st.text(st.characters(exclude_categories=["C"]), min_size=1, max_size=20), st.text(max_size=20))
def test_digest_works_with_any_user_and_password(user: str, password: str) -> None:
    """Quotes, backslashes, colons and any alphabet in user or password change nothing."""
    assert DigestAuth({user: password}).accepts(request(digest(user, password, "n1")), "n1")


@given(st.text(st.characters(exclude_characters=":", exclude_categories=["Cs"]), min_size=1), st.text())
def test_basic_works_with_any_user_and_password(user: str, password: str) -> None:
    """Only the first colon separates; the password may be anything."""
    assert BasicAuth({user: password}).accepts(request(basic(user, password)), "")


@pytest.mark.parametrize(
    "header",
    ["Basic", "Basic !", "Basic " + base64.b64encode(b"\xff\xfe:x").decode(), basic("me", "no"), "Bearer x", ""],
)
def test_basic_refuses_wrong_and_malformed_headers(header: str) -> None:
    """Whatever is no Base64 of a known user and its password is refused, not raised."""
    assert not BasicAuth({"me": AWKWARD}).accepts(request(header), "")


@given(st.text(max_size=100))
def test_any_authorization_is_refused_without_an_error(text: str) -> None:
    """No header value raises."""
    assert not DigestAuth({"me": "x"}).accepts(request(f"Digest {text}"), "n1")


def test_parameters_are_unquoted() -> None:
    """Quoted values may contain commas and escaped quotes."""
    assert digest_parameters('a="x, \\"y\\"", B=c') == {"a": 'x, "y"', "b": "c"}


@pytest.mark.parametrize(
    ("guard", "publisher", "player"), [("both", False, False), ("players", True, False), ("publishers", False, True)]
)
def test_guard_chooses_who_needs_credentials(guard: str, publisher: bool, player: bool) -> None:
    """A guard holds back one role, the other, or both."""
    access = Access("basic", {"me": "x"}, guard)
    assert access.allows(request(""), "", publishing=True) is publisher
    assert access.allows(request(""), "", publishing=False) is player
    assert access.allows(request(basic("me", "x")), "", publishing=True)


def test_without_credentials_everybody_may_do_everything() -> None:
    """None is an open relay; an empty mapping is one that nobody gets into."""
    assert Access("digest", None, "both").allows(request(""), "", publishing=True)
    assert not Access("digest", {}, "both").allows(request(""), "", publishing=True)


@pytest.mark.parametrize(("auth", "guard"), [("ntlm", "both"), ("basic", "nobody")])
def test_unknown_schemes_and_guards_are_refused(auth: str, guard: str) -> None:
    """A typing mistake does not open the relay."""
    with pytest.raises(ValueError, match="auth must be one of"):
        Access(auth, {}, guard)
