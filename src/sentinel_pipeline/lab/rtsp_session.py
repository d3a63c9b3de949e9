"""What one client has asked for: the requests of RFC 2326 for one publisher or player, one session per connection.

The RFC lets a session outlive its connection; FFmpeg, GStreamer and cameras do not make use of it, and neither do we.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Sequence
from enum import Enum

from sentinel_pipeline.lab.rtsp_context import RelayContext
from sentinel_pipeline.lab.rtsp_headers import (
    TransportOffer,
    base_url,
    path_name,
    transport_offers,
    url_rest,
    without_control,
)
from sentinel_pipeline.lab.rtsp_link import Link, Packet
from sentinel_pipeline.lab.rtsp_messages import Headers, Interleaved, Request, Response, RtspSyntaxError
from sentinel_pipeline.lab.rtsp_path import Publication, RelayPath
from sentinel_pipeline.lab.rtsp_player import Player
from sentinel_pipeline.lab.rtsp_udp import Route
from sentinel_pipeline.lab.sdp import read_description

_NEVER_REFUSED = frozenset({"OPTIONS", "TEARDOWN", "GET_PARAMETER", "SET_PARAMETER"})
_TRACK = re.compile(r"(?:(?P<path>.*)/)?trackID=(?P<track>[0-9]{1,3})", re.DOTALL)
_Reply = tuple[Headers, bytes]


class State(Enum):
    """RFC 2326 appendix A, players and publishers in one."""

    INIT = "init"
    READY = "ready"
    PLAYING = "playing"
    RECORDING = "recording"


class _Refused(Exception):
    """Ends the handling of a request with a status other than 200."""

    def __init__(self, status: int, headers: Headers = ()) -> None:
        super().__init__(str(status))
        self.status = status
        self.headers = headers


class _Swallowed(Exception):
    """Ends the handling of a request without any answer."""


class RtspSession:
    """Answers one client's requests and takes its packets. Lives in one event loop."""

    def __init__(self, relay: RelayContext, link: Link) -> None:
        self._relay = relay
        self._link = link
        self._nonce = secrets.token_hex(16)
        self._unanswered = False  # a request was swallowed on purpose: the client is kept waiting
        self.answer_delay_s = 0.0  # how late the last answer should be
        self._handlers: dict[str, Callable[[Request], _Reply]] = {
            "OPTIONS": self._options,
            "ANNOUNCE": self._announce,
            "DESCRIBE": self._describe,
            "SETUP": self._setup,
            "RECORD": self._record,
            "PLAY": self._play,
            "PAUSE": self._pause,
            "TEARDOWN": self._teardown,
            "GET_PARAMETER": self._parameter,
            "SET_PARAMETER": self._parameter,
        }
        self._begin()

    def _begin(self) -> None:
        self._id = secrets.token_hex(8)
        self._state = State.INIT
        self._path: RelayPath | None = None
        self._publication: Publication | None = None  # the own one of a publisher, the played one of a player
        self._publishes = False
        self._player = Player(self._link)
        self._tracks: set[int] = set()
        self._channels: dict[int, tuple[int, bool]] = {}  # interleaved channel: track, and whether it is RTCP

    @property
    def needs_keep_alive(self) -> bool:
        """Whether silence of the client means that it is gone."""
        if self._state is State.PLAYING:
            return self._player.needs_keep_alive
        if self._publishes and self._path is not None and self._path.faults.publisher_stalled:
            return False
        return not self._unanswered

    def answer(self, request: Request) -> Response | None:
        """Return the response, or None when the relay is told not to answer."""
        status, body = 200, b""
        headers: Headers = ()
        try:
            headers, body = self._handle(request)
        except _Swallowed:
            self._unanswered = True
            return None
        except _Refused as exc:
            status, headers = exc.status, exc.headers
        except RtspSyntaxError as exc:
            status = exc.status
        self._unanswered = False
        sequence = request.header("CSeq")
        first: Headers = (("CSeq", sequence),) if _is_number(sequence) else ()
        return Response((*first, *headers), body, status=status)

    def interleaved(self, packets: Sequence[Interleaved]) -> None:
        """Take packets that came inside the connection; a player's (RTCP) are signs of life and nothing else."""
        if self._state is State.RECORDING:
            known = self._channels
            self.packets([Packet(*known[channel], sized) for channel, sized in packets if channel in known])

    def packets(self, batch: Sequence[Packet]) -> None:
        """Take a publisher's packets."""
        if self._state is State.RECORDING and self._path is not None and self._publication is not None:
            self._path.forward(self._publication, batch)

    def end(self) -> None:
        """Let go of the path: the client is gone, or has said TEARDOWN."""
        path, publication, player = self._path, self._publication, self._player
        publishes = self._publishes
        if self._relay.udp is not None:
            self._relay.udp.remove(self._link)
        self._begin()
        if path is not None and publication is not None and publishes:
            path.end(publication)
        elif path is not None:
            path.remove(player)

    def _handle(self, request: Request) -> _Reply:
        if request.version != "1.0":
            raise _Refused(505)
        handler = self._handlers.get(request.method)
        if handler is None:
            raise _Refused(501, self._public())
        if not _is_number(request.header("CSeq")):
            raise _Refused(400)
        self._misbehave(request)
        if wanted := request.header("Require"):
            raise _Refused(551, (("Unsupported", wanted),))  # RFC 2326 section 12.32
        publishing = self._publishes or request.method in {"ANNOUNCE", "RECORD"}
        if request.method != "OPTIONS" and not self._relay.access.allows(request, self._nonce, publishing=publishing):
            raise _Refused(401, self._challenge())
        if request.header("Session").partition(";")[0].strip() not in {"", self._id}:
            raise _Refused(454)
        return handler(request)

    def _misbehave(self, request: Request) -> None:
        path = self._path or self._asked_for(request)
        self.answer_delay_s = path.faults.answer_delay_s if path is not None else 0.0
        if self._relay.muted or (path is not None and path.faults.muted):
            raise _Swallowed
        if path is not None and path.faults.refused is not None and request.method not in _NEVER_REFUSED:
            raise _Refused(path.faults.refused, self._challenge() if path.faults.refused == 401 else ())

    def _asked_for(self, request: Request) -> RelayPath | None:
        if request.url == "*":
            return None
        rest = url_rest(request.url)
        return self._relay.find(path_name(rest)) or self._relay.find(path_name(rest.rpartition("/")[0]))

    def _challenge(self) -> Headers:
        return (("WWW-Authenticate", self._relay.access.challenge(self._nonce)),)

    def _public(self) -> Headers:
        return (("Public", ", ".join(self._handlers)),)

    def _session(self) -> Headers:
        return (("Session", f"{self._id};timeout={max(1, int(self._relay.settings.session_timeout_s))}"),)

    def _options(self, request: Request) -> _Reply:  # noqa: ARG002 - all handlers take the request
        return self._public(), b""

    def _parameter(self, request: Request) -> _Reply:  # noqa: ARG002 - keep-alive: nothing to get or to set
        return (self._session() if self._state is not State.INIT else ()), b""

    def _announce(self, request: Request) -> _Reply:
        if self._path is not None:
            raise _Refused(455)
        if request.header("Content-Type").partition(";")[0].strip().lower() != "application/sdp":
            raise _Refused(415)
        publication = Publication(self._link, read_description(request.body))
        name = path_name(url_rest(request.url))
        if not name:
            raise _Refused(404)
        try:
            path = self._relay.path(name)
        except OverflowError as exc:
            raise _Refused(503) from exc
        if not path.claim(publication, takeover=self._relay.settings.allow_takeover):
            raise _Refused(403)
        self._path, self._publication, self._publishes = path, publication, True
        return (), b""

    def _describe(self, request: Request) -> _Reply:
        path = self._relay.find(path_name(url_rest(request.url)))
        description = path.description if path is not None else None
        if description is None:
            raise _Refused(404)
        # The slash at the end matters: clients append the track's name to it (RFC 2326 section C.1.1).
        headers = (("Content-Base", base_url(request.url)), ("Content-Type", "application/sdp"))
        return headers, description.sdp

    def _setup(self, request: Request) -> _Reply:
        if self._state not in {State.INIT, State.READY}:
            raise _Refused(455)
        rest = url_rest(request.url)
        track = self._own_track(rest) if self._publishes else self._played_track(rest)
        if track in self._tracks:
            raise _Refused(455)
        for offer in transport_offers(request.header("Transport")):
            accepted = self._accept(track, offer)
            if accepted is not None:
                self._tracks.add(track)
                self._state = State.READY
                mode = ";mode=record" if self._publishes else ""
                return (("Transport", accepted + mode), *self._session()), b""
        raise _Refused(461)

    def _own_track(self, rest: str) -> int:
        controls = self._publication.description.controls if self._publication is not None else ()
        for track, control in enumerate(controls):
            if without_control(rest, control) is not None:
                return track
        if len(controls) == 1:
            return 0  # a single track may go by the URL of the whole
        raise _Refused(404)

    def _played_track(self, rest: str) -> int:
        found = _TRACK.fullmatch(rest)
        path = self._relay.find(path_name((found["path"] or "") if found else rest))
        if path is None or path.publication is None or not path.publishing:
            raise _Refused(404)
        if self._publication not in {None, path.publication}:
            raise _Refused(455)  # one session, one path
        track, tracks = int(found["track"]) if found else 0, len(path.publication.description.controls)
        if track >= tracks or (found is None and tracks > 1):
            raise _Refused(404)
        self._path, self._publication = path, path.publication
        return track

    def _accept(self, track: int, offer: TransportOffer) -> str | None:
        """Set the track up as offered and return the ``Transport`` to answer with, or None when that is impossible."""
        if offer.lower not in self._relay.settings.transports:
            return None
        if offer.lower == "tcp":
            return self._accept_tcp(track, offer.pair or (2 * track, 2 * track + 1))
        return self._accept_udp(track, offer.pair)

    def _accept_tcp(self, track: int, channels: tuple[int, int]) -> str | None:
        if channels[0] in self._channels or channels[1] in self._channels:
            return None
        self._channels.update({channels[0]: (track, False), channels[1]: (track, True)})
        if not self._publishes:
            self._player.interleave(track, channels)
        return f"RTP/AVP/TCP;unicast;interleaved={channels[0]}-{channels[1]}"

    def _accept_udp(self, track: int, client: tuple[int, int] | None) -> str | None:
        ports = self._relay.udp
        if ports is None or client is None:
            return None
        ports.add(self._link.peer, client, Route(self._link, track))
        if not self._publishes:
            self._player.datagrams(track, ports, self._link.peer, client)
        own = ports.ports
        return f"RTP/AVP;unicast;client_port={client[0]}-{client[1]};server_port={own[0]}-{own[1]}"

    def _record(self, request: Request) -> _Reply:  # noqa: ARG002 - all handlers take the request
        path, publication = self._path, self._publication
        if path is None or publication is None or not self._publishes or self._state is not State.READY:
            raise _Refused(455)
        if path.publication is not publication:
            raise _Refused(403)  # taken over meanwhile
        self._state = State.RECORDING
        path.go_live(publication)
        return self._session(), b""

    def _play(self, request: Request) -> _Reply:  # noqa: ARG002 - all handlers take the request
        path = self._path
        if path is None or self._publishes or self._state not in {State.READY, State.PLAYING}:
            raise _Refused(455)
        if path.publication is not self._publication:
            raise _Refused(404)  # what was set up has ended meanwhile
        self._state = State.PLAYING
        path.add(self._player)
        player = self._player
        self._link.soon(lambda: path.greet(player))
        return self._session(), b""

    def _pause(self, request: Request) -> _Reply:  # noqa: ARG002 - all handlers take the request
        if self._path is None or self._state is not State.PLAYING:
            raise _Refused(455)
        self._state = State.READY
        self._path.remove(self._player)
        return self._session(), b""

    def _teardown(self, request: Request) -> _Reply:  # noqa: ARG002 - all handlers take the request
        self.end()
        return (), b""


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 10
