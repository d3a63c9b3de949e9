"""The few fields of H.264 headers that say how access units may be put together (ITU-T H.264, clauses 7.3 and 9.1)."""

from __future__ import annotations

_RECOVERY_POINT = 6  # SEI payload type, annex D.1
_MORE_CHROMA = frozenset({100, 110, 122, 244, 44, 83, 86, 118, 128})  # profiles whose SPS has these fields
_4_4_4 = 3


def progressive(sps: bytes) -> bool:
    """Return whether the sequence has frames only, so that a picture is never two fields; False where unknown.

    ``sps``: the NAL unit without its start code. Scaling matrices, which cameras don't send, count as unknown.
    """
    try:
        return _frame_mbs_only(_Bits(_unescaped(sps[1:])))
    except IndexError:
        return False


def recovery_point(sei: bytes) -> bool:
    """Return whether decoding can begin at the picture behind this SEI message, as in streams without IDR pictures.

    ``sei``: the NAL unit without its start code.
    """
    payload, at = _unescaped(sei), 1
    while at + 2 < len(payload):  # the last byte has the trailing bits
        numbers = [0, 0]
        for which in range(2):
            while at < len(payload) - 1 and payload[at] == 0xFF:
                numbers[which], at = numbers[which] + 0xFF, at + 1
            numbers[which], at = numbers[which] + payload[at], at + 1
        kind, size = numbers
        if kind == _RECOVERY_POINT:
            return True
        at += size
    return False


def _frame_mbs_only(bits: _Bits) -> bool:
    profile = bits.fixed(8)
    bits.fixed(16)  # constraints, level
    bits.golomb()
    if profile in _MORE_CHROMA:
        if bits.golomb() == _4_4_4:
            bits.fixed(1)
        bits.golomb(), bits.golomb(), bits.fixed(1)
        if bits.fixed(1):
            return False  # scaling matrices
    bits.golomb()  # log2_max_frame_num
    order = bits.golomb()
    if order == 0:
        bits.golomb()
    elif order == 1:
        bits.fixed(1), bits.golomb(), bits.golomb()
        for _ in range(bits.golomb()):
            bits.golomb()
    bits.golomb(), bits.fixed(1), bits.golomb(), bits.golomb()  # references, gaps, width, height
    return bits.fixed(1) == 1


class _Bits:
    """Reads bits, most significant first; behind the end raises ``IndexError``."""

    def __init__(self, data: bytes) -> None:
        self._number, self._left = int.from_bytes(data, "big"), len(data) * 8

    def fixed(self, count: int) -> int:
        if count > self._left:
            raise IndexError
        self._left -= count
        return (self._number >> self._left) & ((1 << count) - 1)

    def golomb(self) -> int:
        """Return an Exp-Golomb number; signed ones are of the same length, and their values are not wanted."""
        zeros = 0
        while not self.fixed(1):
            zeros += 1
        return (1 << zeros) - 1 + self.fixed(zeros)


def _unescaped(nal: bytes) -> bytes:
    return nal.replace(b"\0\0\3", b"\0\0")
