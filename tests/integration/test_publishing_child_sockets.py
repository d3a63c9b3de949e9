"""The child's connections send at once: small pieces do not wait for the receiver's acknowledgement."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from sentinel_pipeline.infrastructure.video import child_sockets, ffmpeg_child
from sentinel_pipeline.infrastructure.video.canvas import Canvas
from sentinel_pipeline.infrastructure.video.child_sockets import send_at_once, tcp_sockets
from sentinel_pipeline.infrastructure.video.encoder import EncodedPacket, H264Encoder
from sentinel_pipeline.infrastructure.video.ffmpeg_child import FFmpegChild
from sentinel_pipeline.infrastructure.video.ffmpeg_command import copy_command
from sentinel_pipeline.infrastructure.video.packet_output import PacketOutput
from sentinel_pipeline.lab.rtsp_relay import RtspRelay
from support.pictures import PlanarImage, encoded_pieces, until

unfiltered = pytest.mark.skipif(
    "\nSeccomp:\t0\n" not in Path("/proc/self/status").read_text(), reason="runs under a seccomp filter"
)

# A filter that allows everything: BPF "return SECCOMP_RET_ALLOW", installed with prctl(2).
FILTERED = """
import ctypes, socket, sys
from sentinel_pipeline.infrastructure.video.child_sockets import send_at_once
class Filter(ctypes.Structure):
    _fields_ = [("code", ctypes.c_uint16), ("jt", ctypes.c_uint8), ("jf", ctypes.c_uint8), ("k", ctypes.c_uint32)]
class Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_uint16), ("filters", ctypes.POINTER(Filter))]
libc, allow = ctypes.CDLL(None), Filter(6, 0, 0, 0x7FFF0000)
assert libc.prctl(38, 1, 0, 0, 0) == 0
assert libc.prctl(22, 2, ctypes.byref(Program(1, ctypes.pointer(allow))), 0, 0) == 0
with socket.create_connection(("127.0.0.1", int(sys.argv[1]))):
    import os
    print(send_at_once(os.getpid()))
"""


def _keyframe() -> EncodedPacket:
    picture = Canvas(320, 180).take(PlanarImage(320, 180))[0]
    return H264Encoder(320, 180, 25).encode(picture, 0)[0]


def _delays(pid: int | None) -> list[bool]:
    """Return for each TCP connection whether Nagle's algorithm holds its small pieces up."""
    return [not tcp.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) for tcp in tcp_sockets(pid or 0)]


@unfiltered
def test_only_tcp_connections_are_touched() -> None:
    """Of a process with all kinds of descriptors its TCP connections are found, changed, and left open."""
    others = len(_delays(os.getpid()))
    left, right = socket.socketpair()
    with socket.create_server(("127.0.0.1", 0)) as server, left, right, socket.socket(type=socket.SOCK_DGRAM):
        with socket.create_connection(server.getsockname()) as client:
            assert len(_delays(os.getpid())) == others + 2
            assert not client.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
            assert send_at_once(os.getpid())
            assert client.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
            client.sendall(b"still open")
        left.sendall(b"x")
        assert right.recv(1) == b"x"


def test_process_without_connections_and_one_that_is_gone() -> None:
    """There is nothing to change in either, and nothing to complain about."""
    process = subprocess.Popen(["sleep", "30"])
    assert not send_at_once(process.pid)
    process.kill()
    process.wait()
    assert not send_at_once(process.pid)


@unfiltered
def test_descriptor_that_has_become_something_else_is_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a child closes a socket and opens a file under its number meanwhile, no copy of that stays open here."""
    read, write = os.pipe()
    monkeypatch.setattr(os, "readlink", lambda _: "socket:[1]")  # as it was a moment before
    try:
        list(tcp_sockets(os.getpid()))  # what is opened once is open now
        before = len(os.listdir("/proc/self/fd"))
        assert all(tcp.fileno() not in (read, write) for tcp in tcp_sockets(os.getpid()))
        assert len(os.listdir("/proc/self/fd")) == before
    finally:
        os.close(read)
        os.close(write)


def test_nothing_is_tried_where_it_is_not_known_whether_there_is_a_filter(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Without a readable /proc publishing goes on, only its connections stay as they are."""
    monkeypatch.setattr(child_sockets, "_STATUS", tmp_path / "missing")
    child_sockets._filtered.cache_clear()
    try:
        assert not send_at_once(os.getpid())
    finally:
        child_sockets._filtered.cache_clear()


def test_nothing_is_tried_under_a_seccomp_filter() -> None:
    """Some filters end the process that makes an unusual call, so that none is made."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        command = [sys.executable, "-c", FILTERED, str(server.getsockname()[1])]
        assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "False\n"


@unfiltered
@pytest.mark.ffmpeg
def test_connection_is_found_before_the_server_has_accepted_the_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    """ANNOUNCE is the first thing that would wait: the connection is changed as soon as it is made."""
    monkeypatch.setattr(ffmpeg_child, "_CONNECTS_WITHIN", 10.0)  # however slow this machine is just now
    wanted = threading.Event()
    with RtspRelay() as relay:
        relay.mute_all()
        output = PacketOutput(relay.url("out"), 25, "ffmpeg", request_keyframe=wanted.set)
        output.start()
        try:
            assert wanted.wait(5.0)
            output.put(_keyframe())
            until(lambda: _delays(output.child_pid) == [False], 10.0, "its connection to send at once")
            assert output.report().state == "starting"
        finally:
            output.close(0.5)


@unfiltered
@pytest.mark.ffmpeg
def test_connection_made_late_is_found_when_the_output_opens() -> None:
    """A server that is slow to reach, or whose connection nobody watched for, gets its pictures in time as well."""
    with RtspRelay() as relay:
        child = FFmpegChild(copy_command("ffmpeg", relay.url("out")))
        child.start()
        try:
            pieces = iter(encoded_pieces(200))
            until(lambda: child.write(next(pieces)) or child.opened, 10.0, "the output to open")
            assert _delays(child.pid) == [False]
        finally:
            child.stop(1.0)
