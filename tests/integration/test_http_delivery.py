"""Events over HTTP, against a real server that fails on command; each test from threads and from asyncio."""

from __future__ import annotations

import asyncio
import gzip
import itertools
import json
import socket
import threading
import time
from collections.abc import Callable, Sequence
from email.utils import formatdate
from typing import Any

import pytest
import structlog

from sentinel_pipeline.application.ports import Batch
from sentinel_pipeline.domain.errors import (
    DeliveryError,
    PayloadTooLarge,
    Rejected,
    SinkGone,
    TransportError,
    Unauthorised,
)
from sentinel_pipeline.domain.events import Event, EventStage
from sentinel_pipeline.infrastructure.transport.http_client import HttpEventClient, HttpTransport
from sentinel_pipeline.infrastructure.transport.http_sink import HttpSink
from support.receivers import FaultyHttpServer, Reply

BASE = 0.02  # seconds before the second attempt, here
EVENTS = [Event("INTRUSION", EventStage.DETECTED, "gate", "rule", 1_732_406_400.0 + i) for i in range(3)]
BODIES = [event.encode() for event in EVENTS]
IDS = [event.event_id for event in EVENTS]

BOMB = gzip.compress(bytes(50_000_000))

Post = Callable[..., None]


def _client(url: str, **options: Any) -> HttpEventClient:
    return HttpEventClient(url, "", **{"timeout": 2.0, "retry_base": BASE, **options})


def _from_a_thread(url: str, *, times: int = 1, key: str = "key-1", **options: Any) -> None:
    client = _client(url, **options)
    client.start()
    try:
        for _ in range(times):
            client.post(BODIES, key)
    finally:
        client.stop()


def _from_asyncio(url: str, *, times: int = 1, key: str = "key-1", **options: Any) -> None:
    async def work() -> None:
        client = _client(url, **options)
        await client.start_async()
        try:
            for _ in range(times):
                await client.post_async(BODIES, key)
        finally:
            await client.stop_async()

    asyncio.run(work())


@pytest.fixture(params=[_from_a_thread, _from_asyncio], ids=["sync", "async"])
def post(request: pytest.FixtureRequest) -> Post:
    """Deliver ``BODIES`` once or several times; the same for both faces of the client."""
    return request.param  # type: ignore[no-any-return]


def _gaps(server: FaultyHttpServer) -> list[float]:
    times = [request.at for request in server.requests]
    return [later - earlier for earlier, later in itertools.pairwise(times)]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_a_batch_is_one_post_of_a_json_array(post: Post) -> None:
    """Path, content type, key and events arrive as documented, and further headers with them."""
    with FaultyHttpServer() as server:
        post(server.url, headers={"X-Site": "4"})
        (request,) = server.requests
    assert request.path == "/events"
    assert request.headers["content-type"] == "application/json"
    assert (request.key, request.headers["x-site"]) == ("key-1", "4")
    assert [event["event_id"] for event in request.json] == IDS


def test_cloudevents_are_sent_when_asked_for(post: Post) -> None:
    """``format: cloudevents`` changes content type and envelope, and nothing inside it."""
    with FaultyHttpServer(then=Reply(stored=False)) as server:
        post(server.url, format="cloudevents")
        (request,) = server.requests
    assert request.headers["content-type"] == "application/cloudevents-batch+json"
    assert [envelope["data"] for envelope in request.json] == [json.loads(body) for body in BODIES]


@pytest.mark.parametrize(
    ("status", "kind", "attempts"),
    [
        *[(status, DeliveryError, 3) for status in (408, 425, 429, 500, 503, 302)],
        *[(413, PayloadTooLarge, 1), (401, Unauthorised, 1), (403, Unauthorised, 1), (410, SinkGone, 1)],
        *[(501, Rejected, 1), (400, Rejected, 1), (422, Rejected, 1)],
    ],
)
def test_every_class_of_answer(post: Post, status: int, kind: type[TransportError], attempts: int) -> None:
    """What may pass is tried three times under one key, everything else once; the body explains the error."""
    with FaultyHttpServer(then=Reply(status, body=b"because of this")) as server:
        with pytest.raises(TransportError, match="because of this") as caught:
            post(server.url)
        assert type(caught.value) is kind
        assert [request.key for request in server.requests] == ["key-1"] * attempts


