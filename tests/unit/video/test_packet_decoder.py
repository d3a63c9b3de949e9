"""Decoding key frames only while nothing moves, and going on from there: compared bit by bit with a full decode."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import av
import numpy as np
import pytest

from sentinel_pipeline.infrastructure.video import packet_decoder
from sentinel_pipeline.infrastructure.video.packet_decoder import Decoded, PacketDecoder, Received

GOP, PICTURES = 10, 60
KINDS = {
    "p": {"bf": "0", "tune": "zerolatency"},
    "b": {"bf": "2", "x264-params": "b-adapt=0"},
    "open-gop": {"bf": "2", "x264-params": "b-adapt=0:open-gop=1"},
}
Picture = tuple[int, bytes]


def clip(codec: str = "libx264", pix_fmt: str = "yuv420p", **options: str) -> bytes:
    """A moving square in noise, in NUT, with a key frame every ``GOP`` pictures; picture n has timestamp n."""
    noise, file = np.random.default_rng(3), io.BytesIO()
    with av.open(file, "w", format="nut") as container:
        stream: Any = container.add_stream(codec, rate=25)
        stream.width, stream.height, stream.pix_fmt = 96, 64, pix_fmt
        if codec == "libx264":
            fixed = {"preset": "veryfast", "sc_threshold": "0", "keyint_min": str(GOP)}
            stream.options, stream.gop_size = fixed | options, GOP
        for number in range(PICTURES):
            luma = noise.integers(90, 110, (64, 96), dtype=np.uint8)
            luma[10:40, number : number + 30] = 220
            planes = np.concatenate([luma.reshape(-1), np.full(64 * 96 // 2, 128, np.uint8)]).reshape(96, 96)
            frame = av.VideoFrame.from_ndarray(planes, format="yuv420p").reformat(format=pix_fmt)
            frame.pts = number
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return file.getvalue()


@pytest.fixture(scope="module")
def clips() -> dict[str, bytes]:
    return {kind: clip(**options) for kind, options in KINDS.items()}


@contextmanager
def packets(data: bytes) -> Iterator[tuple[Any, list[Received]]]:
    """Yield the decoder's context and all packets, the empty one at the end included; one every 40 ms."""
    with av.open(io.BytesIO(data)) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        read = [Received(packet, i / 25, i / 25) for i, packet in enumerate(container.demux(stream))]
        yield stream.codec_context, read


def delay(read: Sequence[Received]) -> int:
    """Timestamp of the first picture, in pictures: the first packet is a key frame."""
    first = read[0].packet
    return round(float(first.pts * first.time_base) * 25)  # type: ignore[operator]


def seen(pictures: Sequence[Decoded], delay: int) -> list[Picture]:
    """Number and content of each picture; the muxer moves timestamps up by the delay of B-frames."""
    return [(round((p.pts or 0) * 25) - delay, p.frame.to_ndarray(format="yuv420p").tobytes()) for p in pictures]


def everything(data: bytes) -> dict[int, bytes]:
    with packets(data) as (context, read):
        decoder = PacketDecoder(context)
        return dict(seen([picture for received in read for picture in decoder.decode(received)], delay(read)))


def run(data: bytes, idle: Callable[[int], bool], **options: Any) -> list[tuple[int, list[Picture]]]:
    """Decode with ``idle`` asked by the number of the packet; return what each packet gave."""
    with packets(data) as (context, read):
        now = [0]
        decoder = PacketDecoder(context, lambda: idle(now[0]), **options)
        given = []
        for now[0], received in enumerate(read):
            given.append((now[0], seen(decoder.decode(received), delay(read))))
        assert decoder.errors == 0
        return given


def flat(given: Sequence[tuple[int, list[Picture]]]) -> list[Picture]:
    return [picture for _, pictures in given for picture in pictures]


@pytest.mark.parametrize("kind", KINDS)
def test_packet_decoder_gives_every_picture_when_not_idle(kind: str, clips: dict[str, bytes]) -> None:
    """Without idling nothing is left out."""
    assert sorted(everything(clips[kind])) == list(range(PICTURES))


