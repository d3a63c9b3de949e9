"""Packets on their way to an output: the queue, and the container for the pipe."""

from __future__ import annotations

import gc
import io
import threading
import weakref
from fractions import Fraction

import av
import pytest

from sentinel_pipeline.infrastructure.video.canvas import Canvas
from sentinel_pipeline.infrastructure.video.encoder import EncodedPacket, H264Encoder, StreamFormat
from sentinel_pipeline.infrastructure.video.nut_muxer import NutMuxer
from sentinel_pipeline.infrastructure.video.packet_queue import PacketQueue
from support.pictures import PlanarImage

FORMAT = StreamFormat("h264", (64, 64), Fraction(25))


def _packet(slot: int, keyframe: bool = False) -> EncodedPacket:
    return EncodedPacket(b"x", slot, keyframe, FORMAT)


def _held(queue: PacketQueue) -> list[int]:
    held = []
    while (packet := queue.get(0)) is not None:
        held.append(packet.pts_slot)
    return held


def test_queue_begins_with_a_keyframe() -> None:
    """Packets before the first keyframe are of no use: dropped, counted, and a keyframe is wanted."""
    queue = PacketQueue(10)
    queue.begin()
    assert queue.put(_packet(0))
    assert queue.put(_packet(1))
    assert not queue.put(_packet(2, keyframe=True))
    assert not queue.put(_packet(3))
    assert _held(queue) == [2, 3]
    assert queue.dropped == 2


def test_full_queue_loses_whole_groups() -> None:
    """After a drop nothing passes until the next keyframe, so a decoder never sees a hole inside a group."""
    queue = PacketQueue(3)
    queue.begin()
    for slot in range(4):
        wants = queue.put(_packet(slot, keyframe=slot == 0))
    assert wants
    assert queue.put(_packet(4))
    queue.put(_packet(5, keyframe=True))
    queue.put(_packet(6))
    assert _held(queue) == [5, 6]
    assert queue.dropped == 5


def test_closed_queue_drops_and_asks_for_nothing() -> None:
    """While the output is down packets are counted as dropped, and the encoder is left in peace."""
    queue = PacketQueue(3)
    assert not queue.put(_packet(0, keyframe=True))
    queue.begin()
    queue.put(_packet(1, keyframe=True))
    queue.end()
    assert not queue.put(_packet(2, keyframe=True))
    assert _held(queue) == []
    assert queue.dropped == 3


def test_wake_ends_a_wait() -> None:
    """An output that waits for packets can be stopped at once."""
    queue = PacketQueue(3)
    got: list[EncodedPacket | None] = []
    waiter = threading.Thread(target=lambda: got.append(queue.get(30)))
    waiter.start()
    queue.wake()
    waiter.join(5)
    assert got == [None]


@pytest.mark.parametrize("fps", [25, 29.97, 7.5])
def test_nut_keeps_timestamps_exactly(fps: float) -> None:
    """Slots, also with gaps, come out as exact multiples of 1/fps, counted from the first packet."""
    encoder, canvas = H264Encoder(320, 180, fps), Canvas(320, 180)
    muxer = NutMuxer(encoder.format)
    slots = [1000, 1001, 1002, 1005, 1006]
    pieces = []
    for slot in slots:
        for packet in encoder.encode(canvas.take(PlanarImage(320, 180))[0], slot):
            pieces.append(muxer.mux(packet))
    assert all(pieces), "each packet leaves at once"
    trailer = muxer.close()
    with av.open(io.BytesIO(b"".join([*pieces, trailer])), format="nut") as container:
        times = [frame.pts * frame.time_base for frame in container.decode(video=0)]
    tick = Fraction(1) / encoder.format.rate
    assert times == [(slot - 1000) * tick for slot in slots]
    assert muxer.close() == b""


def test_muxer_frees_its_container_at_once() -> None:
    """What a closed muxer held is freed with it, not whenever the garbage collector runs."""
    muxer = NutMuxer(H264Encoder(64, 48, 25).format)
    gone = weakref.ref(muxer)
    muxer.close()
    gc.disable()
    try:
        del muxer
        assert gone() is None
    finally:
        gc.enable()
