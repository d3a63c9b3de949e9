"""Changes to RTP packets on their way through the relay."""

from __future__ import annotations

from sentinel_pipeline.lab.rtp_rewriting import Impairment, Splice, moved, timestamp
from sentinel_pipeline.lab.rtsp_link import Packet


def packet(sequence: int, ticks: int, *, rtcp: bool = False) -> Packet:
    body = bytes((0x80, 96)) + sequence.to_bytes(2, "big") + ticks.to_bytes(4, "big") + bytes(8)
    return Packet(0, rtcp, len(body).to_bytes(2, "big") + body)


def numbers(each: Packet) -> tuple[int, int]:
    return int.from_bytes(each.sized[4:6], "big"), timestamp(each)


def test_rtp_packets_move_around_the_wrap() -> None:
    """Sequence number and timestamp wrap at 16 and 32 bits; nothing else changes."""
    before = packet(65_535, 2**32 - 1)
    after = moved(before, sequence=2, ticks=11)
    assert numbers(after) == (1, 10)
    assert after.sized[:4] + after.sized[10:] == before.sized[:4] + before.sized[10:]


def test_rtp_splice_joins_sources_without_a_gap() -> None:
    """Another source's packets follow the last one as if one camera had sent both, there and back."""
    splice = Splice()
    one, two = object(), object()
    seen = [splice.join(one, packet(100, 1000)), splice.join(two, packet(7, 50)), splice.join(two, packet(8, 3650))]
    seen.append(splice.join(one, packet(200, 90_000)))
    assert [numbers(each)[0] for each in seen] == [100, 101, 102, 103]
    assert [numbers(each)[1] for each in seen] == [1000, 4600, 8200, 11_800]


def test_rtp_impairment_loses_a_share_and_no_report() -> None:
    """Half of a thousand packets are gone, RTCP is not; the same path loses the same ones in every run."""
    batch = [packet(n, n) for n in range(1000)] + [packet(0, 0, rtcp=True)]
    left = Impairment("cam", loss=0.5).apply(batch)
    assert 400 < len(left) < 600
    assert left[-1].rtcp
    assert left == Impairment("cam", loss=0.5).apply(batch)


def test_rtp_impairment_jumps_and_bursts() -> None:
    """A jump moves timestamps only; a burst holds packets until its time is over, and a plain one changes nothing."""
    assert numbers(Impairment("cam", ticks=90_000).apply([packet(5, 10)])[0]) == (5, 90_010)
    slow = Impairment("cam", burst_s=3600)
    assert list(slow.apply([packet(1, 1)])) == []
    slow.burst_s = 1e-9
    assert [numbers(each)[0] for each in slow.apply([packet(2, 2)])] == [1, 2]
    batch = [packet(1, 1)]
    assert Impairment("cam").apply(batch) is batch
