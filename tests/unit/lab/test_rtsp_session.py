"""The relay's answers, states and forwarding, decided without sockets: a recording link stands for the connection."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sentinel_pipeline.lab.rtsp_context import MAX_PATHS, RelayContext, RelaySettings
from sentinel_pipeline.lab.rtsp_faults import PathFaults
from sentinel_pipeline.lab.rtsp_link import Packet
from sentinel_pipeline.lab.rtsp_messages import Interleaved, Request, Response
from sentinel_pipeline.lab.rtsp_session import RtspSession
from support.rtsp_client import SDP, SDP_HEADERS, rtp, sender_report

URL = "rtsp://127.0.0.1:8554/cam1"
TCP = (("Transport", "RTP/AVP/TCP;unicast;interleaved=0-1"),)
METHODS = ["OPTIONS", "ANNOUNCE", "DESCRIBE", "SETUP", "RECORD", "PLAY", "PAUSE", "TEARDOWN"]
METHODS += ["GET_PARAMETER", "SET_PARAMETER"]


def sized(packet: bytes) -> bytes:
    """Return a packet with its length in front."""
    return len(packet).to_bytes(2, "big") + packet


class RecordingLink:
    """A connection in memory."""

    peer = "127.0.0.1"

    def __init__(self, relay: RelayContext) -> None:
        self.written = bytearray()
        self.full = self.closed = self.was_reset = self.paused = False
        self.held: bytes | None = None
        self.session = RtspSession(relay, self)
        self._sequence = 0

    def write(self, data: bytes) -> None:
        self.written += data

    def soon(self, work: Callable[[], None]) -> None:
        work()

    def packets(self, batch: Sequence[Packet]) -> None:
        self.session.packets(batch)

    def hold_back(self, data: bytes) -> None:
        self.held = data

    def let_go(self) -> None:
        self.written += self.held or b""
        self.held = None

    def stop_reading(self) -> None:
        self.paused = True

    def go_on_reading(self) -> None:
        self.paused = False

    def close(self) -> None:
        self.closed = True
        self.session.end()

    def reset(self) -> None:
        self.was_reset = True
        self.close()

    def ask(
        self, method: str, url: str = URL, headers: tuple[tuple[str, str], ...] = (), body: bytes = b""
    ) -> Response:
        """Return the answer to a request."""
        self._sequence += 1
        answer = self.session.answer(Request((("CSeq", str(self._sequence)), *headers), body, method=method, url=url))
        assert answer is not None
        assert answer.header("CSeq") == str(self._sequence)
        return answer

    def publish(self, url: str = URL) -> RecordingLink:
        assert self.ask("ANNOUNCE", url, SDP_HEADERS, SDP).status == 200
        assert self.ask("SETUP", f"{url}/streamid=0", TCP).status == 200
        assert self.ask("RECORD", url).status == 200
        return self

    def play(self, url: str = URL, transport: tuple[tuple[str, str], ...] = TCP) -> RecordingLink:
        assert self.ask("SETUP", f"{url}/trackID=0", transport).status == 200
        assert self.ask("PLAY", url).status == 200
        return self

    def send(self, *packets: bytes, channel: int = 0) -> None:
        self.session.interleaved([Interleaved(channel, sized(packet)) for packet in packets])


@pytest.fixture
def changes() -> list[str]:
    return []


@pytest.fixture
def relay(changes: list[str]) -> RelayContext:
    return RelayContext(RelaySettings(), None, lambda: changes.append("change"))


def faults(relay: RelayContext, name: str = "cam1") -> PathFaults:
    """Return the commands for a path, run at once."""
    return PathFaults(lambda work: work(relay.path(name)), relay.path)


def test_options_names_every_method(relay: RelayContext) -> None:
    """FFmpeg sends GET_PARAMETER as keep-alive only when Public lists it."""
    assert RecordingLink(relay).ask("OPTIONS").header("Public").split(", ") == METHODS


def test_packets_go_from_publisher_to_players_unchanged(relay: RelayContext) -> None:
    """RTP and RTCP reach every player once, on the channels that each player chose."""
    publisher = RecordingLink(relay).publish()
    near = RecordingLink(relay).play()
    far = RecordingLink(relay).play(transport=(("Transport", "RTP/AVP/TCP;unicast;interleaved=6-7"),))
    publisher.send(rtp(1), rtp(2))
    publisher.send(sender_report(9), channel=1)
    assert near.written == b"".join((b"$\0", sized(rtp(1)), b"$\0", sized(rtp(2)), b"$\x01", sized(sender_report(9))))
    assert far.written == b"".join((b"$\6", sized(rtp(1)), b"$\6", sized(rtp(2)), b"$\7", sized(sender_report(9))))
    info = relay.path("cam1").info()
    assert (info.publishing, info.readers, info.packets_in, info.packets_out) == (True, 2, 3, 6)
    assert info.bytes_in == 2 * 100 + 28


def test_a_new_player_gets_the_last_sender_report_first(relay: RelayContext) -> None:
    """It places RTP time on the wall clock without waiting for the next report."""
    publisher = RecordingLink(relay).publish()
    publisher.send(sender_report(1), sender_report(2), channel=1)
    publisher.send(rtp(1))
    player = RecordingLink(relay).play()
    assert player.written == b"$\x01" + sized(sender_report(2))


def test_a_full_player_loses_packets_and_the_others_do_not(relay: RelayContext) -> None:
    """Drops are counted, and end as soon as the player's buffer has room."""
    publisher = RecordingLink(relay).publish()
    slow, quick = RecordingLink(relay).play(), RecordingLink(relay).play()
    slow.full = True
    publisher.send(rtp(1), rtp(2))
    slow.full = False
    publisher.send(rtp(3))
    assert slow.written == b"$\0" + sized(rtp(3))
    assert len(quick.written) == 3 * 104
    assert (relay.path("cam1").info().dropped, relay.path("cam1").info().packets_out) == (2, 4)