def test_waits_grow_between_attempts(post: Post) -> None:
    """Two failures are ridden out inside one send: the second wait is twice the first, same key, same body."""
    with FaultyHttpServer(Reply(503), Reply(500)) as server:
        post(server.url, retry_base=0.1)
        assert len({(request.key, request.body) for request in server.requests}) == 1
        first, second = _gaps(server)
    assert 0.1 <= first < 0.2 + 0.5
    assert 0.2 <= second < 0.4 + 0.5


def test_short_retry_after_is_sat_out(post: Post) -> None:
    """No request goes out before the second that the server asked for."""
    with FaultyHttpServer(Reply(429, {"Retry-After": "1"})) as server:
        post(server.url)
        (gap,) = _gaps(server)
    assert 1.0 <= gap < 2.5


def test_retry_after_date_is_sat_out(post: Post) -> None:
    """The same with a date, which has whole seconds."""
    with FaultyHttpServer() as server:
        when = int(time.time()) + 2
        server.say(Reply(503, {"Retry-After": formatdate(when, usegmt=True)}))
        offset = time.time() - time.monotonic()
        post(server.url)
        _, second = server.requests
    assert second.at + offset >= when - 0.01
    assert second.at + offset < when + 2.5


@pytest.mark.parametrize("form", ["seconds", "date"])
def test_long_retry_after_goes_to_the_delivery_loop(post: Post, form: str) -> None:
    """One request, no waiting here: the caller is told how long to leave the server alone."""
    value = "60" if form == "seconds" else formatdate(time.time() + 60, usegmt=True)
    with FaultyHttpServer(then=Reply(503, {"Retry-After": value})) as server:
        began = time.monotonic()
        with pytest.raises(DeliveryError) as caught:
            post(server.url)
        assert len(server.requests) == 1
    assert time.monotonic() - began < 1.0
    assert caught.value.retry_after_s == pytest.approx(60, abs=10)


def test_stored_but_slow_keeps_the_key(post: Post) -> None:
    """The server stores, then answers too late: the copies come under the same key with the same ids."""
    with FaultyHttpServer(Reply(delay=1.0), Reply(delay=1.0)) as server:
        post(server.url, timeout=0.2)
        assert [request.key for request in server.requests] == ["key-1"] * 3
        assert len(server.stored) == 9
        assert {event["event_id"] for event in server.stored} == set(IDS)


def test_a_server_that_never_answers_in_time(post: Post) -> None:
    """Three attempts, then an error that says what happened."""
    with FaultyHttpServer(then=Reply(delay=1.0)) as server:
        with pytest.raises(DeliveryError, match=f"127.0.0.1:{server.port} did not answer in time"):
            post(server.url, timeout=0.1)
        server.wait_for(lambda s: len(s.requests) == 3)


@pytest.mark.parametrize(
    "fault",
    [
        Reply(body=b"x" * 100, cut=10),
        Reply(silent=True),
        Reply(raw=b"\x00garbage\xff\r\n\r\n"),
        Reply(raw=b"HTTP/1.1 2\r\n"),
    ],
    ids=["closes-in-mid-body", "closes-without-answer", "garbage", "half-an-answer"],
)
def test_broken_answers_are_tried_again(post: Post, fault: Reply) -> None:
    """A success that was not heard to its end does not count; the batch comes again under its key."""
    with FaultyHttpServer(fault) as server:
        post(server.url)
        assert [request.key for request in server.requests] == ["key-1"] * 2
    with FaultyHttpServer(then=fault) as server, pytest.raises(DeliveryError, match=f"127.0.0.1:{server.port}"):
        post(server.url)


