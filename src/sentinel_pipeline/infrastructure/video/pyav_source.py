"""The default way to read a camera: FFmpeg's libraries in this process, through PyAV."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import cast

import av
import av.error
from av.codec.hwaccel import HWAccel, hwdevices_available
from av.container import Flags, InputContainer
from av.packet import Packet
from av.stream import Discard
from av.video.stream import VideoStream

from sentinel_pipeline.domain.errors import StreamEnded, StreamError, StreamRefused, StreamStalled
from sentinel_pipeline.domain.frame import Frame
from sentinel_pipeline.domain.redact import redact
from sentinel_pipeline.domain.timeline import Timeline
from sentinel_pipeline.infrastructure.video.access_units import AccessUnit, AccessUnits
from sentinel_pipeline.infrastructure.video.av_errors import explain
from sentinel_pipeline.infrastructure.video.av_input import AvInput, av_input
from sentinel_pipeline.infrastructure.video.capture_time import captured_at
from sentinel_pipeline.infrastructure.video.child_input import ChildInput
from sentinel_pipeline.infrastructure.video.images import AvImage
from sentinel_pipeline.infrastructure.video.interruptible import Deadline, pyav_timeout
from sentinel_pipeline.infrastructure.video.packet_decoder import Decoded, PacketDecoder, Received
from sentinel_pipeline.infrastructure.video.playback import Playback

_BAD_IN_A_ROW = 100  # packets in a row that the demuxer cannot make sense of, without reading anything in between
_NO_PARSE = cast(int, Flags.no_parse.value)  # PyAV's stubs say Flags
_IDLE_KEY_S = 60.0  # cameras that save bits make key frames rarer while nothing moves; behind that it is garbage


@dataclass(slots=True, repr=False)  # PyAV's repr of a container shows the URL
class _Connection:
    """What exists only while the source is open."""

    container: InputContainer
    stream: VideoStream
    child: ChildInput | None  # reads what PyAV cannot
    packets: Iterator[Packet[VideoStream]]
    decoder: PacketDecoder
    playback: Playback | None  # for sources without a clock of their own
    keyed: bool  # a key frame has been seen: what comes now can be decoded
    key_due: float  # monotonic seconds
    units: AccessUnits | None  # for packets that come as the network brought them

    def demux_again(self) -> None:
        """Make a new packet generator; an exception has ended the old one."""
        self.packets = self.container.demux(self.stream)


class PyAVSource:
    """One connection to one source, behind ``ports.FrameSource``; the URL forms are those of ``av_input``.

    ``open_timeout`` and ``read_timeout`` in seconds are kept to within FFmpeg's polling (100 ms). ``cancel`` is safe
    from any thread and takes effect within that time; only the resolver looking up a host name cannot be cut short.
    Files and the test pattern are played at the pace of their timestamps; ``loop`` starts a file over at its end. Give
    all connections of one stream the same ``timeline``, and stream time goes on across them.

    skip_nonref: leave out the pictures that no other refers to (B-frames, upper temporal layers).
    idle: asked before each packet by the reading thread; while True only key frames are decoded (``PacketDecoder``).
    on_packet: called by the reading thread with monotonic seconds for each packet that comes, decoded or not.
    ffmpeg: the binary that reads SRT; empty takes the one that is found.
    prompt: hand out pictures of H.264 over RTSP as soon as they have come, one frame earlier than FFmpeg does, for some
    CPU time per network packet. Not together with ``skip_nonref``, ``idle`` or ``hwaccel``.
    """

    def __init__(
        self,
        url: str,
        *,
        transport: str = "tcp",
        open_timeout: float = 10.0,
        read_timeout: float = 5.0,
        hwaccel: str = "none",
        loop: bool = False,
        timeline: Timeline | None = None,
        skip_nonref: bool = False,
        idle: Callable[[], bool] = lambda: False,
        on_packet: Callable[[float], None] = lambda _: None,
        ffmpeg: str = "",
        prompt: bool = False,
    ) -> None:
        self._prompt = prompt
        self._ffmpeg = ffmpeg
        self._skip_nonref, self._idle, self._on_packet = skip_nonref, idle, on_packet
        self._url, self._name = url, redact(url)
        self._transport, self._hwaccel, self._loop = transport, hwaccel, loop
        self._open_timeout, self._read_timeout = open_timeout, read_timeout
        self._timeline = timeline or Timeline()
        self._cancelled = threading.Event()
        self._limit = Deadline(self._cancelled.is_set)
        self._connection: _Connection | None = None
        self._ready: deque[Decoded] = deque()
        self._sequence = 0
        self._damaged = 0  # packets that the demuxer could not read, and all damage of earlier connections

    def __repr__(self) -> str:
        state = "cancelled" if self._cancelled.is_set() else "open" if self._connection else "closed"
        return f"<PyAVSource {self._name} {state}, {self._sequence} frames, {self.decode_errors} decode errors>"

    @property
    def decode_errors(self) -> int:
        """Packets and frames of this connection that were damaged and left out."""
        connection = self._connection
        return self._damaged + (connection.decoder.errors if connection is not None else 0)

    def open(self) -> None:
        """Connect. Raises ``StreamError``, ``StreamRefused``, ``StreamStalled``; within the open time-out."""
        if self._connection is not None:
            raise RuntimeError("this source is open already")
        source = av_input(self._url, self._transport, unparsed=self._prompt)
        with ExitStack() as undo:
            child = self._child(source) if source.child else None
            if child is not None:
                undo.callback(child.close)
                child.start()
            with self._limit.within(self._open_timeout) as limit:
                container = self._connect(source, child, limit)
                if source.unparsed and _needs_parser(container):
                    container.close()
                    source = av_input(self._url, self._transport)
                    container = self._connect(source, child, limit)
            undo.callback(container.close)
            self._connection = self._choose_stream(container, child, source)
            undo.pop_all()
        self._timeline.restart()

    def read(self) -> Frame:
        """Return the next frame. Raises ``StreamStalled`` within the read time-out, ``StreamEnded``, ``StreamError``.

        Before the first key frame, packets count as life until the open time-out: cameras may send one in ten seconds.
        """
        connection = self._connection
        if connection is None:
            raise StreamError(f"{self._name} is not open")
        if self._cancelled.is_set():
            raise self._was_cancelled()
        with self._limit.within(self._read_timeout) as limit:
            while not self._ready:
                self._decode(connection, self._next_packet(connection, limit), limit)
                if limit.over:  # also when a picture came: cut short, the parser hands out what it had held back
                    raise self._stalled(connection, limit)
        decoded = self._ready.popleft()
        if connection.playback is not None:
            decoded = self._held_back(connection.playback, decoded)
        return self._frame(connection, decoded)

    def cancel(self) -> None:
        """Make ``open`` and ``read``, under way and later, raise ``StreamError``. Safe from any thread."""
        self._cancelled.set()
        self._limit.notice()

    def close(self) -> None:
        """Hang up; may be called more than once, by the thread that reads."""
        connection, self._connection = self._connection, None
        self._ready.clear()
        if connection is None:
            return
        self._damaged += connection.decoder.errors
        if isinstance(connection.packets, Generator):
            connection.packets.close()  # PyAV's generator holds on to the container
        connection.container.close()
        if connection.child is not None:
            connection.child.close()

    def _child(self, source: AvInput) -> ChildInput:
        timeouts = {"open_timeout": self._open_timeout, "read_timeout": self._read_timeout}
        return ChildInput(source.url, binary=self._ffmpeg, **timeouts)

    def _connect(self, source: AvInput, child: ChildInput | None, limit: Deadline) -> InputContainer:
        failure: StreamError
        accelerator = self._accelerator()
        try:
            container = av.open(
                child or source.url,
                mode="r",
                format=source.format,
                options=source.options,
                metadata_errors="replace",  # session names come in whatever encoding
                timeout=pyav_timeout(self._open_timeout, self._read_timeout),
                hwaccel=accelerator,
            )
        except (av.error.FFmpegError, RuntimeError, ValueError, OSError) as exc:
            failure = self._unanswered(limit) if limit.over else self._explain_open(exc, child)
        else:
            if not limit.over:
                return container
            container.close()  # a probe that is cut short looks like a success
            failure = self._unanswered(limit)
        try:
            raise failure  # outside the except block: no context that carries the URL
        finally:
            del failure  # its traceback holds this frame: together they would be a cycle that holds the connection

    def _accelerator(self) -> HWAccel | None:
        if self._hwaccel == "none":
            return None
        available = hwdevices_available()
        if self._hwaccel not in available:
            known = ", ".join(available) or "no device"
            raise StreamRefused(
                f"hwaccel {self._hwaccel!r} is not available, only {known}", remedy="set decode.hwaccel: none"
            )
        return HWAccel(self._hwaccel, allow_software_fallback=False)

    def _explain_open(self, exc: Exception, child: ChildInput | None) -> StreamError:
        if child is not None:
            return child.explain(f"open {self._name}")
        device_errors = (RuntimeError, av.error.PermissionError, av.error.ExternalError, av.error.UnknownError)
        if self._hwaccel != "none" and isinstance(exc, device_errors):
            return StreamRefused(
                f"cannot decode {self._name} with hwaccel {self._hwaccel!r}",
                remedy="check the device, its driver and the codec, or set decode.hwaccel: none",
            )
        return explain(exc, f"open {self._name}")

    def _choose_stream(self, container: InputContainer, child: ChildInput | None, source: AvInput) -> _Connection:
        if not container.streams.video:
            raise StreamRefused(f"{self._name} carries no video", remedy="check the path in the source URL")
        stream = container.streams.video[0]
        context = stream.codec_context
        if context is None:
            raise StreamRefused(f"no decoder for the codec of {self._name}", remedy="set the camera to H.264 or H.265")
        for other in container.streams:
            if other is not stream:
                other.discard = Discard.all
        context.thread_count = 1  # each further thread delays the picture by one frame
        if self._skip_nonref:
            context.skip_frame = "NONREF"
        intra = context.codec.intra_only or source.scheme == "test"  # those demuxers need not mark key frames
        # A video on a web server comes as fast as the network allows; a live stream has no duration.
        paced = source.paced or (source.scheme.startswith("http") and container.duration is not None)
        decoder = PacketDecoder(context, self._idle, intra=intra)
        gathers = source.unparsed and context.codec.name == "h264"
        if source.unparsed and not gathers:
            container.flags &= ~_NO_PARSE  # from the first packet on: none has been read yet
        return _Connection(
            container=container,
            stream=stream,
            child=child,
            packets=container.demux(stream),
            decoder=decoder,
            playback=Playback(self._read_timeout) if paced else None,
            keyed=intra,
            key_due=time.monotonic() + self._key_timeout,
            units=AccessUnits(context.extradata or b"", lambda: decoder.reorders) if gathers else None,
        )

    def _next_packet(self, connection: _Connection, limit: Deadline) -> Packet[VideoStream]:
        failure: StreamError
        for _ in range(_BAD_IN_A_ROW):
            try:
                packet = next(connection.packets)
            except StopIteration:
                failure = self._stalled(connection, limit) if limit.over else self._ended(connection)
                break
            except (av.error.FFmpegError, RuntimeError, OSError) as exc:
                failure = self._stalled(connection, limit) if limit.over else explain(exc, f"read {self._name}")
                if limit.over or not isinstance(exc, av.error.InvalidDataError):
                    break
                self._damaged += 1
                connection.demux_again()
            else:
                return packet
        try:
            raise failure  # outside the except block: no context that carries the URL
        finally:
            del failure  # its traceback holds this frame: together they would be a cycle that holds the connection

    def _decode(self, connection: _Connection, packet: Packet[VideoStream], limit: Deadline) -> None:
        """Put what the packet yields into ``_ready``; the last packet of a stream is empty and yields what is left."""
        if connection.units is None:
            self._take(connection, AccessUnit(packet), limit)
            return
        for unit in connection.units.feed(packet):
            ready, errors = len(self._ready), connection.decoder.errors
            self._take(connection, unit, limit)
            unit.shown, unit.damaged = len(self._ready) > ready, connection.decoder.errors > errors

    def _take(self, connection: _Connection, unit: AccessUnit, limit: Deadline) -> None:
        packet, decoder = unit.packet, connection.decoder
        received = Received(packet, time.monotonic(), time.time())
        if unit.spoiled:
            decoder.renew()
            connection.keyed = False
        if packet.size:
            if not unit.again:
                self._on_packet(received.at)
            if not self._expects(connection, received, limit):
                return
        self._ready += decoder.decode_early(received) if unit.early else decoder.decode(received)
        if self._loop and connection.playback is not None and not packet.size:
            connection.container.seek(0)
            connection.demux_again()

    def _expects(self, connection: _Connection, received: Received, limit: Deadline) -> bool:
        """Return whether the packet can be decoded: before the first key frame none can.

        Then, and while only key frames are decoded, packets count as life for as long as a key frame may take.
        """
        packet, idling, now = received.packet, connection.decoder.idling, received.at
        if connection.playback is not None and idling:
            # Pictures are held back to the pace of a file, and between key frames there are none.
            self._wait(connection.playback, _seconds(packet), now)
            now = time.monotonic()
        if packet.is_keyframe:
            connection.keyed = True
            connection.key_due = now + max(_IDLE_KEY_S, self._key_timeout)
        if (not connection.keyed or idling) and not limit.over:  # cut short, the parser hands out what it held back
            limit.extend(min(self._read_timeout, connection.key_due - now))
        return connection.keyed

    def _held_back(self, playback: Playback, decoded: Decoded) -> Decoded:
        """Wait until it is the picture's turn; that is when a file's picture counts as received."""
        self._wait(playback, decoded.pts, time.monotonic())
        return replace(decoded, received_at=time.monotonic(), received_wall=time.time())

    def _wait(self, playback: Playback, pts: float | None, now: float) -> None:
        if self._cancelled.wait(playback.wait(pts, now)):
            raise self._was_cancelled()

    def _frame(self, connection: _Connection, decoded: Decoded) -> Frame:
        realtime = None if connection.playback else connection.container.start_time_realtime
        frame = Frame(
            image=AvImage(decoded.frame),
            sequence=self._sequence,
            pts=self._timeline.stamp(decoded.pts, decoded.received_at),
            captured_at=captured_at(decoded.pts, decoded.received_wall, realtime),
            received_at=decoded.received_at,
            decode_ms=decoded.decode_ms,
        )
        self._sequence += 1
        return frame

    @property
    def _key_timeout(self) -> float:
        return max(self._open_timeout, self._read_timeout)

    def _ended(self, connection: _Connection) -> StreamError:
        child = connection.child
        return child.explain(f"read {self._name}") if child is not None else StreamEnded(f"{self._name} ended")

    def _was_cancelled(self) -> StreamEnded:
        return StreamEnded(f"reading {self._name} was cancelled")

    def _unanswered(self, limit: Deadline) -> StreamError:
        if limit.cancelled:
            return self._was_cancelled()
        return StreamStalled(
            f"{self._name} did not answer with video within {self._open_timeout:g} s",
            remedy="check the address, the network and that the camera is up; for UDP also the firewall",
        )

    def _stalled(self, connection: _Connection, limit: Deadline) -> StreamError:
        if limit.cancelled:
            return self._was_cancelled()
        if not connection.keyed or (connection.decoder.idling and time.monotonic() >= connection.key_due):
            waited = max(_IDLE_KEY_S, self._key_timeout) if connection.keyed else self._key_timeout
            return StreamStalled(
                f"{self._name} sends packets but no key frame within {waited:g} s",
                remedy="shorten the key frame interval at the camera, or raise decode.open_timeout",
            )
        damaged = f"; {self.decode_errors} damaged packets so far" if self.decode_errors else ""
        return StreamStalled(f"{self._name} sent no picture for {self._read_timeout:g} s{damaged}")


def _needs_parser(container: InputContainer) -> bool:
    """Return whether FFmpeg's parser is needed from a packet on that has been read already."""
    return any(
        stream.codec_context is not None and stream.codec_context.name != "h264" and stream.start_time is not None
        for stream in container.streams.video[:1]
    )


def _seconds(packet: Packet[VideoStream]) -> float | None:
    return None if packet.pts is None or packet.time_base is None else float(packet.pts * packet.time_base)
