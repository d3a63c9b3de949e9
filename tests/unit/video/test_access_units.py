"""Access units put together from RTP packets, cut as packetisers cut them, compared with decoding them whole."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cache
from typing import Any

import av
import numpy as np
import pytest
from av.packet import Packet

from sentinel_pipeline.infrastructure.video.access_units import AccessUnit, AccessUnits
from sentinel_pipeline.infrastructure.video.packet_decoder import PacketDecoder, Received

_START = b"\0\0\0\1"
TICKS, FULL, PICTURES, GOP = 3600, 200, 60, 20
CLOCK = Fraction(1, 90_000)

Cut = Callable[[int], Sequence[int]]  # of the bytes of a NAL unit behind its header into fragments


def fixed(size: int) -> Sequence[int]:
    """As FFmpeg, GStreamer and live555 do it: full fragments, then the rest."""
    return [FULL] * (size // FULL) + [size % FULL] * (size % FULL > 0)


def balanced(size: int) -> Sequence[int]:
    """All fragments of about one size."""
    count = -(-size // FULL)
    return [size // count + (number < size % count) for number in range(count)]


@cache
def encoded(**options: str) -> tuple[bytes, ...]:
    """A moving square in noise as x264 writes it, an access unit each; no other process, one thread."""
    noise, encoder = np.random.default_rng(3), av.CodecContext.create("libx264", "w")
    encoder.width, encoder.height, encoder.pix_fmt, encoder.framerate = 96, 64, "yuv420p", 25
    encoder.gop_size, encoder.thread_count = GOP, 1
    fixed_options = {"preset": "ultrafast", "tune": "zerolatency", "forced-idr": "1", "sc_threshold": "0"}
    encoder.options = fixed_options | {name.replace("_", "-"): value for name, value in options.items()}
    packets: list[Packet[Any]] = []
    for number in range(PICTURES):
        luma = noise.integers(90, 130, (64, 96), dtype=np.uint8)
        luma[10:40, number : number + 30] = 220
        planes = np.concatenate([luma.reshape(-1), np.full(64 * 96 // 2, 128, np.uint8)]).reshape(96, 96)
        frame = av.VideoFrame.from_ndarray(planes, format="yuv420p")
        frame.pts = number
        packets += encoder.encode(frame)
    return tuple(bytes(packet) for packet in [*packets, *encoder.encode(None)])


def cut(unit: bytes, fragments: Cut = fixed) -> list[bytes]:
    """Return what FFmpeg's ``rtpdec_h264`` makes of the RTP packets of an access unit."""
    packets: list[bytes] = []
    for nal in unit.replace(_START, _START[1:]).split(_START[1:])[1:]:
        if len(nal) <= FULL + 2:
            packets.append(_START + nal)
            continue
        at, header = 1, _START + nal[:1]
        for size in fragments(len(nal) - 1):
            packets.append(header + nal[at : at + size])
            at, header = at + size, b""
    return packets


def glued(unit: bytes, between: bytes) -> list[bytes]:
    """Return the same of a camera that puts all of a key picture into one fragmented NAL unit, start codes included."""
    nals = unit.replace(_START, _START[1:]).split(_START[1:])[1:]
    joined = between.join(nals)
    at, header, packets = 1, _START + joined[:1], []
    for size in fixed(len(joined) - 1):
        packets.append(header + joined[at : at + size])
        at, header = at + size, b""
    return packets


def packet(data: bytes, pts: int | None) -> Packet[Any]:
    made: Packet[Any] = Packet(data)
    made.pts = made.dts = pts
    made.time_base = CLOCK
    return made