def test_a_refusal_counts_although_its_body_is_cut(post: Post) -> None:
    """401 is 401 whether or not the explanation arrives."""
    with FaultyHttpServer(then=Reply(401, body=b"x" * 100, cut=10)) as server, pytest.raises(Unauthorised):
        post(server.url)


@pytest.mark.parametrize(("status", "kind"), [(200, DeliveryError), (403, Unauthorised)])
def test_a_body_that_drips_does_not_hold_us(post: Post, status: int, kind: type[TransportError]) -> None:
    """Each byte comes in time but all together take too long: the attempt still ends."""
    with FaultyHttpServer(then=Reply(status, body=b"x" * 200, drip=0.05)) as server:
        began = time.monotonic()
        with pytest.raises(TransportError) as caught:
            post(server.url, timeout=0.3, max_retries=1)
    assert type(caught.value) is kind
    assert time.monotonic() - began < 2.0


def test_headers_that_drip_do_not_hold_the_event_loops_client() -> None:
    """A header that never ends: every byte comes in time, and the attempt ends all the same."""
    endless = b"HTTP/1.1 200 OK\r\nX-Long: " + b"x" * 1000
    with FaultyHttpServer(then=Reply(raw=endless, drip=0.02)) as server:
        began = time.monotonic()
        with pytest.raises(DeliveryError, match=r"did not finish answering within 0\.6 s"):
            _from_asyncio(server.url, timeout=0.2, max_retries=1)
    assert time.monotonic() - began < 2.0


def test_a_huge_answer_is_not_read(post: Post) -> None:
    """The status is enough: of eight megabytes only the beginning is read, and the batch counts as delivered."""
    with FaultyHttpServer(then=Reply(body=b"x" * 8_000_000)) as server:
        post(server.url)
        assert len(server.stored) == 3


def test_a_falsely_compressed_answer_is_a_success(post: Post) -> None:
    """Answers are not unpacked, so a broken encoding cannot turn a delivery into a failure."""
    with FaultyHttpServer(then=Reply(headers={"Content-Encoding": "gzip"})) as server:
        post(server.url)
        assert len(server.requests) == 1


@pytest.mark.parametrize("status", [301, 307, 308])
def test_redirects_are_not_followed(post: Post, status: int) -> None:
    """Events and credentials go only where the configuration says; the error names the new place."""
    with FaultyHttpServer() as other, FaultyHttpServer(then=Reply(status, {"Location": other.url})) as server:
        with pytest.raises(DeliveryError, match=f"points to {other.url}"):
            post(server.url, max_retries=1)
        assert other.requests == []


def test_nobody_listens(post: Post) -> None:
    """Both faces of the client say the same: what, where, and what to do."""
    port = _free_port()
    with pytest.raises(DeliveryError, match=f"cannot connect to 127.0.0.1:{port}: Connection refused"):
        post(f"http://127.0.0.1:{port}/events")


def test_connections_are_used_again(post: Post) -> None:
    """Five batches take one connection."""
    with FaultyHttpServer() as server:
        post(server.url, times=5)
        assert (len(server.requests), server.connections) == (5, 1)


def test_a_connection_that_died_while_idle_costs_one_attempt(post: Post) -> None:
    """A server may close a kept connection at any moment; the next batch still arrives."""
    body = b"{}"
    with FaultyHttpServer(Reply(body=body, cut=len(body))) as server:
        post(server.url, times=2)
        assert len(server.stored) == 6


def test_url_credentials_become_basic_authentication_and_stay_secret(
    post: Post, caplog: pytest.LogCaptureFixture
) -> None:
    """User and password arrive as Basic authentication; neither logs at DEBUG nor the error show them."""
    caplog.set_level("INFO")
    with FaultyHttpServer(then=Reply(403)) as server:
        url = server.url.replace("//", "//bob:s3cret@") + "?token=t0ken"
        with structlog.testing.capture_logs() as entries, pytest.raises(Unauthorised) as caught:
            post(url)
        (request,) = server.requests
    assert request.headers["authorization"] == "Basic Ym9iOnMzY3JldA=="
    assert request.path == "/events?token=t0ken"
    for text in (str(caught.value), caplog.text, str(entries)):
        assert "s3cret" not in text
        assert "t0ken" not in text
        assert "Ym9iOnMzY3JldA==" not in text


