"""The relay over real sockets with a plain client: exact bytes, bounds, time-outs, and nothing left behind."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable

import pytest

from sentinel_pipeline.domain.errors import SentinelError
from sentinel_pipeline.lab.rtsp_path import PathInfo
from sentinel_pipeline.lab.rtsp_relay import RtspRelay
from support.rtsp_client import RtspClient, rtp, sender_report


def until(reached: Callable[[], bool], timeout: float = 5.0) -> None:
    """Poll until something holds that nobody reports, with a deadline."""
    deadline = time.monotonic() + timeout
    while not reached():
        assert time.monotonic() < deadline, "it did not come true in time"
        threading.Event().wait(0.02)


@pytest.mark.parametrize("play", ["tcp", "udp"])
@pytest.mark.parametrize("publish", ["tcp", "udp"])
def test_packets_arrive_unchanged_over_any_mix_of_transports(publish: str, play: str) -> None:
    """RTP and RTCP packets of any size come out as they went in, TCP and UDP mixed as one likes."""
    sent = [rtp(1, 12), rtp(2, 1400), rtp(3, 700)]
    with RtspRelay() as relay, RtspClient(relay.port) as publisher, RtspClient(relay.port) as player:
        if publish == "udp":
            ports = publisher.udp_pair()
            answer = publisher.publish(f"RTP/AVP/UDP;unicast;client_port={ports[0]}-{ports[1]};mode=record")
            named = answer.header("Transport").partition("server_port=")[2].partition(";")[0]
            server = [int(port) for port in named.split("-")]
        else:
            publisher.publish()
        if play == "udp":
            ports = player.udp_pair()
            player.play(f"RTP/AVP;unicast;client_port={ports[0]}-{ports[1]}")
        else:
            player.play("RTP/AVP/TCP;unicast;interleaved=4-5")
        for packet in sent:
            if publish == "udp":
                publisher.udp[0].sendto(packet, ("127.0.0.1", server[0]))
            else:
                publisher.send(packet)
            assert (player.udp[0].recv(2000) if play == "udp" else player.packet()) == (
                packet if play == "udp" else (4, packet)
            )
        if publish == "udp":
            publisher.udp[1].sendto(sender_report(1), ("127.0.0.1", server[1]))
        else:
            publisher.send(sender_report(1), channel=1)
        assert (player.udp[1].recv(2000) if play == "udp" else player.packet()[1]) == sender_report(1)
        assert relay.paths()["cam1"] == PathInfo(True, 1, 4, 12 + 1400 + 700 + 28, 4, 0)


def test_a_player_that_does_not_read_is_bounded_and_alone() -> None:
    """It costs at most its buffer, its drops are counted, and the player beside it gets every packet."""
    packets, size = 3000, 1400
    with RtspRelay(write_buffer_bytes=256 * 1024) as relay, RtspClient(relay.port) as publisher:
        publisher.publish()
        with RtspClient(relay.port, receive_buffer=4096) as slow, RtspClient(relay.port) as quick:
            slow.play()
            quick.play()
            for number in range(packets):
                publisher.send(rtp(number, size))
                assert quick.packet()[1][2:4] == number.to_bytes(2, "big")
            info = relay.paths()["cam1"]
            assert info.packets_in == packets
            assert info.dropped > 0
            assert info.packets_out == 2 * packets - info.dropped
            # What the slow player then reads is whole packets in order, with gaps.
            numbers = [int.from_bytes(slow.packet()[1][2:4], "big") for _ in range(100)]
            assert numbers == sorted(numbers)


def test_a_slow_player_goes_on_when_it_reads_again() -> None:
    """After drops the framing is intact and newer packets arrive."""
    with RtspRelay(write_buffer_bytes=64 * 1024) as relay, RtspClient(relay.port) as publisher:
        publisher.publish()
        with RtspClient(relay.port, receive_buffer=4096) as slow:
            slow.play()
            number = 0
            while relay.paths()["cam1"].dropped == 0:
                assert number < 60000
                for _ in range(100):
                    publisher.send(rtp(number, 1400))
                    number += 1
            waiting = relay.paths()["cam1"].packets_out
            for _ in range(waiting):
                slow.packet()
            publisher.send(rtp(7, 99))
            while len(packet := slow.packet()[1]) != 99:
                assert len(packet) == 1400
            assert packet == rtp(7, 99)


def test_players_are_closed_when_the_publisher_vanishes() -> None:
    """A publisher's closed socket ends its players' connections in order, and the path answers 404."""
    with RtspRelay() as relay, RtspClient(relay.port) as player:
        with RtspClient(relay.port) as publisher:
            publisher.publish()
            player.play()
        assert player.is_closed()
        relay.wait_until_idle("cam1", 5)
        with RtspClient(relay.port) as late:
            assert late.ask("DESCRIBE").status == 404


def test_silent_udp_players_and_publishers_are_forgotten_and_live_ones_are_not() -> None:
    """Without a sign of life a UDP player and a publisher are closed after the session time-out; keep-alive saves."""
    with RtspRelay(session_timeout_s=0.4) as relay, RtspClient(relay.port) as publisher:
        publisher.publish()
        with RtspClient(relay.port) as silent, RtspClient(relay.port) as alive, RtspClient(relay.port) as by_tcp:
            for each in (silent, alive):
                ports = each.udp_pair()
                each.play(f"RTP/AVP;unicast;client_port={ports[0]}-{ports[1]}")
            by_tcp.play()
            closed = threading.Event()
            watcher = threading.Thread(target=lambda: silent.is_closed() and closed.set())
            watcher.start()
            until_closed = time.monotonic() + 5
            while not closed.wait(0.05):
                publisher.send(rtp(1))
                assert alive.ask("GET_PARAMETER").status == 200
                assert time.monotonic() < until_closed
            watcher.join()
            assert relay.paths()["cam1"].readers == 2
            assert by_tcp.packet()[1] == rtp(1)
            assert publisher.is_closed()  # nothing is sent any more
            assert relay.wait_until_idle("cam1", 5).readers == 0


def test_garbage_on_a_connection_is_answered_and_closed() -> None:
    """Bytes that are no RTSP get 400 and the end of the connection; a publisher beside it does not notice."""
    with RtspRelay() as relay, RtspClient(relay.port) as publisher, RtspClient(relay.port) as player:
        publisher.publish()
        player.play()
        with RtspClient(relay.port) as bad:
            bad.socket.sendall(b"\x16\x03\x01" + os.urandom(500))
            assert bad.socket.recv(100).startswith(b"RTSP/1.0 400 ")
            assert bad.is_closed()
        publisher.send(rtp(1))
        assert player.packet() == (0, rtp(1))


def test_reset_readers_sends_a_reset() -> None:
    """The player sees ECONNRESET, as from a camera that reboots."""
    with RtspRelay() as relay, RtspClient(relay.port) as publisher, RtspClient(relay.port) as player:
        publisher.publish()
        player.play()
        relay.faults("cam1").reset_readers()
        with pytest.raises(ConnectionResetError):
            player.socket.recv(10)


def test_half_frame_stops_within_a_packet_and_resume_completes_it() -> None:
    """Half of a packet arrives, then nothing, not even an answer; after resume all of it is there in order."""
    with RtspRelay() as relay, RtspClient(relay.port) as publisher, RtspClient(relay.port, timeout=0.3) as player:
        publisher.publish()
        player.play()
        relay.faults("cam1").half_frame()
        publisher.send(rtp(1, 1000))
        assert len(player.socket.recv(2000, socket.MSG_PEEK)) == (4 + 1000) // 2
        with pytest.raises(TimeoutError):
            player.ask("GET_PARAMETER")
        relay.faults("cam1").resume()
        player.socket.settimeout(5)
        assert player.packet() == (0, rtp(1, 1000))


def test_a_stalled_publisher_runs_into_a_full_window() -> None:
    """The relay stops reading, so that the publisher's own send blocks; resume lets everything through."""
    with RtspRelay() as relay, RtspClient(relay.port, timeout=0.3) as publisher:
        publisher.publish()
        relay.faults("cam1").stall_publisher()
        packet = b"$\0" + (1400).to_bytes(2, "big") + rtp(1, 1400)
        with pytest.raises(TimeoutError):
            publisher.socket.sendall(packet * 20000)
        assert relay.paths()["cam1"].packets_in < 100
        relay.faults("cam1").resume()
        until(lambda: relay.paths()["cam1"].packets_in > 1000)