def test_players_end_with_their_publisher(relay: RelayContext, changes: list[str]) -> None:
    """TEARDOWN of the publisher closes the players' connections and frees the path."""
    publisher, player = RecordingLink(relay).publish(), RecordingLink(relay).play()
    changes.clear()
    assert publisher.ask("TEARDOWN").status == 200
    assert player.closed
    assert not publisher.closed
    assert changes
    assert relay.path("cam1").info().readers == 0
    assert RecordingLink(relay).ask("DESCRIBE").status == 404
    RecordingLink(relay).publish()


def test_pause_stops_packets_and_play_brings_them_back(relay: RelayContext) -> None:
    """A paused player stays connected and misses what is sent meanwhile."""
    publisher, player = RecordingLink(relay).publish(), RecordingLink(relay).play()
    assert player.ask("PAUSE").status == 200
    publisher.send(rtp(1))
    assert player.ask("PLAY").status == 200
    publisher.send(rtp(2))
    assert player.written == b"$\0" + sized(rtp(2))


def test_a_second_publisher_is_refused(relay: RelayContext) -> None:
    """The first keeps the path."""
    first = RecordingLink(relay).publish()
    assert RecordingLink(relay).ask("ANNOUNCE", URL, SDP_HEADERS, SDP).status == 403
    assert not first.closed


def test_a_second_publisher_takes_over_when_allowed() -> None:
    """The first publisher and its players are closed, and the first's packets lead nowhere any more."""
    relay = RelayContext(RelaySettings(allow_takeover=True), None, lambda: None)
    first, player = RecordingLink(relay).publish(), RecordingLink(relay).play()
    second = RecordingLink(relay).publish()
    assert (first.closed, player.closed, second.closed) == (True, True, False)
    again = RecordingLink(relay).play()
    first.send(rtp(1))
    second.send(rtp(2))
    assert again.written == b"$\0" + sized(rtp(2))


def test_a_publisher_that_lost_its_path_before_record_is_refused() -> None:
    """Between ANNOUNCE and RECORD another one may have taken over."""
    relay = RelayContext(RelaySettings(allow_takeover=True), None, lambda: None)
    first = RecordingLink(relay)
    first.close = lambda: None  # the network has not told it yet
    first.ask("ANNOUNCE", URL, SDP_HEADERS, SDP)
    first.ask("SETUP", f"{URL}/streamid=0", TCP)
    RecordingLink(relay).publish()
    assert first.ask("RECORD").status == 403


def test_a_player_whose_publisher_changed_before_play_is_refused(relay: RelayContext) -> None:
    """What it has set up may not be what the new publisher sends."""
    publisher, player = RecordingLink(relay).publish(), RecordingLink(relay)
    player.ask("SETUP", f"{URL}/trackID=0", TCP)
    publisher.close()
    RecordingLink(relay).publish()
    assert player.ask("PLAY").status == 404


