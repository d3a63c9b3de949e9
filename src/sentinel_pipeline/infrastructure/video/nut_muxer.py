"""Wraps encoded packets for the pipe to the copying child.

NUT because it keeps exact timestamps and needs no seeking; a bare H.264 stream would lose the timestamps.
"""

from __future__ import annotations

from fractions import Fraction

import av
import av.error

from sentinel_pipeline.domain.errors import PublishError
from sentinel_pipeline.infrastructure.video.encoder import EncodedPacket, StreamFormat


class NutMuxer:
    """Turns packets into bytes, at once and without I/O. One thread only; its first packet must be a keyframe.

    Timestamps begin at 0 with the first packet: the slots of a long-lived stream mean nothing to a new connection.
    """

    def __init__(self, stream_format: StreamFormat) -> None:
        self._tick = Fraction(1) / stream_format.rate
        self._first_slot: int | None = None
        self._out = _Bytes()
        # Without flush_packets the last packet would wait in a 32 KiB buffer for the next ones.
        self._container = av.open(self._out, "w", format="nut", options={"fflags": "+flush_packets"})
        width, height = stream_format.size
        self._stream = self._container.add_mux_stream(
            stream_format.codec, rate=stream_format.rate, width=width, height=height, time_base=self._tick
        )

    def mux(self, packet: EncodedPacket) -> bytes:
        """Return the bytes to send for ``packet``; the first ones include the header."""
        if self._first_slot is None:
            self._first_slot = packet.pts_slot
        wrapped = av.Packet(packet.data)
        wrapped.stream = self._stream
        wrapped.time_base = self._tick
        wrapped.pts = wrapped.dts = packet.pts_slot - self._first_slot
        wrapped.duration = 1
        wrapped.is_keyframe = packet.keyframe
        try:
            self._container.mux(wrapped)
        except (av.error.FFmpegError, ValueError) as exc:
            raise PublishError(f"a packet cannot be wrapped: {exc}") from exc
        return self._out.take()

    def close(self) -> bytes:
        """Return the trailer and let go of the library's buffers; may be called more than once."""
        self._container.close()
        return self._out.take()


class _Bytes:
    """What the library writes to. Not the muxer itself, which holds the container: neither would be freed in time."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []

    def write(self, data: bytes) -> int:
        self._parts.append(bytes(data))
        return len(data)

    def take(self) -> bytes:
        data = b"".join(self._parts)
        self._parts.clear()
        return data