def test_a_mute_relay_accepts_and_never_answers() -> None:
    """The connection is open and stays silent for every path; resume_all answers new requests."""
    with RtspRelay() as relay:
        relay.mute_all()
        with RtspClient(relay.port, timeout=0.3) as client:
            with pytest.raises(TimeoutError):
                client.ask("OPTIONS")
            relay.resume_all()
        with RtspClient(relay.port) as client:
            assert client.ask("OPTIONS").status == 200


def test_a_port_in_use_is_a_clear_error() -> None:
    """The error names address and remedy, and the failed relay leaves nothing behind."""
    with RtspRelay() as first, pytest.raises(SentinelError, match=rf"127\.0\.0\.1:{first.port}.*in use.*another"):
        RtspRelay(port=first.port).start()


def test_an_address_that_is_not_ours_is_a_clear_error() -> None:
    """A host that cannot be bound is reported in the same way (192.0.2.0/24 is for documentation, RFC 5737)."""
    with pytest.raises(SentinelError, match=r"192\.0\.2\.1"):
        RtspRelay("192.0.2.1").start()


def test_closing_is_quick_whatever_is_going_on() -> None:
    """Muted, stalled and half-sent connections and a player that does not read do not hold the relay up."""
    relay = RtspRelay(write_buffer_bytes=1024 * 1024)
    relay.start()
    with RtspClient(relay.port) as publisher, RtspClient(relay.port, receive_buffer=4096) as slow:
        publisher.publish()
        slow.play()
        while relay.paths()["cam1"].dropped == 0:
            publisher.send(rtp(1, 1400))
        relay.faults("cam1").half_frame()
        relay.faults("cam1").mute()
        started = time.monotonic()
        relay.close()
        relay.close()
        assert time.monotonic() - started < 2
        with pytest.raises(SentinelError, match="not running"):
            relay.paths()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", relay.port), timeout=1)