@dataclass
class Player:
    """Decodes as ``PyAVSource`` does, and notes when each picture came out."""

    early: bool = True
    pictures: list[tuple[int | None, bytes]] = field(default_factory=list)
    tried: list[AccessUnit] = field(default_factory=list)
    spoiled: int = 0
    keyed: bool = True
    keys: list[int | None] = field(default_factory=list)

    def __post_init__(self) -> None:
        context: Any = av.CodecContext.create("h264", "r")
        context.thread_count = 1
        self.decoder = PacketDecoder(context)
        self.units = AccessUnits(b"", lambda: not self.early or self.decoder.reorders)

    def feed(self, data: bytes, pts: int | None) -> int:
        """Return how many pictures came out."""
        before = len(self.pictures)
        for unit in self.units.feed(packet(data, pts)):
            errors = self.decoder.errors
            unit.shown = self._decode(unit)
            unit.damaged = self.decoder.errors > errors
        return len(self.pictures) - before

    def _decode(self, unit: AccessUnit) -> bool:
        if unit.spoiled:
            self.spoiled, self.keyed = self.spoiled + 1, False
            self.decoder.renew()
        if unit.packet.is_keyframe:
            self.keyed = True
            self.keys.append(unit.packet.pts)
        if unit.packet.size and not self.keyed:
            return False
        received = Received(unit.packet, 0.0, 0.0)
        if unit.early:
            self.tried.append(unit)
        decoded = self.decoder.decode_early(received) if unit.early else self.decoder.decode(received)
        self.pictures += [(each.frame.pts, each.frame.to_ndarray().tobytes()) for each in decoded]
        return bool(decoded)

    def prompt(self, units: Sequence[bytes]) -> set[int]:
        """Play all and return the numbers of the pictures that came out with their own last packet."""
        came = [(number, last, self.feed(data, number * TICKS)) for number, data, last in by_packet(units)]
        self.feed(b"", None)
        return {number for number, last, pictures in came if last and pictures}

    def play(self, units: Sequence[bytes], fragments: Cut = fixed) -> Player:
        for number, unit in enumerate(units):
            for data in cut(unit, fragments):
                self.feed(data, number * TICKS)
        self.feed(b"", None)
        return self


def whole(units: Sequence[bytes]) -> list[tuple[int | None, bytes]]:
    """Return the pictures of a decoder that is given whole access units."""
    context: Any = av.CodecContext.create("h264", "r")
    context.thread_count = 1
    decoder = PacketDecoder(context)
    received = [Received(packet(unit, number * TICKS), 0.0, 0.0) for number, unit in enumerate(units)]
    received.append(Received(packet(b"", None), 0.0, 0.0))
    decoded = [picture for each in received for picture in decoder.decode(each)]
    return [(each.frame.pts, each.frame.to_ndarray().tobytes()) for each in decoded]


def by_packet(units: Sequence[bytes]) -> Iterator[tuple[int, bytes, bool]]:
    for number, unit in enumerate(units):
        packets = cut(unit)
        for position, data in enumerate(packets):
            yield number, data, position == len(packets) - 1


KINDS = {
    "one slice": {},
    "cabac": {"preset": "fast"},
    "delimiters": {"x264_params": "aud=1"},
    "no IDR but recovery points": {"x264_params": "open-gop=1"},
    "intra refresh": {"x264_params": "intra-refresh=1"},
}


@pytest.mark.parametrize("kind", KINDS)
def test_picture_comes_with_its_last_packet(kind: str) -> None:
    """From the first key frame on each picture is out before a packet of the next one, unless its end is full."""
    units, player = encoded(**KINDS[kind]), Player()
    assert player.prompt(units) == {number for number, unit in enumerate(units) if len(cut(unit)[-1]) != FULL}
    assert player.pictures == whole(units)
    assert len(player.keys) >= 1


@pytest.mark.parametrize("between", [_START, _START[1:]], ids=["four bytes", "three bytes"])
@pytest.mark.parametrize("options", [{}, {"preset": "fast"}, {"preset": "fast", "x264_params": "slices=2"}])
@pytest.mark.parametrize("padding", [0, *range(FULL - 5, FULL + 5)])
def test_key_pictures_with_start_codes_inside_are_whole(options: dict[str, str], between: bytes, padding: int) -> None:
    """Cameras that pack parameter sets and slices into one fragmented unit are read, wherever the key slice begins."""
    units, player = encoded(**options), Player(keyed=False)
    filler = _START + b"\x06\x05" + bytes([padding]) + b"\x55" * padding + b"\x80"  # user data
    for number, unit in enumerate(units):
        key = number % GOP == 0
        for data in glued(filler * (padding > 0) + unit, between) if key else cut(unit):
            player.feed(data, number * TICKS)
    player.feed(b"", None)
    assert player.pictures == whole(units)
    assert set(player.keys) == {number * TICKS for number in range(0, PICTURES, GOP)}
    assert player.decoder.errors == 0
    looks_whole = between == _START and padding == FULL - 3  # a fragment that begins with a start code
    assert player.spoiled <= looks_whole
    assert player.tried


