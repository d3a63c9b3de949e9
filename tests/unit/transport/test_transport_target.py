"""Where a sink is, and the credentials that its URL carries."""

from __future__ import annotations

import base64

import pytest

from sentinel_pipeline.domain.errors import ConfigError
from sentinel_pipeline.infrastructure.transport.http_client import HttpEventClient
from sentinel_pipeline.infrastructure.transport.target import Mask, parse_target, request_headers
from sentinel_pipeline.infrastructure.transport.ws_client import WebSocketEventClient

HTTP = ("http", "https")


@pytest.mark.parametrize(
    ("url", "endpoint", "expected"),
    [
        ("http://vms", None, "http://vms/events"),
        ("http://vms/", None, "http://vms/events"),
        ("http://vms:8080/api/in", None, "http://vms:8080/api/in"),
        ("http://vms/api", "/events", "http://vms/api/events"),
        ("http://vms/api/", "events", "http://vms/api/events"),
        ("http://vms", "", "http://vms/"),
        ("http://vms/in?site=4", "", "http://vms/in?site=4"),
        ("http://vms?site=4#top", None, "http://vms/events?site=4"),
        ("https://[::1]:9/x", "", "https://[::1]:9/x"),
    ],
)
def test_url_and_endpoint_are_joined(url: str, endpoint: str | None, expected: str) -> None:
    """A full URL is taken as it is, a bare host gets ``/events``, an endpoint is appended to the path."""
    assert parse_target(url, HTTP, endpoint).url == expected


@pytest.mark.parametrize(
    ("url", "host", "secure"),
    [
        ("http://vms/x", "vms:80", False),
        ("https://vms/x", "vms:443", True),
        ("https://[::1]:9/x", "[::1]:9", True),
        ("http://u:p@vms:1/", "vms:1", False),
    ],
)
def test_host_is_named_with_its_port(url: str, host: str, secure: bool) -> None:
    """Messages name host and port, whatever the URL left out."""
    target = parse_target(url, HTTP)
    assert (target.host, target.secure) == (host, secure)


@pytest.mark.parametrize(
    ("user_info", "pair"),
    [("bob:s3cret", "bob:s3cret"), ("bob", "bob:"), ("b%40b:p%3A%2Fw", "b@b:p:/w"), ("bob:p@ss", "bob:p@ss")],
)
def test_user_information_becomes_basic_authentication(user_info: str, pair: str) -> None:
    """User and password leave the URL, decoded, for the Authorization header, and are in no repr."""
    target = parse_target(f"http://{user_info}@vms/in", HTTP)
    assert target.url == "http://vms/in"
    assert request_headers(target, None)["Authorization"] == "Basic " + base64.b64encode(pair.encode()).decode()
    assert "s3cret" not in repr(target)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "vms",
        "ftp://bob:s3cret@vms/",
        "http://",
        "http://bob:s3cret@/x",
        "http://bob:s3cret@vms:99999/x",
        "http://bob:s3cret@vms:x/",
        "http://bob:s3cret@[::1/x",
        "http://bob:s3cret@vms/a b",
        "http://bob:s3cret@vms/\n",
        f"http://bob:s3cret@{'a' * 70}.example/",
        "http://bob:s3cret@a..b/",
    ],
)
def test_unusable_url_is_refused_without_its_password(url: str) -> None:
    """A URL that cannot work is refused when the sink is built, with a remedy and without the password."""
    with pytest.raises(ConfigError) as caught:
        parse_target(url, HTTP)
    assert caught.value.remedy
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize("proxy", ["", "vms:3128", "socks5://bob:s3cret@vms", "http://bob:s3cret@vms:x"])
def test_unusable_proxy_is_refused_without_its_password(proxy: str) -> None:
    """The proxy is checked when the sink is built, for both kinds of sink."""
    for build in (
        lambda: HttpEventClient("http://vms", proxy=proxy),
        lambda: WebSocketEventClient("ws://vms", proxy=proxy),
    ):
        with pytest.raises(ConfigError) as caught:
            build()
        assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize("headers", [{"": "x"}, {"A b": "x"}, {"X": "a\nb"}, {"X": "ü"}, {"X": "a\x00"}])
def test_header_that_http_cannot_carry_is_refused(headers: dict[str, str]) -> None:
    """A bad header is found when the sink is built, and its value is not repeated."""
    with pytest.raises(ConfigError) as caught:
        HttpEventClient("http://vms", headers=headers)
    value = next(iter(headers.values()))
    assert value == "x" or value not in str(caught.value)


def test_two_credentials_are_refused() -> None:
    """A password in the URL and an Authorization header contradict each other."""
    with pytest.raises(ConfigError, match="two credentials"):
        HttpEventClient("http://bob:x@vms", headers={"authorization": "Bearer y"})


@pytest.mark.parametrize("host", ["999.1.1.1", "\N{SNOWMAN}.net", "xn--a-ecp.ru"])
def test_a_host_that_the_http_library_refuses_is_found_at_once(host: str) -> None:
    """What would fail at each request, in words that no transport error has, is a configuration error."""
    with pytest.raises(ConfigError, match="cannot be used") as caught:
        parse_target(f"http://u:s3cret-pw@{host}/x", HTTP)
    assert "s3cret-pw" not in str(caught.value)


def test_mask_hides_what_we_send_as_credentials_and_nothing_else() -> None:
    """Header values, their words, both halves of Basic authentication and query values; short values stay."""
    target = parse_target("http://user:p%40ss-word@vms/x?sig=sig-value-1&channel=4", HTTP)
    mask = Mask(target, {"X-Api-Key": "key-value-2", "Authorization": "Bearer bearer-value-3"})
    said = "p@ss-word, sig-value-1, key-value-2 and bearer-value-3 were sent to channel 4"
    assert mask(said) == "****, ****, **** and **** were sent to channel 4"
    assert Mask(parse_target("http://vms/x", HTTP), {})(said) == said
