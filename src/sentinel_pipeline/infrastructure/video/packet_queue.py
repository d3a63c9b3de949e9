"""The hand-over from the encoder to one output: bounded, and never with a hole inside a group of pictures."""

from __future__ import annotations

from collections import deque
from threading import Condition

from sentinel_pipeline.infrastructure.video.encoder import EncodedPacket


class PacketQueue:
    """Newest-first hand-over of packets; ``put`` never blocks. Safe between threads.

    A packet is of no use without all packets since the keyframe before it. So a full queue loses everything it holds,
    and what follows up to the next keyframe; all of it counts as dropped.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._items: deque[EncodedPacket] = deque()
        self._changed = Condition()
        self._needs_keyframe = True
        self._open = False
        self._woken = False
        self.dropped = 0

    def put(self, packet: EncodedPacket) -> bool:
        """Hand a packet over. Return whether the queue now waits for a keyframe, which the encoder should be told."""
        with self._changed:
            if not self._open:
                self.dropped += 1
                return False
            if len(self._items) >= self._size:
                self._lose_all()
            if self._needs_keyframe and not packet.keyframe:
                self.dropped += 1
                return True
            self._needs_keyframe = False
            self._items.append(packet)
            self._changed.notify()
            return False

    def get(self, timeout: float) -> EncodedPacket | None:
        """Wait for the next packet; None when the time is over or ``wake`` was called."""
        with self._changed:
            self._changed.wait_for(lambda: self._items or self._woken, timeout)
            return self._items.popleft() if self._items and not self._woken else None

    def begin(self) -> None:
        """Take packets from the next keyframe on."""
        with self._changed:
            self._lose_all()
            self._open = True

    def end(self) -> None:
        """Take no packets any more and forget those held: they are too old for whoever comes next."""
        with self._changed:
            self._lose_all()
            self._open = False

    def wake(self) -> None:
        """Let ``get`` return None from now on."""
        with self._changed:
            self._woken = True
            self._changed.notify_all()

    def _lose_all(self) -> None:
        self.dropped += len(self._items)
        self._items.clear()
        self._needs_keyframe = True