def test_recovery_points_are_key_frames() -> None:
    """A stream without IDR pictures is entered where FFmpeg's parser would: at a recovery point."""
    units = encoded(x264_params="intra-refresh=1")
    player = Player().play(units[GOP // 2 :])
    assert player.keys[0] == GOP // 2 * TICKS
    assert len(player.keys) == 2


@pytest.mark.parametrize("slices", ["2", "4"])
def test_picture_of_several_slices_comes_with_the_last_one(slices: str) -> None:
    """After a second, in which the number of slices was the same, pictures are out with their last packet, unbroken."""
    units, player = encoded(preset="fast", x264_params=f"slices={slices}"), Player()
    assert len(player.prompt(units)) >= PICTURES - 30
    assert player.pictures == whole(units)
    assert sum(not unit.shown for unit in player.tried) == 1, "the first slice of the first picture"


@pytest.mark.parametrize(
    "options",
    [
        {"tune": "film", "bf": "2", "x264_params": "b-adapt=0"},
        {"preset": "fast", "x264_params": "interlaced=1"},
        {"x264_params": "slice-max-size=150"},
    ],
    ids=["reordered", "fields", "any number of slices"],
)
@pytest.mark.parametrize("fragments", [fixed, balanced])
def test_what_cannot_be_known_is_left_alone(options: dict[str, str], fragments: Cut) -> None:
    """Pictures to be reordered, possible fields and changing slices come as behind the parser, and all of them."""
    player = Player().play(encoded(**options), fragments)
    assert player.pictures == whole(encoded(**options))
    assert len(player.tried) <= 2


def test_fragments_of_one_size_do_not_tear_pictures() -> None:
    """A packetiser that shares a picture out evenly is believed once: a fresh decoder goes on, no pixel is wrong."""
    player = Player().play(encoded(), balanced)
    assert player.pictures == whole(encoded())
    assert (len(player.tried), player.spoiled) == (1, 1)


def test_decoder_that_was_given_half_a_slice_is_not_used_again() -> None:
    """When fragments change for one picture those up to the next key frame are left out: they would be wrong."""
    units = encoded()
    changed = GOP + 5
    player = Player()
    for number, unit in enumerate(units):
        for data in cut(unit, balanced if number == changed else fixed):
            player.feed(data, number * TICKS)
    player.feed(b"", None)
    expected = whole(units)
    assert player.pictures == expected[:changed] + expected[2 * GOP :]
    assert player.spoiled == 1
    assert not any((unit.packet.pts or 0) > changed * TICKS for unit in player.tried), "it is not believed again"


def test_slices_that_are_shared_out_evenly_all_of_a_sudden_are_noticed_in_time() -> None:
    """The first slice shows that fragments are no longer what they were, before half of the last one is decoded."""
    units, player = encoded(preset="fast", x264_params="slices=4"), Player()
    for number, unit in enumerate(units):
        for data in cut(unit, fixed if number < 2 * GOP else balanced):
            player.feed(data, number * TICKS)
    player.feed(b"", None)
    assert sum(unit.shown for unit in player.tried) > 5
    assert player.pictures == whole(units)
    assert player.spoiled == 0


def test_picture_with_more_slices_than_the_last_is_decoded_again() -> None:
    """That the first slice of a P picture was taken for all of it leaves nothing behind in the decoder."""
    units, player = encoded(preset="fast", x264_params="slices=2"), Player()
    player.units._slices = {True: 2, False: 1}  # as if earlier P pictures had had one
    player.play(units)
    assert player.pictures == whole(units)
    failed = [unit.packet.pts for unit in player.tried if not unit.shown]
    assert failed == [TICKS], "the first P picture"


@pytest.mark.parametrize("more", [False, True])
def test_picture_that_a_decoder_keeps_for_later_is_not_decoded_again(more: bool) -> None:
    """A decoder that begins to reorder has the picture, unless there was more of it: then a fresh one takes it all."""
    reorders = False
    units = AccessUnits(b"", lambda: reorders)
    first, second = encoded()[:2]
    packets = [packet(data, 0) for data in cut(first)]
    [tried] = [unit for each in packets for unit in units.feed(each)]
    assert tried.early
    reorders = True
    if more:
        assert not list(units.feed(packet(_START + b"\x65\x01" + bytes(8), 0)))
    after = list(units.feed(packet(cut(second)[0], TICKS)))
    assert [(unit.again, unit.spoiled) for unit in after] == [(True, True)] * more


def compared(
    units: Sequence[bytes], seed: int, lost: Callable[[int, float, bool], bool]
) -> tuple[Player, list[tuple[int, float]]]:
    """Play with losses, with and without tries, which must not differ else.

    lost: by the picture's number, chance, and whether it is the picture's last packet.

    Return for each picture its number and how much further from the truth, in grey levels, it is with tries.
    """
    players = Player(early=True), Player(early=False)
    for player in players:
        chance = random.Random(seed)
        for number, data, last in by_packet(units):
            if not lost(number, chance.random(), last):
                player.feed(data, number * TICKS)
        player.feed(b"", None)
    ours, theirs = players
    assert [pts for pts, _ in ours.pictures] == [pts for pts, _ in theirs.pictures]
    assert ours.decoder.errors == theirs.decoder.errors
    assert ours.spoiled == 0
    truth = dict(whole(units))
    pairs = zip(ours.pictures, theirs.pictures, strict=True)
    return ours, [((pts or 0) // TICKS, off(a, truth[pts]) - off(b, truth[pts])) for (pts, a), (_, b) in pairs]


def off(picture: bytes, truth: bytes) -> float:
    pixels, true = (np.frombuffer(each, np.uint8).astype(int) for each in (picture, truth))
    return float(np.abs(pixels - true).mean())


DAMAGED = [
    {"preset": "fast", "x264_params": "slices=1"},
    {"preset": "fast", "x264_params": "slices=4"},
    {"preset": "fast", "x264_params": "cabac=0:slices=8"},
    {"preset": "slow", "x264_params": "ref=4:bframes=0"},
]


@pytest.mark.parametrize("loss", [0.005, 0.05])
@pytest.mark.parametrize("options", DAMAGED, ids=str)
def test_lost_packets_cost_no_more_pictures(loss: float, options: dict[str, str]) -> None:
    """Where packets are lost as many pictures come, at the same times, as sound as without tries, as many damaged."""
    units = encoded(**options)
    failed = 0
    for seed in range(6):
        ours, worse = compared(units, seed, lambda number, chance, _: number % GOP != 0 and chance < loss)
        failed += sum(not unit.shown for unit in ours.tried)
        assert max(by for _, by in worse) < 0.5
    assert failed > 0


@pytest.mark.parametrize("options", DAMAGED, ids=str)
def test_key_picture_is_not_tried_where_pictures_were_damaged(options: dict[str, str]) -> None:
    """Tried in vain it would be concealed without the picture before it, and smear all up to the next key picture."""
    units, first, key = encoded(**options), 5, 2 * GOP
    both = 0
    for seed in range(6):
        ours, worse = compared(
            units, seed, lambda number, chance, last: (number == first and last) or (number == key and chance < 0.1)
        )
        assert first not in dict(worse), "damaged"
        assert key * TICKS not in [unit.packet.pts for unit in ours.tried]
        assert max(by for _, by in worse) < 2.0, "11 and more where it is tried"
        both += key not in dict(worse)
    assert both > 0


@pytest.mark.parametrize("stamp", [0, None])
def test_slices_show_where_a_picture_begins_when_timestamps_do_not(stamp: int | None) -> None:
    """A camera whose timestamps stand still is read all the same."""
    player = Player()
    for _, data, _ in by_packet(encoded()):
        player.feed(data, stamp)
    player.feed(b"", None)
    assert [picture for _, picture in player.pictures] == [picture for _, picture in whole(encoded())]


def test_parameter_sets_with_a_timestamp_of_their_own_belong_to_the_next_picture() -> None:
    """They are decoded with the picture behind them, at its time, and are no access unit."""
    player = Player()
    for number, data, _ in by_packet(encoded()):
        parameters = data.startswith(_START) and data[4] & 0x1F in (6, 7, 8)
        player.feed(data, number * TICKS - parameters)
    player.feed(b"", None)
    assert player.pictures == whole(encoded())
    assert player.decoder.errors == 0


def test_garbage_does_not_grow_for_ever() -> None:
    """Packets in which no picture ever begins are given to the decoder now and then, not kept."""
    units = AccessUnits(b"", lambda: False)
    given = [unit for _ in range(40_000) for unit in units.feed(packet(b"\x55" * 8, 0))]
    assert len(given) == 2
