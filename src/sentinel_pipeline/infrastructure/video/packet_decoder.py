"""From packets to pictures: of every packet, or, while nothing moves, of key frames only."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import av
import av.error
from av.codec.context import Flags2
from av.packet import Packet
from av.video.stream import VideoStream

_KEPT = 50  # packets since the last key frame, a few of which are wanted when motion is seen in it
_INTRA_EVERY = 1.0  # seconds between two pictures of an idle camera that sends key frames only (MJPEG)


@dataclass(frozen=True, slots=True)
class Received:
    """A packet and when it came: monotonic and Unix seconds."""

    packet: Packet[VideoStream]
    at: float
    wall: float


@dataclass(frozen=True, slots=True)
class Decoded:
    """A picture. ``pts``: its timestamp in seconds, None when missing; ``decode_ms``: CPU time that it took."""

    frame: av.VideoFrame
    pts: float | None
    received_at: float  # monotonic
    received_wall: float  # Unix seconds
    decode_ms: float


class PacketDecoder:
    """Decodes the packets of one connection. One thread only.

    idle: asked before each packet; while it says True only key frames are decoded, beginning with the next one. Each is
    decoded on its own, with a drained decoder, so that it comes out at once also where the camera uses B-frames. The
    packets after it are kept for a while (``_KEPT``). When idling ends, that key frame and they are decoded before
    anything else, so that the decoder goes on with every reference picture that it needs: nothing is smeared, and the
    picture after the key frame in which motion was seen is not missing. Where too many packets have passed meanwhile,
    decoding goes on with the next key frame.

    intra: every picture is a key frame, marked or not.
    """

    def __init__(
        self, context: av.VideoCodecContext, idle: Callable[[], bool] = lambda: False, *, intra: bool = False
    ) -> None:
        self._context, self._idle, self._intra = context, idle, intra
        self._group: list[Received] | None = None  # what was kept while idle, its key frame first; None: decodes all
        self._keyed_at = float("-inf")
        self._shown: int | None = None  # timestamp of the key frame that was decoded last on its own
        self._repeats = False  # what comes out up to that timestamp has been handed out already
        self.errors = 0  # packets and pictures that were damaged and left out
        self._damaged = 0  # of these the pictures

    @property
    def idling(self) -> bool:
        """Whether packets are left out just now."""
        return self._group is not None

    def decode(self, received: Received) -> list[Decoded]:
        """Return the pictures that the packet yields; an empty packet, the last of a stream, yields what is left."""
        if not received.packet.size:
            return self._finish(received)
        if not self._idle():
            return self._pictures(received.packet, received) if self._group is None else self._catch_up(received)
        if not self._key(received):
            return self._skip(received)
        if self._group is None:
            held_back = self._pictures(None, received)
            self._context.flush_buffers()  # drained, it would take no more packets
            return held_back + self._alone(received)
        if self._intra and received.at - self._keyed_at < _INTRA_EVERY:
            return []
        return self._alone(received)

    def decode_early(self, received: Received) -> list[Decoded]:
        """Return the picture of an H.264 packet that is believed to be a whole access unit, or nothing.

        Nothing where the last macroblock row is missing or damaged: the whole packet may then be decoded as if nothing
        had been, if it was not cut off inside a NAL unit. Where ``errors`` has grown the decoder has left the picture
        out, and is done with it: later ones refer to it. For decoders that hold no pictures back.
        """
        errors, damaged = self.errors, self._damaged
        self._context.flags2 |= Flags2.chunks
        try:
            pictures = self._pictures(received.packet, received)
        finally:
            self._context.flags2 &= ~Flags2.chunks
        if not pictures and self._damaged == damaged:
            self.errors = errors
        return pictures

    def renew(self) -> None:
        """Go on with a fresh decoder that knows nothing but the parameter sets of the stream's description."""
        fresh = cast(av.VideoCodecContext, av.CodecContext.create(self._context.codec, "r"))
        fresh.extradata, fresh.thread_count = self._context.extradata, self._context.thread_count
        self._context = fresh

    @property
    def reorders(self) -> bool:
        """Whether the decoder holds pictures back to hand them out in order."""
        return self._context.has_b_frames

    def _key(self, received: Received) -> bool:
        return self._intra or received.packet.is_keyframe

    def _alone(self, received: Received) -> list[Decoded]:
        """Decode a key frame and nothing after it."""
        self._group, self._repeats, self._keyed_at = [received], False, received.at
        pictures = self._pictures(received.packet, received) + self._pictures(None, received)
        self._context.flush_buffers()
        self._shown = max((p.frame.pts for p in pictures if p.frame.pts is not None), default=None)
        return pictures

    def _skip(self, received: Received) -> list[Decoded]:
        """Take a packet that is no key frame while key frames are enough; up to the first of those all are decoded."""
        if self._group is None:
            return self._pictures(received.packet, received)
        if self._group and len(self._group) < _KEPT:
            self._group.append(received)
        else:
            self._group = []
        return []

    def _finish(self, received: Received) -> list[Decoded]:
        """Return what the decoder holds back at the end of the stream, behind which a file may start over."""
        rest = self._pictures(received.packet, received) if self._group is None else []
        self._group, self._repeats = None, False
        return rest

    def _catch_up(self, received: Received) -> list[Decoded]:
        """End idling: go on behind the last key frame, or, where that is too long ago, at the next one."""
        group, key = self._group or [], self._key(received)
        if not group and not key:
            return []
        self._group = None
        if key:
            return self._pictures(received.packet, received)
        self._repeats = True
        return [picture for each in (*group, received) for picture in self._pictures(each.packet, each)]

    def _pictures(self, packet: Packet[VideoStream] | None, received: Received) -> list[Decoded]:
        started = time.thread_time()
        try:
            frames = self._context.decode(packet)
        except av.error.FFmpegError as exc:
            self.errors += not isinstance(exc, av.error.EOFError)
            return []
        decode_ms = (time.thread_time() - started) * 1e3 / max(1, len(frames))
        if packet is None:
            for frame in frames:
                frame.time_base = received.packet.time_base  # what comes out of a drained decoder has none
        sound = [frame for frame in frames if not frame.is_corrupt]
        self._damaged += len(frames) - len(sound)
        self.errors += len(frames) - len(sound)
        return [
            Decoded(frame, frame.time, received.at, received.wall, decode_ms)
            for frame in sound
            if not self._repeated(frame)
        ]

    def _repeated(self, frame: av.VideoFrame) -> bool:
        """Return whether the picture was handed out before; without timestamps the key frame is the first one."""
        if not self._repeats:
            return False
        if frame.pts is None or self._shown is None:
            self._repeats = False
            return True
        self._repeats = frame.pts <= self._shown
        return self._repeats