@pytest.mark.parametrize("kind", KINDS)
def test_packet_decoder_gives_key_frames_at_once_while_idle(kind: str, clips: dict[str, bytes]) -> None:
    """Idle from the start: each key frame's own packet yields it, whole, also where B-frames would hold it back."""
    full = everything(clips[kind])
    given = run(clips[kind], lambda _: True)
    assert [[number for number, _ in pictures] for _, pictures in given if pictures] == [
        [n] for n in range(0, PICTURES, GOP)
    ]
    assert all(full[number] == pixels for number, pixels in flat(given))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("wakes", [21, 23, 29, 30, 31])
def test_packet_decoder_goes_on_from_the_key_frame_without_smears(
    kind: str, wakes: int, clips: dict[str, bytes]
) -> None:
    """When motion is seen some packets after a key frame, every picture since that frame comes, bit by bit as in a
    full decode, once and in order, at the first packet after it was seen."""
    full = everything(clips[kind])
    given = run(clips[kind], lambda number: number < wakes)
    numbers = [number for number, _ in flat(given)]
    first = (wakes - 1) // GOP * GOP  # the last key frame before the wake-up
    awake = [number for number in numbers if number > first]
    if wakes % GOP:  # B-frames are decoded after the picture that follows them: packets are not in picture order
        assert awake == list(range(first + 1, PICTURES))
    else:  # the key frame's packet itself: an open group has B-frames before it that need the group left out
        assert set(awake) >= set(range(wakes, PICTURES))
    assert numbers == sorted(set(numbers))
    assert all(full[number] == pixels for number, pixels in flat(given))
    if kind == "p":
        assert [n for n, _ in dict(given)[wakes]] == list(range(first + 1 if wakes % GOP else wakes, wakes + 1))


@pytest.mark.parametrize("kind", KINDS)
def test_packet_decoder_becomes_idle_at_a_key_frame(kind: str, clips: dict[str, bytes]) -> None:
    """Asked to idle in mid-group, it finishes the group, hands out what the decoder held back, then thins out."""
    full = everything(clips[kind])
    given = run(clips[kind], lambda number: number >= 13)
    numbers = [number for number, _ in flat(given)]
    if kind == "open-gop":  # the B-frames before the key frame come after it in the stream, and are left out
        assert numbers[-4:] == [20, 30, 40, 50]
        assert set(range(18)) <= set(numbers)
    else:
        assert numbers == [*range(20), 20, 30, 40, 50]
    assert all(full[number] == pixels for number, pixels in flat(given))


def test_packet_decoder_waits_for_a_key_frame_when_too_much_has_passed(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is kept is bounded: behind that, decoding goes on with the next key frame, and not before."""
    long = clip(**KINDS["p"])
    monkeypatch.setattr(packet_decoder, "_KEPT", 4)
    given = run(long, lambda number: number < 26)
    assert [number for number, _ in flat(given)] == [0, 10, 20, *range(30, PICTURES)]


def test_packet_decoder_thins_out_pictures_that_are_all_key_frames() -> None:
    """An idle camera that sends MJPEG is decoded once a second, and fully from the first packet after that."""
    given = run(clip("mjpeg", "yuvj420p"), lambda number: number < 40, intra=True)
    assert [number for number, _ in flat(given)] == [0, 25, *range(40, PICTURES)]


def test_packet_decoder_survives_switching_with_every_packet(clips: dict[str, bytes]) -> None:
    """However often it is told otherwise, no picture comes twice, none goes back, and none is wrong."""
    coin = np.random.default_rng(11).integers(0, 2, PICTURES + 1)
    for data in clips.values():
        full, given = everything(data), flat(run(data, lambda number: bool(coin[number])))
        numbers = [number for number, _ in given]
        assert numbers == sorted(set(numbers))
        assert set(range(0, PICTURES, GOP)) <= set(numbers)
        assert all(full[number] == pixels for number, pixels in given)


def test_packet_decoder_counts_damage(clips: dict[str, bytes]) -> None:
    """Garbage in place of a packet is an error that is counted, idle or not, and no crash."""
    with packets(clips["p"]) as (context, read):
        decoder = PacketDecoder(context, lambda: True)
        broken: Any = av.Packet(b"\x00\x00\x00\x01\x65" + bytes(range(200)))
        broken.is_keyframe, broken.time_base = True, read[0].packet.time_base
        assert decoder.decode(read[0])
        assert decoder.decode(Received(broken, 1.0, 1.0)) == []
        assert decoder.errors > 0
        assert len(decoder.decode(read[10])) == 1
