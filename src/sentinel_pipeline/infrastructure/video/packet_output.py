"""One URL to which encoded packets are published, through a child ffmpeg that only copies."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import structlog

from sentinel_pipeline.application.ports import SinkReport
from sentinel_pipeline.domain.backoff import Retry
from sentinel_pipeline.infrastructure.video.encoder import EncodedPacket
from sentinel_pipeline.infrastructure.video.ffmpeg_child import FFmpegChild
from sentinel_pipeline.infrastructure.video.ffmpeg_command import copy_command, is_file, muxer_options
from sentinel_pipeline.infrastructure.video.nut_muxer import NutMuxer
from sentinel_pipeline.infrastructure.video.output_loop import OutputLoop
from sentinel_pipeline.infrastructure.video.packet_queue import PacketQueue
from sentinel_pipeline.infrastructure.video.recording import next_target

log = structlog.get_logger(__name__)
_POLL = 0.5  # seconds without packets between two looks at the child


class PacketOutput:
    """Publishes packets to ``url`` in its own thread, for ever, whatever the server does.

    ``put`` and ``report`` never wait and may be called from any thread; ``close`` ends everything.
    Each child begins at a keyframe, which is asked for by ``request_keyframe``, and records into a file of its own.
    published: called from the thread with the slots of packets that an accepting server was given.
    The child is started at once, before there is a packet: starting it takes longer than encoding a picture.
    rate: pictures per second; two seconds of packets are kept for a slow child.
    Raises ``ConfigError`` for a URL that cannot be published to.
    """

    def __init__(
        self,
        url: str,
        rate: float,
        binary: str,
        *,
        request_keyframe: Callable[[], None],
        published: Callable[[Sequence[int]], None] = lambda _: None,
        stream_id: str = "",
        retry: Retry | None = None,
        write_timeout: float = 5.0,
        open_timeout: float = 10.0,
    ) -> None:
        self._request_keyframe = request_keyframe
        self._queue = PacketQueue(size=max(2, round(2 * rate)))
        self._muxer: NutMuxer | None = None
        self._published = published
        self._given: list[int] = []  # slots of packets given to a child whose output is not known to be open
        muxer_options(url)  # a URL that cannot be published to is found here, not in the thread
        self._url, self._binary = url, binary
        self._file = ""  # what the last child recorded into
        self._log = log.bind(stream_id=stream_id)
        self._new_child = partial(
            FFmpegChild,
            report=partial(_report, stream_id),
            write_timeout=write_timeout,
            open_timeout=open_timeout,
        )
        self._loop = OutputLoop(stream_id, url, self._spawn, self, retry)

    def start(self) -> None:
        """Begin publishing; at most once."""
        self._loop.start()

    def put(self, packet: EncodedPacket) -> None:
        """Hand a packet over; drops and counts whole groups of pictures when the output cannot follow."""
        if self._queue.put(packet):
            self._request_keyframe()

    def report(self) -> SinkReport:
        """Return the state, why, and the counters (in packets, one per picture)."""
        loop = self._loop
        return SinkReport(loop.state, loop.reason, loop.published, loop.restarts, self._queue.dropped + loop.lost)

    @property
    def child_pid(self) -> int | None:
        """The process id of the child of now; None while there is none."""
        child = self._loop.child
        return child.pid if child else None

    def ask_to_stop(self, timeout: float = 3.0) -> None:
        """Begin to stop, without waiting; ``close`` waits."""
        self._loop.ask_to_stop(timeout)

    def close(self, timeout: float = 3.0) -> None:
        """Stop within ``timeout`` seconds; may be called more than once."""
        self._loop.close(timeout)

    def begin(self) -> None:
        """See ``Feeder``."""
        self._queue.begin()
        self._request_keyframe()

    def step(self, child: FFmpegChild) -> int:
        """See ``Feeder``."""
        packet = self._queue.get(_POLL)
        if packet is None:
            child.check()
        else:
            first = self._muxer is None
            if self._muxer is None:
                self._muxer = NutMuxer(packet.format)
            child.write(self._muxer.mux(packet))
            if first:
                child.watch_connecting()
            self._given.append(packet.pts_slot)
        if child.opened and self._given:
            self._published(self._given)
            self._given = []
        return int(packet is not None)

    def finish(self, child: FFmpegChild) -> None:
        """See ``Feeder``."""
        if self._muxer is not None:
            child.write(self._muxer.close())

    def end(self) -> None:
        """See ``Feeder``."""
        self._queue.end()
        self._given = []
        muxer, self._muxer = self._muxer, None
        if muxer is not None:
            muxer.close()

    def wake(self) -> None:
        """See ``Feeder``."""
        self._queue.wake()

    def _spawn(self) -> FFmpegChild:
        target = next_target(self._url)
        child = self._new_child(copy_command(self._binary, target))
        child.start()
        if is_file(self._url) and target != self._file:
            self._file = target
            self._log.info("recording", file=target)
        return child


def _report(stream_id: str, line: str, left_out: int) -> None:
    log.debug("ffmpeg", stream_id=stream_id, line=line, left_out=left_out)
