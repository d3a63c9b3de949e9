"""The relay's two UDP sockets, one for RTP and one for RTCP, shared by all clients and told apart by their address."""

from __future__ import annotations

import asyncio
import socket
from dataclasses import dataclass

from sentinel_pipeline.lab.rtsp_link import Link, Packet

_PAIR_TRIES = 50  # a free even port whose neighbour is free as well is found at the first or second try
_BURST = 64  # datagrams read before other sockets get their turn
_MAX_DATAGRAM = 65535
_KERNEL_BUFFER_BYTES = 4 * 1024 * 1024  # the kernel cuts it down to net.core.rmem_max

Address = tuple[str, int]


@dataclass(frozen=True, slots=True, eq=False)
class Route:
    """Where datagrams from one address go."""

    receiver: Link
    track: int


class UdpPorts:
    """An even port for RTP and the next one for RTCP (RFC 3550 section 11). Lives in one event loop."""

    def __init__(self, family: int, host: str) -> None:
        """Bind. Raises ``OSError``."""
        self._sockets = _bind_pair(family, host)
        self._routes: tuple[dict[Address, Route], dict[Address, Route]] = ({}, {})
        self._received = bytearray(_MAX_DATAGRAM + 2)
        self.ports: tuple[int, int] = tuple(each.getsockname()[1] for each in self._sockets)

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Begin to read; asyncio's own datagram transport takes one datagram per turn of the loop, this one a burst."""
        for index, each in enumerate(self._sockets):
            loop.add_reader(each, self._readable, index)

    def close(self, loop: asyncio.AbstractEventLoop) -> None:
        """Stop reading and let go of both ports."""
        for each in self._sockets:
            if each.fileno() >= 0:
                loop.remove_reader(each)
                each.close()

    def add(self, host: str, ports: tuple[int, int], route: Route) -> None:
        """Let datagrams from these RTP and RTCP ports go to ``route``."""
        for routes, port in zip(self._routes, ports, strict=True):
            routes[host, port] = route

    def remove(self, receiver: Link) -> None:
        """Forget every route to ``receiver``."""
        for routes in self._routes:
            for address in [address for address, route in routes.items() if route.receiver is receiver]:
                del routes[address]

    def send(self, data: bytes, address: Address, *, rtcp: bool) -> bool:
        """Send one datagram; return False when the kernel had no room for it or no way to that address."""
        try:
            self._sockets[rtcp].sendto(data, address)
        except OSError:  # EAGAIN, EMSGSIZE, ENETUNREACH: all of them are a lost packet, as UDP has it
            return False
        return True

    def _readable(self, index: int) -> None:
        batches: dict[Route, list[Packet]] = {}
        view = memoryview(self._received)
        for _ in range(_BURST):
            try:
                size, address = self._sockets[index].recvfrom_into(view[2:])
            except BlockingIOError:
                break
            route = self._routes[index].get(address[:2])
            if route is not None:
                view[:2] = size.to_bytes(2, "big")
                packet = Packet(route.track, bool(index), bytes(view[: size + 2]))
                batches.setdefault(route, []).append(packet)
        for route, batch in batches.items():
            route.receiver.packets(batch)


def _bind_pair(family: int, host: str) -> tuple[socket.socket, socket.socket]:
    for _ in range(_PAIR_TRIES):
        rtp = _bind(family, host, 0)
        port = rtp.getsockname()[1]
        if port % 2 == 0:
            try:
                return rtp, _bind(family, host, port + 1)
            except OSError:
                rtp.close()  # the neighbour is taken: try elsewhere
                continue
        rtp.close()
    raise OSError("no two neighbouring UDP ports are free")


def _bind(family: int, host: str, port: int) -> socket.socket:
    made = socket.socket(family, socket.SOCK_DGRAM)
    try:
        made.settimeout(0)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _KERNEL_BUFFER_BYTES)
        made.bind((host, port))
    except OSError:
        made.close()
        raise
    return made