@pytest.mark.parametrize(
    ("role", "method", "url", "headers", "status"),
    [
        pytest.param("new", "DESCRIBE", "rtsp://h/nowhere", (), 404, id="unknown-path"),
        pytest.param("new", "SETUP", "rtsp://h/nowhere/trackID=0", TCP, 404, id="setup-of-unknown-path"),
        pytest.param("new", "SETUP", f"{URL}/trackID=7", TCP, 404, id="unknown-track"),
        pytest.param("new", "SETUP", f"{URL}/trackID=0", (), 461, id="no-transport"),
        pytest.param("new", "SETUP", f"{URL}/trackID=0", (("Transport", "RTP/AVP;multicast"),), 461, id="multicast"),
        pytest.param(
            "new",
            "SETUP",
            f"{URL}/trackID=0",
            (("Transport", "RTP/AVP;client_port=5000-5001"),),
            461,
            id="udp-switched-off",
        ),
        pytest.param(
            "new",
            "SETUP",
            f"{URL}/trackID=0",
            (("Transport", "RTP/AVP/TCP;interleaved=9"), ("Session", "no")),
            454,
            id="session",
        ),
        pytest.param(
            "new", "SETUP", f"{URL}/trackID=0", (("Transport", "RTP/AVP/TCP;interleaved=300-301"),), 400, id="channel"
        ),
        pytest.param("new", "PLAY", URL, (), 455, id="play-before-setup"),
        pytest.param("new", "PAUSE", URL, (), 455, id="pause-before-play"),
        pytest.param("new", "RECORD", URL, (), 455, id="record-before-announce"),
        pytest.param("new", "ANNOUNCE", "rtsp://h/other", (), 415, id="announce-without-sdp"),
        pytest.param("new", "ANNOUNCE", "rtsp://h/other", SDP_HEADERS, 400, id="announce-of-nothing"),
        pytest.param("new", "DESCRIBE", "http://h/cam1", (), 400, id="no-rtsp-url"),
        pytest.param("new", "DESCRIBE", URL, (("Require", "magic"),), 551, id="require"),
        pytest.param("new", "REDIRECT", URL, (), 501, id="unknown-method"),
        pytest.param("player", "RECORD", URL, (), 455, id="player-records"),
        pytest.param("player", "ANNOUNCE", URL, SDP_HEADERS, 455, id="player-announces"),
        pytest.param("player", "SETUP", f"{URL}/trackID=0", TCP, 455, id="setup-while-playing"),
        pytest.param("publisher", "PLAY", URL, (), 455, id="publisher-plays"),
        pytest.param("publisher", "RECORD", URL, (), 455, id="record-twice"),
        pytest.param("publisher", "GET_PARAMETER", URL, (), 200, id="keep-alive"),
    ],
)
def test_requests_out_of_place_get_their_status(
    relay: RelayContext, role: str, method: str, url: str, headers: tuple[tuple[str, str], ...], status: int
) -> None:
    """Each wrong request has one answer, and does not disturb what is going on."""
    publisher = RecordingLink(relay).publish()
    link = {"new": RecordingLink(relay), "publisher": publisher}.get(role) or RecordingLink(relay).play()
    assert link.ask(method, url, headers).status == status
    assert relay.path("cam1").info().publishing


def test_version_and_cseq_are_checked(relay: RelayContext) -> None:
    """RTSP 2.0 gets 505, and a request without CSeq gets 400."""
    session = RtspSession(relay, RecordingLink(relay))
    assert session.answer(Request((("CSeq", "1"),), method="OPTIONS", url="*", version="2.0")).status == 505
    assert session.answer(Request(method="OPTIONS", url="*")).status == 400


def test_a_channel_serves_one_track_only(relay: RelayContext) -> None:
    """Two tracks on one channel could not be told apart."""
    link = RecordingLink(relay)
    link.ask("ANNOUNCE", URL, SDP_HEADERS, SDP + b"m=audio 0 RTP/AVP 97\r\na=control:streamid=1\r\n")
    assert link.ask("SETUP", f"{URL}/streamid=0", TCP).status == 200
    assert link.ask("SETUP", f"{URL}/streamid=1", TCP).status == 461
    other = (("Transport", "RTP/AVP/TCP;unicast"),)
    assert "interleaved=2-3" in link.ask("SETUP", f"{URL}/streamid=1", other).header("Transport")


