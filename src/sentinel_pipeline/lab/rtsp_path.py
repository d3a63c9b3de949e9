"""One path of the relay: its publication, its players, its counters and how it misbehaves. Lives in one event loop."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum

import structlog

from sentinel_pipeline.lab.rtp_rewriting import Impairment, Splice
from sentinel_pipeline.lab.rtsp_link import Link, Packet
from sentinel_pipeline.lab.rtsp_player import Player
from sentinel_pipeline.lab.sdp import Description

log = structlog.get_logger(__name__)

_RTP_HEADER_BYTES = 12  # RFC 3550 section 5.1, without contributing sources
_SENDER_REPORT = 200  # RFC 3550 section 6.4.1


class Media(Enum):
    """What happens to the packets of a path on their way to the players."""

    FLOWS = "flows"
    STALLED = "stalled"
    GARBAGE = "garbage"
    HALF_FRAME = "half_frame"


@dataclass(slots=True)
class Misbehaviour:
    """How a path misbehaves; the plain value is a path that works.

    muted: requests get no answer.  refused: the status that requests get instead of an answer, or None.
    publisher_stalled: the publisher's connection is not read any more.
    answer_delay_s: how long each answer takes.
    substitute: the path whose packets players get, and whose description new players are shown; None: its own.
    """

    media: Media = Media.FLOWS
    muted: bool = False
    refused: int | None = None
    publisher_stalled: bool = False
    answer_delay_s: float = 0.0
    substitute: RelayPath | None = None


@dataclass(frozen=True, slots=True)
class PathInfo:
    """A path at one moment. Counters never go back; packets count RTP and RTCP, bytes count without framing.

    dropped: packets that a player was too slow to get.
    """

    publishing: bool
    readers: int
    packets_in: int
    bytes_in: int
    packets_out: int
    dropped: int


@dataclass(slots=True, eq=False)
class Publication:
    """One publisher's turn on a path. ``live``: it has sent RECORD. ``reports``: each track's last sender report."""

    link: Link
    description: Description
    live: bool = False
    reports: dict[int, Packet] = field(default_factory=dict)


class RelayPath:
    """Forwards one publisher's packets to all players of a path. ``on_change`` runs after each coming and going."""

    def __init__(self, name: str, on_change: Callable[[], None]) -> None:
        self.name = name
        self.publication: Publication | None = None
        self.faults = Misbehaviour()
        self.impairment = Impairment(name)
        self.players: list[Player] = []
        self._splice = Splice()
        self._stands_in_for: list[RelayPath] = []
        self._on_change = on_change
        self._packets_in = self._bytes_in = self._packets_out = self._dropped = 0
        self._noise = random.Random(name)  # noqa: S311 - noise, the same in every run; no secret

    @property
    def publishing(self) -> bool:
        """Whether there is something to play."""
        return self.publication is not None and self.publication.live

    @property
    def description(self) -> Description | None:
        """What new players are told that the path carries; None when there is nothing to play."""
        shown = self.faults.substitute or self
        return shown.publication.description if shown.publication is not None and shown.publishing else None

    def info(self) -> PathInfo:
        """Return the situation and the counters."""
        return PathInfo(
            self.publishing, len(self.players), self._packets_in, self._bytes_in, self._packets_out, self._dropped
        )

    def claim(self, publication: Publication, *, takeover: bool) -> bool:
        """Reserve the path for a publisher; return False when it is taken. A takeover closes the other's connection."""
        other = self.publication
        if other is not None:
            if not takeover:
                return False
            self.end(other)
            other.link.close()
        self.publication = publication
        return True

    def go_live(self, publication: Publication) -> None:
        """The publisher has sent RECORD."""
        publication.live = True
        if self.faults.publisher_stalled:
            publication.link.stop_reading()
        log.info("publisher started", path=self.name, tracks=len(publication.description.controls))
        self._on_change()

    def end(self, publication: Publication) -> None:
        """The publisher is gone: so is what its players were playing, and their connections end with it."""
        if self.publication is not publication:
            return
        self.publication = None
        players, self.players = self.players, []
        for player in players:
            player.link.close()
        if publication.live:
            log.info("publisher ended", path=self.name)
        self._on_change()

    def add(self, player: Player) -> None:
        """Let a player have all packets from now on."""
        if player not in self.players:
            self.players.append(player)
            log.info("reader joined", path=self.name, readers=len(self.players))
            self._on_change()

    def remove(self, player: Player) -> None:
        """Stop sending to a player."""
        if player in self.players:
            self.players.remove(player)
            log.info("reader left", path=self.name, readers=len(self.players))
            self._on_change()

    def greet(self, player: Player) -> None:
        """Send the latest sender reports, which place RTP time on the wall clock; the next may be seconds away."""
        plain = self.faults.media is Media.FLOWS and self.faults.substitute is None
        if self.publication is not None and player in self.players and plain:
            self._count(*player.deliver(list(self.publication.reports.values())))

    def forward(self, publication: Publication, batch: Sequence[Packet]) -> None:
        """Send the publisher's packets on, as the path's faults have it."""
        self._packets_in += len(batch)
        for packet in batch:
            self._bytes_in += len(packet.sized) - 2
            if packet.rtcp and len(packet.sized) > 3 and packet.sized[3] == _SENDER_REPORT:
                publication.reports[packet.track] = packet
        for path in self._stands_in_for:
            path.emit(self, [packet for packet in batch if not packet.rtcp])  # its reports tell of another clock
        if self.faults.substitute is None:
            self.emit(self, batch)

    def emit(self, source: RelayPath, batch: Sequence[Packet]) -> None:
        """Send packets, the own ones or those of a substitute, to the players, as the path's faults have it."""
        batch = [packet if packet.rtcp else self._splice.join(source, packet) for packet in batch]
        batch = self.impairment.apply(batch)
        match self.faults.media:
            case Media.FLOWS:
                self._deliver(batch)
            case Media.GARBAGE:
                self._deliver([self._garbled(packet) for packet in batch])
            case Media.HALF_FRAME:
                self._cut(batch)
            case Media.STALLED:
                pass

    def change_media(self, media: Media) -> None:
        """Misbehave from now on; half packets are completed first."""
        if self.faults.media is Media.HALF_FRAME and media is not Media.HALF_FRAME:
            for player in self.players:
                player.mend()
        self.faults.media = media

    def substitute(self, other: RelayPath | None) -> None:
        """Show players the packets of another path from now on, without a word; None: its own again."""
        if self.faults.substitute is not None:
            self.faults.substitute._stands_in_for.remove(self)
        self.faults.substitute = other
        if other is not None:
            other._stands_in_for.append(self)

    def _deliver(self, batch: Sequence[Packet]) -> None:
        for player in self.players:
            self._count(*player.deliver(batch))

    def _count(self, sent: int, dropped: int) -> None:
        self._packets_out += sent
        self._dropped += dropped

    def _cut(self, batch: Sequence[Packet]) -> None:
        first = next((packet for packet in batch if not packet.rtcp), None)
        if first is not None:
            for player in self.players:
                player.cut(first)

    def _garbled(self, packet: Packet) -> Packet:
        """Keep length and RTP header, so that only the decoder is hit and not the reader's buffers."""
        kept = packet.sized[: 2 + _RTP_HEADER_BYTES]
        if packet.rtcp:
            return packet
        return packet._replace(sized=kept + self._noise.randbytes(len(packet.sized) - len(kept)))
