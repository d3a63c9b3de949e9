"""Puts H.264 access units together from RTP packets without waiting for the next picture to begin.

FFmpeg's parser knows that an access unit is over when the next one begins: one frame late. Opened with
``fflags=noparse``, FFmpeg hands over what it makes of each RTP packet: with a start code where a NAL unit begins,
without one where a fragment goes on. It keeps the RTP marker and the FU-A end bit (RFC 6184 section 5.8) to itself. But
a packetiser cuts a NAL unit into fragments of one size, and what remains is shorter: a packet of any other size ends
its NAL unit. So an access unit is believed to be complete when it has as many slices as the last one and no packet of
full size at its end, and is then tried: with ``AV_CODEC_FLAG2_CHUNKS`` the decoder hands out a picture only when its
last macroblock row has been decoded, so a belief that was wrong shows no torn picture. What is not shown by then is
decoded when the next access unit begins, as behind the parser.

Some cameras (V380) put parameter sets and a key picture, start codes included, into one fragmented NAL unit: of such a
packet what begins last is what the next one goes on with.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import cast

from av.packet import Packet
from av.video.stream import VideoStream

from sentinel_pipeline.infrastructure.video.h264_headers import progressive, recovery_point

_START = b"\0\0\0\1"  # what rtpdec_h264 puts before each NAL unit
_PREFIX = b"\0\0\1"  # what cameras may put between NAL units; does not occur inside of one (clause 7.4.1)
_FIRST = len(_START) + 1  # bytes that a first fragment has more than its RTP payload carries of the NAL unit
_SLICE, _IDR, _SEI, _SPS = 1, 5, 6, 7
_SLICES = frozenset({_SLICE, _IDR})
_BEGINNERS = frozenset({6, 7, 8, 9, 14, 15, 16, 17, 18})  # behind a slice they begin an access unit, clause 7.4.1.2.3
_PROBATION = 25  # access units without surprise, after one that was not as believed
_LONGEST = 1 << 14  # packets: garbage may never end an access unit


class _State(enum.Enum):
    GATHERED = enum.auto()
    TRIED = enum.auto()
    OVER = enum.auto()  # for the decoder: it has shown the picture, or left it out as damaged


@dataclass(slots=True)
class AccessUnit:
    """A packet for the decoder.

    early: the access unit is believed to be complete. Decode it as a chunk; if that shows no picture it comes again.
    again: it was tried before.
    spoiled: the decoder was given half a NAL unit of it and must not be used any more: rests of that macroblock would
    be added to the next picture.
    shown, damaged: to be set by who decodes: whether a picture came out, and whether damage was counted. An early one
    that is damaged, as packets were lost, does not come again: the decoder would have it among its references twice.
    """

    packet: Packet[VideoStream]
    early: bool = False
    again: bool = False
    spoiled: bool = False
    shown: bool = False
    damaged: bool = False


class AccessUnits:
    """Gathers the packets of one connection, in the order in which they come.

    extradata: parameter sets of the stream's description. reorders: whether the decoder holds pictures back to reorder
    them; then, and where pictures may be fields, nothing is tried early.
    """

    def __init__(self, extradata: bytes, reorders: Callable[[], bool]) -> None:
        self._reorders = reorders
        self._progressive, self._sps = False, b""
        self._fragment = 0  # bytes of a NAL unit that a full fragment carries; 0: none seen yet
        self._slices = {True: 1, False: 1}  # of a key picture, of another
        self._flows = False  # the last access unit gave a picture
        self._probation = 0
        self._trying = True
        self._lossy = False  # something was damaged: IDR pictures are not tried any more
        self._clear()
        for nal in _begun(extradata):
            if nal and nal[0] & 0x1F == _SPS:
                self._look_at_sps(nal)

    def feed(self, packet: Packet[VideoStream]) -> Iterator[AccessUnit]:
        """Yield what is to be decoded now that ``packet`` has come; an empty one, the last, ends what is left."""
        data = bytes(packet)
        if self._parts and (not data or self._ended_by(packet, data)):
            yield from self._finish()
        if not data:
            yield AccessUnit(packet)
            return
        self._add(packet, data)
        if self._complete():
            unit = AccessUnit(self._joined(), early=True)
            yield unit
            self._state = _State.OVER if unit.shown or unit.damaged else _State.TRIED
            self._flows, self._tried = unit.shown, self._count
            self._learn_damage(unit)

    def _ended_by(self, packet: Packet[VideoStream], data: bytes) -> bool:
        if not self._count or len(self._parts) >= _LONGEST:
            return len(self._parts) >= _LONGEST  # what comes before a picture belongs to it, whatever its timestamp
        if packet.pts != self._pts:
            return True
        if not data.startswith(_START):
            return False
        kind = data[4] & 0x1F
        return kind in _BEGINNERS or (kind in _SLICES and len(data) > _FIRST and data[5] >= 0x80)  # first_mb_in_slice 0

    def _finish(self) -> Iterator[AccessUnit]:
        """Yield the access unit that is over, unless it was shown; learn from it."""
        more = self._torn or self._count != self._tried  # than was tried
        again = self._state is _State.TRIED
        kept = again and self._reorders()  # it does so since then, and may keep the picture to itself
        if self._state is not _State.OVER and (more or not kept):
            unit = AccessUnit(self._joined(), again=again, spoiled=self._torn or kept)
            yield unit
            self._flows = unit.shown
            self._surprised |= again
            self._learn_damage(unit)
        self._surprised |= self._count != self._slices[self._key]
        self._slices[self._key] = self._count
        self._trying = self._trying and not self._torn
        self._probation = _PROBATION if self._surprised else max(0, self._probation - 1)
        self._clear()

    def _learn_damage(self, unit: AccessUnit) -> None:
        self._surprised |= unit.early and unit.damaged
        self._lossy |= unit.damaged

    def _clear(self) -> None:
        self._parts: list[bytes] = []
        self._pts: int | None = None
        self._dts: int | None = None
        self._count = 0  # slices
        self._tried = 0  # slices that were there when it was tried
        self._key = self._idr = False
        self._state = _State.GATHERED
        self._head = 0  # bytes of a slice that its first packet carries; 0: the last packet did not begin a slice
        self._whole = False  # the last packet ended its NAL unit
        self._surprised = self._torn = False

    def _add(self, packet: Packet[VideoStream], data: bytes) -> None:
        if not self._count:
            self._pts, self._dts, self._time_base = packet.pts, packet.dts, packet.time_base
        if data.startswith(_START):
            self._begin_units(_begun(data), len(data) - _FIRST)
        elif self._head:
            self._go_on(data)
        elif self._parts:  # a slice may begin in what goes on, behind long parameter sets
            self._begin_units(_begun(self._parts[-1][-len(_PREFIX) :] + data), len(data))
        self._parts.append(data)

    def _begin_units(self, nals: Sequence[bytes], carried: int) -> None:
        """Look at NAL units that begin in a packet of ``carried`` payload bytes, the last of which may go on."""
        kind = 0
        for nal in nals:  # several come in one aggregation packet
            kind = nal[0] & 0x1F if nal else 0
            if kind in _SLICES:
                self._count += 1
                self._idr |= kind == _IDR
                self._key |= self._idr
            elif kind == _SEI:
                self._key |= recovery_point(nal)
            elif kind == _SPS:
                self._look_at_sps(nal)
        self._head = carried if kind in _SLICES else 0
        self._whole = not self._head or self._head != self._fragment

    def _go_on(self, data: bytes) -> None:
        if self._fragment and self._whole:  # it was not the end, after all
            self._surprised = True
            self._torn |= self._state is _State.TRIED
            self._fragment = 0
        self._fragment = self._fragment or self._head
        self._whole = len(data) != self._fragment

    def _look_at_sps(self, nal: bytes) -> None:
        if nal != self._sps:
            self._progressive, self._sps = progressive(nal), nal

    def _complete(self) -> bool:
        return (
            self._whole
            and self._fragment > 0
            and self._state is _State.GATHERED
            and 0 < self._slices[self._key] <= self._count
            and self._trying
            and not self._probation
            and not self._surprised
            and (self._flows or self._idr)
            and not (self._lossy and self._idr)  # tried in vain it is concealed without the picture before it
            and self._progressive
            and not self._reorders()
        )

    def _joined(self) -> Packet[VideoStream]:
        packet = cast("Packet[VideoStream]", Packet(b"".join(self._parts)))
        packet.pts, packet.dts, packet.time_base = self._pts, self._dts, self._time_base
        packet.is_keyframe = self._key
        return packet


def _begun(data: bytes) -> list[bytes]:
    """Return the NAL units that begin in ``data``, without start codes; what is before the first is left out."""
    # No NAL unit ends with a zero: that belongs to a start code of four bytes.
    return [nal.rstrip(b"\0") for nal in data.split(_PREFIX)[1:]]
