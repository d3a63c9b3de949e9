"""One player of a path: where its packets go, and how they are cut off or dropped."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from sentinel_pipeline.lab.rtsp_link import Link, Packet
from sentinel_pipeline.lab.rtsp_udp import Address, UdpPorts


class Sink(Protocol):
    """Where the packets of one track go."""

    def send(self, packet: Packet) -> bool:
        """Queue a packet; return False when it had to be dropped."""
        ...

    def send_half(self, packet: Packet) -> None:
        """Send the first half of a packet, and keep the rest."""
        ...


class InterleavedSink:
    """Packets inside the RTSP connection. ``chunks``: what the player collects for one write."""

    def __init__(self, link: Link, channels: tuple[int, int], chunks: list[bytes]) -> None:
        self._link = link
        self._prefixes = tuple(bytes((0x24, channel)) for channel in channels)
        self._chunks = chunks

    def send(self, packet: Packet) -> bool:
        """Queue a packet; return False when the player is too slow."""
        if self._link.full:
            return False
        self._chunks.append(self._prefixes[packet.rtcp])
        self._chunks.append(packet.sized)
        return True

    def send_half(self, packet: Packet) -> None:
        """Send the first half of a packet, and keep the rest for ``let_go``: the framing survives."""
        framed = self._prefixes[packet.rtcp] + packet.sized
        middle = len(framed) // 2
        self._link.write(framed[:middle])
        self._link.hold_back(framed[middle:])


class UdpSink:
    """Packets as datagrams, to the player's RTP and RTCP ports."""

    def __init__(self, ports: UdpPorts, host: str, client_ports: tuple[int, int]) -> None:
        self._ports = ports
        self._addresses: tuple[Address, Address] = ((host, client_ports[0]), (host, client_ports[1]))

    def send(self, packet: Packet) -> bool:
        """Send a datagram; return False when the kernel had no room for it."""
        return self._ports.send(packet.sized[2:], self._addresses[packet.rtcp], rtcp=packet.rtcp)

    def send_half(self, packet: Packet) -> None:
        """Send the first half as a datagram; the rest is lost."""
        self._ports.send(packet.sized[2 : 2 + len(packet.sized) // 2], self._addresses[packet.rtcp], rtcp=packet.rtcp)


class Player:
    """Sends the packets of a path to one client."""

    def __init__(self, link: Link) -> None:
        self.link = link
        self.sinks: dict[int, Sink] = {}
        self.needs_keep_alive = False  # UDP only: a TCP player's connection itself tells that it is there
        self._chunks: list[bytes] = []
        self._cut = False

    def interleave(self, track: int, channels: tuple[int, int]) -> None:
        """Send ``track`` inside the RTSP connection."""
        self.sinks[track] = InterleavedSink(self.link, channels, self._chunks)

    def datagrams(self, track: int, ports: UdpPorts, host: str, client_ports: tuple[int, int]) -> None:
        """Send ``track`` over UDP."""
        self.sinks[track] = UdpSink(ports, host, client_ports)
        self.needs_keep_alive = True

    def deliver(self, batch: Sequence[Packet]) -> tuple[int, int]:
        """Send packets, with one write for all that are interleaved; return how many were sent and how many dropped."""
        sent = dropped = 0
        for packet in batch:
            sink = self.sinks.get(packet.track)
            if sink is None:
                continue  # this player did not set the track up
            if sink.send(packet):
                sent += 1
            else:
                dropped += 1
        if self._chunks:
            data = b"".join(self._chunks)
            self._chunks.clear()
            self.link.write(data)
        return sent, dropped

    def cut(self, packet: Packet) -> None:
        """Send half a packet, once; further calls do nothing until ``mend``."""
        sink = self.sinks.get(packet.track)
        if sink is not None and not self._cut:
            self._cut = True
            sink.send_half(packet)

    def mend(self) -> None:
        """Send the other half."""
        self._cut = False
        self.link.let_go()
