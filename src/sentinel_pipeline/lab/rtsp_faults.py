"""Commands that make one path of a relay misbehave."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from sentinel_pipeline.lab.rtp_rewriting import VIDEO_CLOCK_HZ, Impairment
from sentinel_pipeline.lab.rtsp_messages import REASONS
from sentinel_pipeline.lab.rtsp_path import Media, Misbehaviour, RelayPath


class OnPath(Protocol):
    """Runs a command on a path inside the relay's event loop."""

    def __call__(self, work: Callable[[RelayPath], None]) -> None:
        """Run ``work`` and wait until it is done."""
        ...


class PathFaults:
    """Makes a path misbehave, at once; the path needs no publisher yet.

    Requests (``mute``, ``refuse``, ``answer_late``), packets to players (``stall``, ``garbage``, ``half_frame``: the
    last one called holds), the line (``lose``, ``burst``, ``jump``: the last one called holds), what is played
    (``play``) and the publisher's side (``stall_publisher``) are independent of each other; ``resume`` repairs them
    all. Every method may be called from any thread but the relay's own, and raises ``SentinelError`` when the relay is
    not running.
    """

    def __init__(self, on_path: OnPath, find: Callable[[str], RelayPath]) -> None:
        self._on_path, self._find = on_path, find

    def stall(self) -> None:
        """Keep connections open and requests answered, but send no packet any more, RTCP included."""
        self._on_path(lambda path: path.change_media(Media.STALLED))

    def garbage(self) -> None:
        """Replace the payload of every RTP packet by random bytes; headers and lengths stay."""
        self._on_path(lambda path: path.change_media(Media.GARBAGE))

    def half_frame(self) -> None:
        """Send each player, once, the first half of an RTP packet, and then nothing at all, answers included.

        ``resume`` sends the other half of an interleaved packet; half a datagram stays half.
        """
        self._on_path(lambda path: path.change_media(Media.HALF_FRAME))

    def mute(self) -> None:
        """Accept connections and requests and never answer; packets of players that play already go on."""
        self._on_path(_mute)

    def refuse(self, status: int = 503) -> None:
        """Answer requests with ``status`` (401, 403, 404, 503 …); OPTIONS, keep-alive and TEARDOWN still work."""
        if status not in REASONS or status < 400:
            raise ValueError(f"{status} is not a status of refusal that RTSP knows")

        def refuse(path: RelayPath) -> None:
            path.faults.refused = status

        self._on_path(refuse)

    def answer_late(self, seconds: float) -> None:
        """Answer every request so many seconds later."""

        def slow(path: RelayPath) -> None:
            path.faults.answer_delay_s = seconds

        self._on_path(slow)

    def play(self, name: str) -> None:
        """Play the packets of another path to all players, present and future, as a camera whose settings change.

        The RTP stream goes on without a gap, whatever size, pixel format or codec the other path has; new players are
        given the other path's description.
        """
        self._on_path(lambda path: path.substitute(self._find(name)))

    def lose(self, share: float) -> None:
        """Lose a share of the RTP packets at random, in [0, 1]; the framing of a TCP connection stays whole."""
        self._impair(loss=share)

    def burst(self, seconds: float) -> None:
        """Hold all packets back for so long and then send them at once, again and again."""
        self._impair(burst_s=seconds)

    def jump(self, seconds: float) -> None:
        """Put the RTP timestamps ``seconds`` ahead, or back when negative; sequence numbers and reports stay."""
        self._impair(ticks=round(seconds * VIDEO_CLOCK_HZ))

    def stall_publisher(self) -> None:
        """Do not read from the publisher's connection any more, so that it runs into a full TCP window."""
        self._on_path(_stall_publisher)

    def resume(self) -> None:
        """Behave again."""
        self._on_path(_repair)

    def close_readers(self) -> None:
        """Close the players' connections in order."""
        self._on_path(_close_readers)

    def reset_readers(self) -> None:
        """Close the players' connections with a TCP RST."""
        self._on_path(_reset_readers)

    def close_publisher(self) -> None:
        """Close the publisher's connection; the players' end with it."""
        self._on_path(_close_publisher)

    def _impair(self, *, loss: float = 0.0, burst_s: float = 0.0, ticks: int = 0) -> None:
        def impair(path: RelayPath) -> None:
            path.impairment = Impairment(path.name, loss=loss, burst_s=burst_s, ticks=ticks)

        self._on_path(impair)


def _mute(path: RelayPath) -> None:
    path.faults.muted = True


def _stall_publisher(path: RelayPath) -> None:
    path.faults.publisher_stalled = True
    if path.publication is not None:
        path.publication.link.stop_reading()


def _repair(path: RelayPath) -> None:
    path.change_media(Media.FLOWS)
    path.substitute(None)
    path.impairment = Impairment(path.name)
    path.faults = Misbehaviour()
    if path.publication is not None:
        path.publication.link.go_on_reading()


def _close_readers(path: RelayPath) -> None:
    for player in list(path.players):
        player.link.close()


def _reset_readers(path: RelayPath) -> None:
    for player in list(path.players):
        player.link.reset()


def _close_publisher(path: RelayPath) -> None:
    if path.publication is not None:
        path.publication.link.close()
