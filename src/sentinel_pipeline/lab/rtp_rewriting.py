"""Changes to RTP packets on their way through a relay: another place in the sequence, another time, none at all."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence

from sentinel_pipeline.lab.rtsp_link import Packet

VIDEO_CLOCK_HZ = 90_000  # RTP clock of all video payload formats, RFC 3551 section 5
_SIZE_BYTES = 2  # the length in front of the packet
_SEQUENCE = slice(_SIZE_BYTES + 2, _SIZE_BYTES + 4)  # RFC 3550 section 5.1
_TIMESTAMP = slice(_SIZE_BYTES + 4, _SIZE_BYTES + 8)
_FRAME_TICKS = VIDEO_CLOCK_HZ // 25


def timestamp(packet: Packet) -> int:
    """Return the RTP timestamp."""
    return int.from_bytes(packet.sized[_TIMESTAMP], "big")


def moved(packet: Packet, *, sequence: int = 0, ticks: int = 0) -> Packet:
    """Return an RTP packet with its sequence number and its timestamp moved on; both wrap around."""
    data = bytearray(packet.sized)
    number = (int.from_bytes(data[_SEQUENCE], "big") + sequence) % 2**16
    data[_SEQUENCE] = number.to_bytes(2, "big")
    data[_TIMESTAMP] = ((timestamp(packet) + ticks) % 2**32).to_bytes(4, "big")
    return packet._replace(sized=bytes(data))


class Splice:
    """Joins the packets of several sources into one gapless stream, as a camera does that changes its settings."""

    def __init__(self) -> None:
        self._source: object = None
        self._sequence = self._ticks = 0  # what is added to the present source's packets
        self._last: Packet | None = None

    def join(self, source: object, packet: Packet) -> Packet:
        """Return the RTP packet as the one that follows the last one, whoever sent that."""
        if source is not self._source:
            self._begin(source, packet)
        self._last = moved(packet, sequence=self._sequence, ticks=self._ticks)
        return self._last

    def _begin(self, source: object, packet: Packet) -> None:
        self._source = source
        if self._last is None:
            return
        last, first = (int.from_bytes(each.sized[_SEQUENCE], "big") for each in (self._last, packet))
        self._sequence = last + 1 - first
        self._ticks = timestamp(self._last) + _FRAME_TICKS - timestamp(packet)


class Impairment:
    """What a bad line or a bad clock does to the packets of a path; the plain value does nothing.

    loss: share of RTP packets that get lost, in [0, 1]. burst_s: packets wait up to so long and then come all at once.
    ticks: what is added to every RTP timestamp.
    """

    def __init__(self, seed: str, *, loss: float = 0.0, burst_s: float = 0.0, ticks: int = 0) -> None:
        self.loss, self.burst_s, self.ticks = loss, burst_s, ticks
        self._chance = random.Random(seed)  # noqa: S311 - noise, the same in every run; no secret
        self._held: list[Packet] = []
        self._oldest = 0.0  # monotonic

    def apply(self, batch: Sequence[Packet]) -> Sequence[Packet]:
        """Return the packets that go out now."""
        if self.loss:
            batch = [packet for packet in batch if packet.rtcp or self._chance.random() >= self.loss]
        if self.ticks:
            batch = [packet if packet.rtcp else moved(packet, ticks=self.ticks) for packet in batch]
        return self._burst(batch) if self.burst_s else batch

    def _burst(self, batch: Sequence[Packet]) -> Sequence[Packet]:
        now = time.monotonic()
        if not self._held:
            self._oldest = now
        self._held += batch
        if now - self._oldest < self.burst_s:
            return ()
        released, self._held = self._held, []
        return released