def test_waiting_ends_with_a_time_out_that_says_what_is_missing() -> None:
    """Nobody comes: the error names the path and what was waited for."""
    with RtspRelay() as relay:
        with pytest.raises(TimeoutError, match=r"'cam1' did not get a publisher within 0\.05 s"):
            relay.wait_for_publisher("cam1", 0.05)
        with pytest.raises(TimeoutError, match="2 reader"):
            relay.wait_for_reader("cam1", 0.05, readers=2)


def test_it_works_over_ipv6() -> None:
    """The URL has brackets, and packets flow."""
    with RtspRelay("::1") as relay:
        assert relay.url("cam1") == f"rtsp://[::1]:{relay.port}/cam1"
        with socket.create_connection(("::1", relay.port), timeout=5) as client:
            client.sendall(b"OPTIONS rtsp://[::1]/cam1 RTSP/1.0\r\nCSeq: 1\r\n\r\n")
            assert client.recv(100).startswith(b"RTSP/1.0 200 OK\r\nCSeq: 1\r\n")


def test_urls_encode_names_and_credentials() -> None:
    """Whatever is in user, password or name is percent-encoded."""
    with RtspRelay("0.0.0.0") as relay:
        url = relay.url("/hall 1/cam#2", user="me@home", password="p@:/%#?")
        assert url == f"rtsp://me%40home:p%40%3A%2F%25%23%3F@127.0.0.1:{relay.port}/hall%201/cam%232"
