"""A plain RTSP client over blocking sockets: exact bytes out, exact answers and packets in."""

from __future__ import annotations

import select
import socket
from collections.abc import Iterator
from types import TracebackType

from sentinel_pipeline.lab.rtsp_messages import Interleaved, MessageReader, Request, Response

SDP = (
    b"v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=test\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\n"
    b"m=video 0 RTP/AVP 96\r\na=rtpmap:96 H264/90000\r\na=fmtp:96 packetization-mode=1\r\na=control:streamid=0\r\n"
)
SDP_HEADERS = (("Content-Type", "application/sdp"),)


def rtp(number: int, size: int = 100) -> bytes:
    """Return an RTP packet of ``size`` bytes with the sequence number ``number``; its payload repeats its low byte."""
    head = bytes((0x80, 96)) + (number % 65536).to_bytes(2, "big") + bytes(8)
    return head + bytes((number % 256,)) * (size - len(head))


def sender_report(seconds: int) -> bytes:
    """Return an RTCP sender report of 28 bytes (RFC 3550 section 6.4.1) for NTP time ``seconds``."""
    return bytes((0x80, 200, 0, 6)) + bytes(4) + seconds.to_bytes(4, "big") + bytes(16)


class RtspClient:
    """One connection. Every wait ends after ``timeout`` seconds with ``TimeoutError``."""

    def __init__(self, port: int, path: str = "cam1", *, timeout: float = 5.0, receive_buffer: int = 0) -> None:
        self.base = f"rtsp://127.0.0.1:{port}/{path}"
        self.socket = socket.socket()
        if receive_buffer:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.socket.settimeout(timeout)
        self.socket.connect(("127.0.0.1", port))
        self.udp: list[socket.socket] = []
        self.unread: list[Interleaved] = []
        self._events: list[Request | Response | Interleaved] = []
        self._reader = MessageReader()
        self._sequence = 0

    def __enter__(self) -> RtspClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        for each in (self.socket, *self.udp):
            each.close()

    def ask(
        self, method: str, url: str = "", *, headers: tuple[tuple[str, str], ...] = (), body: bytes = b""
    ) -> Response:
        """Send a request and return the answer to it; packets that come before it are kept in ``unread``."""
        self._sequence += 1
        request = Request((("CSeq", str(self._sequence)), *headers), body, method=method, url=url or self.base)
        self.socket.sendall(request.encode())
        for event in self._incoming():
            if isinstance(event, Response):
                assert event.header("CSeq") == str(self._sequence)
                return event
            if isinstance(event, Interleaved):
                self.unread.append(event)
        raise ConnectionError("the relay closed the connection instead of answering")

    def setup(self, control: str, transport: str) -> Response:
        """Send SETUP for one track."""
        return self.ask("SETUP", f"{self.base}/{control}", headers=(("Transport", transport),))

    def publish(self, transport: str = "RTP/AVP/TCP;unicast;interleaved=0-1;mode=record") -> Response:
        """Announce one track, set it up and record; return the answer to SETUP."""
        assert self.ask("ANNOUNCE", headers=SDP_HEADERS, body=SDP).status == 200
        answer = self.setup("streamid=0", transport)
        assert answer.status == 200
        assert self.ask("RECORD").status == 200
        return answer

    def play(self, transport: str = "RTP/AVP/TCP;unicast;interleaved=0-1") -> Response:
        """Set the first track up and play; return the answer to SETUP."""
        answer = self.setup("trackID=0", transport)
        assert answer.status == 200
        assert self.ask("PLAY").status == 200
        return answer

    def send(self, packet: bytes, channel: int = 0) -> None:
        """Send an interleaved packet."""
        self.socket.sendall(bytes((0x24, channel)) + len(packet).to_bytes(2, "big") + packet)

    def packet(self) -> tuple[int, bytes]:
        """Return the channel and the content of the next interleaved packet."""
        if not self.unread:
            for event in self._incoming():
                if isinstance(event, Interleaved):
                    self.unread.append(event)
                    break
            else:
                raise ConnectionError("the relay closed the connection")
        event = self.unread.pop(0)
        return event.channel, event.sized[2:]

    def silent_for(self, seconds: float) -> bool:
        """Return whether not one byte comes for so long."""
        if self._events or self.unread:
            return False
        readable, _, _ = select.select([self.socket], [], [], seconds)
        return not readable

    def is_closed(self) -> bool:
        """Wait until the relay closes the connection in order (end of file); what comes before it is thrown away."""
        while self.socket.recv(65536):
            pass
        return True

    def udp_pair(self) -> tuple[int, int]:
        """Bind two UDP sockets, ``udp[0]`` and ``udp[1]``, and return their ports, which are neighbours."""
        for _ in range(50):
            pair = [socket.socket(type=socket.SOCK_DGRAM) for _ in range(2)]
            for each in pair:
                each.settimeout(self.socket.gettimeout())
            pair[0].bind(("127.0.0.1", 0))
            port = pair[0].getsockname()[1]
            try:
                pair[1].bind(("127.0.0.1", port + 1))
            except (OSError, OverflowError):
                for each in pair:
                    each.close()
                continue
            self.udp = pair
            return port, port + 1
        raise OSError("no two neighbouring UDP ports are free")

    def _incoming(self) -> Iterator[Request | Response | Interleaved]:
        while True:
            while self._events:
                yield self._events.pop(0)
            data = self.socket.recv(65536)
            if not data:
                return
            self._events += self._reader.feed(data)