def test_only_the_configured_proxy_is_used(post: Post, monkeypatch: pytest.MonkeyPatch) -> None:
    """Proxy variables of the environment are ignored; the ``proxy`` setting is obeyed."""
    monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{_free_port()}")
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{_free_port()}")
    with FaultyHttpServer() as server:
        post(server.url)
        post("http://vms.invalid/in", proxy=server.base_url)
        assert [request.path for request in server.requests] == ["/events", "http://vms.invalid/in"]


def test_stop_ends_a_waiting_retry_at_once() -> None:
    """Another thread stops the client in the middle of a long back-off: the send answers False immediately."""
    answers: list[bool] = []
    with FaultyHttpServer(then=Reply(503)) as server:
        client = _client(server.url, retry_base=30.0, retry_max=30.0)
        client.start()
        sender = threading.Thread(target=lambda: answers.append(client.send_events(EVENTS)))
        sender.start()
        server.wait_for(lambda s: s.requests)
        client.stop()
        sender.join(5.0)
        assert not sender.is_alive()
        assert (answers, len(server.requests)) == ([False], 1)


def test_stop_during_a_wait_makes_no_further_request(monkeypatch: pytest.MonkeyPatch) -> None:
    """The back-off is already being waited out when the client is stopped: nothing is sent any more."""
    waiting = threading.Event()
    with FaultyHttpServer(then=Reply(503)) as server:
        client = _client(server.url, retry_base=30.0, retry_max=30.0)
        wait = client._stopping.wait

        def noticed(timeout: float | None = None) -> bool:
            waiting.set()
            return wait(timeout)

        monkeypatch.setattr(client._stopping, "wait", noticed)
        client.start()
        sender = threading.Thread(target=client.send_events, args=(EVENTS,))
        sender.start()
        assert waiting.wait(5.0)
        client.stop()
        sender.join(5.0)
        assert not sender.is_alive()
        assert len(server.requests) == 1


def test_a_cancelled_send_leaves_nothing_behind() -> None:
    """Cancelling in mid-request ends at once; the client works on afterwards."""

    async def work(server: FaultyHttpServer) -> None:
        client = _client(server.url, timeout=30.0)
        await client.start_async()
        sending = asyncio.create_task(client.post_async(BODIES, "key-1"))
        await asyncio.to_thread(server.wait_for, lambda s: s.requests)
        sending.cancel()
        with pytest.raises(asyncio.CancelledError):
            await sending
        await client.post_async(BODIES, "key-2")
        await client.stop_async()

    with FaultyHttpServer(Reply(delay=20.0)) as server:
        began = time.monotonic()
        asyncio.run(work(server))
        assert [request.key for request in server.requests] == ["key-1", "key-2"]
    assert time.monotonic() - began < 5.0


def _send_from_a_thread(client: HttpEventClient, batches: Sequence[Sequence[Event]]) -> list[bool]:
    client.start()
    try:
        return [client.send_event(b[0]) if len(b) == 1 else client.send_events(b) for b in batches]
    finally:
        client.stop()


def _send_from_asyncio(client: HttpEventClient, batches: Sequence[Sequence[Event]]) -> list[bool]:
    async def work() -> list[bool]:
        await client.start_async()
        try:
            return [
                await client.send_event_async(b[0]) if len(b) == 1 else await client.send_events_async(b)
                for b in batches
            ]
        finally:
            await client.stop_async()

    return asyncio.run(work())