def test_a_player_may_take_one_track_of_two(relay: RelayContext) -> None:
    """Packets of a track that was not set up are neither sent nor counted as dropped."""
    publisher = RecordingLink(relay)
    publisher.ask("ANNOUNCE", URL, SDP_HEADERS, SDP + b"m=audio 0 RTP/AVP 97\r\na=control:streamid=1\r\n")
    publisher.ask("SETUP", f"{URL}/streamid=0", TCP)
    publisher.ask("SETUP", f"{URL}/streamid=1", (("Transport", "RTP/AVP/TCP;unicast;interleaved=2-3"),))
    publisher.ask("RECORD")
    player = RecordingLink(relay)
    player.ask("SETUP", f"{URL}/trackID=1", TCP)
    player.ask("PLAY")
    publisher.send(rtp(1), channel=0)
    publisher.send(rtp(2), channel=2)
    assert player.written == b"$\0" + sized(rtp(2))
    assert relay.path("cam1").info().dropped == 0


def test_paths_are_bounded(relay: RelayContext) -> None:
    """Publishers cannot invent names without end."""
    for number in range(MAX_PATHS):
        relay.path(f"p{number}")
    assert RecordingLink(relay).ask("ANNOUNCE", URL, SDP_HEADERS, SDP).status == 503


def test_credentials_are_demanded_and_never_echoed() -> None:
    """Without credentials every request but OPTIONS gets a challenge, which carries no password."""
    relay = RelayContext(RelaySettings(credentials={"me": "s3cret"}), None, lambda: None)
    link = RecordingLink(relay)
    assert link.ask("OPTIONS").status == 200
    for method in ("DESCRIBE", "SETUP", "ANNOUNCE", "TEARDOWN"):
        answer = link.ask(method, "rtsp://me:s3cret@h/cam1")
        assert answer.status == 401
        assert answer.header("WWW-Authenticate").startswith("Digest ")
        assert b"s3cret" not in answer.encode()
    assert "s3cret" not in repr(relay.settings)


def test_stall_stops_packets_and_not_answers(relay: RelayContext) -> None:
    """A stalled path answers, also new players, and sends nothing; resume goes on with the next packet."""
    publisher, player = RecordingLink(relay).publish(), RecordingLink(relay).play()
    faults(relay).stall()
    publisher.send(sender_report(1), channel=1)
    publisher.send(rtp(1))
    late = RecordingLink(relay).play()
    assert (player.written, late.written) == (b"", b"")
    assert player.ask("GET_PARAMETER").status == 200
    faults(relay).resume()
    publisher.send(rtp(2))
    assert player.written == late.written == b"$\0" + sized(rtp(2))


def test_mute_swallows_requests_of_its_path_only(relay: RelayContext) -> None:
    """No answer on the mute path, not even to OPTIONS, while its packets and the other paths go on."""
    publisher, player = RecordingLink(relay).publish(), RecordingLink(relay).play()
    RecordingLink(relay).publish("rtsp://h/cam2")
    faults(relay).mute()
    fresh = RecordingLink(relay)
    for method, url in (("OPTIONS", URL), ("DESCRIBE", URL), ("SETUP", f"{URL}/trackID=0"), ("ANNOUNCE", URL)):
        assert fresh.session.answer(Request((("CSeq", "1"),), method=method, url=url)) is None
    assert not fresh.session.needs_keep_alive
    assert RecordingLink(relay).ask("DESCRIBE", "rtsp://h/cam2").status == 200
    publisher.send(rtp(1))
    assert player.written
    faults(relay).resume()
    assert fresh.ask("DESCRIBE").status == 200
    assert fresh.session.needs_keep_alive


def test_a_mute_relay_answers_nothing(relay: RelayContext) -> None:
    """mute_all needs no path."""
    relay.muted = True
    assert RecordingLink(relay).session.answer(Request((("CSeq", "1"),), method="OPTIONS", url="*")) is None


@pytest.mark.parametrize("status", [401, 403, 404, 503])
def test_refuse_answers_with_the_status_asked_for(relay: RelayContext, status: int) -> None:
    """As a camera does: OPTIONS works, DESCRIBE is refused, 401 with a challenge; what plays goes on."""
    publisher, player = RecordingLink(relay).publish(), RecordingLink(relay).play()
    faults(relay).refuse(status)
    link = RecordingLink(relay)
    assert link.ask("OPTIONS").status == 200
    for method in ("DESCRIBE", "ANNOUNCE", "SETUP"):
        answer = link.ask(method, f"{URL}/trackID=0" if method == "SETUP" else URL)
        assert answer.status == status
        assert bool(answer.header("WWW-Authenticate")) is (status == 401)
    publisher.send(rtp(1))
    assert player.written


