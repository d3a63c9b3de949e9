"""What sessions, paths and players need of a client's connection."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol


class Packet(NamedTuple):
    """One RTP or RTCP packet of a track. ``sized``: two bytes of length, then the packet (as interleaved in TCP)."""

    track: int
    rtcp: bool
    sized: bytes


class Link(Protocol):
    """One client's RTSP connection. No method blocks."""

    @property
    def peer(self) -> str:
        """The client's address, without its port."""
        ...

    @property
    def full(self) -> bool:
        """Whether the client is so slow that its write buffer has reached its bound."""
        ...

    def write(self, data: bytes) -> None:
        """Queue bytes."""
        ...

    def soon(self, work: Callable[[], None]) -> None:
        """Call ``work`` after the answer under way has been written."""
        ...

    def packets(self, batch: Sequence[Packet]) -> None:
        """Take packets that came from this client over UDP."""
        ...

    def hold_back(self, data: bytes) -> None:
        """Keep ``data``, and everything written later, until ``let_go``."""
        ...

    def let_go(self) -> None:
        """Send what was held back."""
        ...

    def stop_reading(self) -> None:
        """Let the client run into a full TCP window."""
        ...

    def go_on_reading(self) -> None:
        """Undo ``stop_reading``."""
        ...

    def close(self) -> None:
        """End the connection in order."""
        ...

    def reset(self) -> None:
        """End the connection with a TCP RST."""
        ...