@pytest.mark.parametrize("send", [_send_from_a_thread, _send_from_asyncio], ids=["sync", "async"])
def test_the_documents_surface_answers_true_or_false(
    send: Callable[[HttpEventClient, Sequence[Sequence[Event]]], list[bool]],
) -> None:
    """True when the receiver has the events; failing and recovering is logged once each, however often it fails."""
    with FaultyHttpServer(Reply(400), Reply(403), Reply(400)) as server, structlog.testing.capture_logs() as logs:
        batches = [EVENTS, EVENTS, EVENTS, EVENTS, EVENTS[:1]]
        assert send(_client(server.url), batches) == [False, False, False, True, True]
        keys = [request.key for request in server.requests]
    assert len(set(keys[:4])) == 1, "the same events come under the same key"
    assert keys[4] != keys[0]
    assert [entry["event"] for entry in logs] == ["events cannot be delivered", "events are delivered again"]


def test_transport_is_a_context_manager_and_callable() -> None:
    """``HttpTransport`` as in the document: called with events, answers True, posts to ``/events`` of a base URL."""
    with FaultyHttpServer() as server, HttpTransport(base_url=server.base_url) as transport:
        assert transport(EVENTS) is True
        assert server.requests[0].path == "/events"
        assert server.stored[0]["event_id"] == IDS[0]


def test_sink_sends_a_batch_under_its_key() -> None:
    """The port's batch goes out with its own key to the exact URL; closing twice is fine."""

    async def work(server: FaultyHttpServer) -> None:
        sink = HttpSink(server.base_url + "/in?site=4")
        await sink.open()
        await sink.send(Batch("vms", "batch-7", 1, 3, tuple(BODIES)))
        await sink.close()
        await sink.close()

    with FaultyHttpServer() as server:
        asyncio.run(work(server))
        (request,) = server.requests
        assert (request.key, request.path) == ("batch-7", "/in?site=4")


ODD_BUT_GOOD = {
    "interim answers": b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n"
    b"HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n",
    "chunks without an end": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    + b"400\r\n"
    + b"x" * 1024
    + b"\r\n"
    + (b"400\r\n" + b"x" * 1024 + b"\r\n") * 200,
    "204 with a body": b"HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\nhello",
    "HTTP/1.0 without a length": b"HTTP/1.0 200 OK\r\n\r\nok",
    "a body that unpacks to 50 MB": b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n"
    % len(BOMB)
    + BOMB,
}
BROKEN = {
    "headers of megabytes": b"HTTP/1.1 200 OK\r\n" + (b"X-A: " + b"y" * 5000 + b"\r\n") * 400,
    "interim answers without an end": b"HTTP/1.1 102 Processing\r\n\r\n" * 2000,
    "two lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 5\r\n\r\nabcde",
    "another protocol": b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
    "HTTP/2": b"\x00\x00\x12\x04\x00\x00\x00\x00\x00",
}


@pytest.mark.parametrize("what", [*ODD_BUT_GOOD, *BROKEN])
def test_answers_that_are_odd_or_broken(post: Post, what: str) -> None:
    """A receiver that says yes in an odd way has the batch; one that says nothing sensible has it again later."""
    with FaultyHttpServer(then=Reply(raw=(ODD_BUT_GOOD | BROKEN)[what])) as server:
        if what in ODD_BUT_GOOD:
            post(server.url, max_retries=1)
        else:
            with pytest.raises(DeliveryError, match="is sent again"):
                post(server.url, max_retries=1, timeout=0.5)
        assert len(server.requests) == 1


@pytest.mark.parametrize("status", [400, 401, 500])
def test_a_receiver_that_quotes_our_credentials_does_not_leak_them(post: Post, status: int) -> None:
    """The answer's text is shown, without the token, the API key and the password that we sent."""
    body = b"token tok-12345 of user, key key-67890 and sig-abcdef were refused"
    headers = {"Authorization": "Bearer tok-12345", "X-Key": "key-67890"}
    with (
        FaultyHttpServer(then=Reply(status, body=body)) as server,
        pytest.raises(TransportError) as caught,
    ):
        post(f"{server.url}?sig=sig-abcdef", headers=headers, max_retries=1)
    assert "token **** of user, key **** and **** were refused" in str(caught.value)