@pytest.mark.parametrize("status", [200, 299, 499])
def test_refuse_takes_known_statuses_only(relay: RelayContext, status: int) -> None:
    """A status that is no refusal is a mistake of the test's author."""
    with pytest.raises(ValueError, match="not a status of refusal"):
        faults(relay).refuse(status)


def test_garbage_keeps_headers_and_lengths(relay: RelayContext) -> None:
    """Only the payload of RTP packets changes; RTCP stays."""
    publisher, player = RecordingLink(relay).publish(), RecordingLink(relay).play()
    faults(relay).garbage()
    publisher.send(rtp(1), rtp(2, size=8))
    publisher.send(sender_report(1), channel=1)
    sent = b"$\0" + sized(rtp(1)) + b"$\0" + sized(rtp(2, size=8)) + b"$\x01" + sized(sender_report(1))
    assert len(player.written) == len(sent)
    assert player.written[:16] == sent[:16]
    assert player.written[16:104] != sent[16:104]
    assert player.written[104:] == sent[104:]


def test_half_frame_cuts_one_packet_and_resume_mends_it(relay: RelayContext) -> None:
    """Half a packet, then nothing; afterwards the other half, so that the framing is intact again."""
    publisher, player = RecordingLink(relay).publish(), RecordingLink(relay).play()
    faults(relay).half_frame()
    publisher.send(sender_report(1), channel=1)
    publisher.send(rtp(1), rtp(2))
    publisher.send(rtp(3))
    whole = b"$\0" + sized(rtp(1))
    assert player.written == whole[:52]
    faults(relay).resume()
    publisher.send(rtp(4))
    assert player.written == whole + b"$\0" + sized(rtp(4))


def test_connections_are_closed_on_command(relay: RelayContext) -> None:
    """close_readers and reset_readers leave the publisher alone; close_publisher ends everything."""
    publisher, closed = RecordingLink(relay).publish(), RecordingLink(relay).play()
    faults(relay).close_readers()
    assert (closed.closed, closed.was_reset) == (True, False)
    reset = RecordingLink(relay).play()
    faults(relay).reset_readers()
    assert reset.was_reset
    assert not publisher.closed
    last = RecordingLink(relay).play()
    faults(relay).close_publisher()
    assert publisher.closed
    assert last.closed


def test_a_stalled_publisher_is_not_read_also_when_it_comes_later(relay: RelayContext) -> None:
    """The fault holds for the path, not for one connection, and such a publisher is not taken for dead."""
    first = RecordingLink(relay).publish()
    faults(relay).stall_publisher()
    assert first.paused
    assert not first.session.needs_keep_alive
    first.close()
    second = RecordingLink(relay).publish()
    assert second.paused
    faults(relay).resume()
    assert not second.paused
    assert second.session.needs_keep_alive


header_lists = st.lists(
    st.sampled_from(
        [
            *SDP_HEADERS,
            *TCP,
            ("Session", "x"),
            ("CSeq", "1"),
            ("Require", "y"),
            ("Transport", "RTP/AVP;client_port=1-2"),
        ]
    ),
    max_size=4,
).map(tuple)
urls = st.one_of(
    st.sampled_from([URL, f"{URL}/streamid=0", f"{URL}/trackID=0", f"{URL}/trackID=1", "*", "x"]), st.text(max_size=20)
)
any_request = st.builds(
    Request, header_lists, st.sampled_from([SDP, b"", b"?"]), method=st.sampled_from([*METHODS, "X"]), url=urls
)


@given(st.lists(st.tuples(st.integers(0, 2), any_request), max_size=25))
def test_any_order_of_requests_gets_answers_and_leaves_nothing(steps: list[tuple[int, Request]]) -> None:
    """Three clients in any order of requests: each gets an answer, and when all are gone the path is empty."""
    relay = RelayContext(RelaySettings(allow_takeover=True), None, lambda: None)
    links = [RecordingLink(relay) for _ in range(3)]
    for client, request in steps:
        assert links[client].session.answer(request) is not None
        links[client].send(rtp(1), channel=0)
    for link in links:
        link.close()
    assert all(not path.info().publishing and path.info().readers == 0 for path in relay.paths.values())
