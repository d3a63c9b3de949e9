"""The default way to read a camera: FFmpeg's libraries in this process, through PyAV."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Generator, Iterator
from dataclasses import dataclass, replace

import av
import av.error
from av.codec.hwaccel import HWAccel, hwdevices_available
from av.container import InputContainer
from av.packet import Packet
from av.stream import Discard
from av.video.stream import VideoStream

from sentinel_pipeline.domain.errors import StreamEnded, StreamError, StreamRefused, StreamStalled
from sentinel_pipeline.domain.frame import Frame
from sentinel_pipeline.domain.redact import redact
from sentinel_pipeline.domain.timeline import Timeline
from sentinel_pipeline.infrastructure.video.av_errors import explain
from sentinel_pipeline.infrastructure.video.av_input import AvInput, av_input
from sentinel_pipeline.infrastructure.video.capture_time import captured_at
from sentinel_pipeline.infrastructure.video.images import AvImage
from sentinel_pipeline.infrastructure.video.interruptible import Deadline, deadline, pyav_timeout
from sentinel_pipeline.infrastructure.video.playback import Playback

_BAD_IN_A_ROW = 100  # packets in a row that the demuxer cannot make sense of, without reading anything in between


@dataclass(frozen=True, slots=True)
class _Decoded:
    frame: av.VideoFrame
    pts: float | None
    received_at: float  # monotonic
    received_wall: float  # Unix seconds
    decode_ms: float


@dataclass(slots=True, repr=False)  # PyAV's repr of a container shows the URL
class _Connection:
    """What exists only while the source is open."""

    container: InputContainer
    stream: VideoStream
    packets: Iterator[Packet[VideoStream]]
    playback: Playback | None  # for sources without a clock of their own
    keyed: bool  # a key frame has been seen: what comes now can be decoded
    key_due: float  # monotonic seconds

    def demux_again(self) -> None:
        """Make a new packet generator; an exception has ended the old one."""
        self.packets = self.container.demux(self.stream)


class PyAVSource:
    """One connection to one source, behind ``ports.FrameSource``; the URL forms are those of ``av_input``.

    ``open_timeout`` and ``read_timeout`` in seconds are kept to within FFmpeg's polling (100 ms). ``cancel`` is safe
    from any thread and takes effect within that time; only the resolver looking up a host name cannot be cut short.
    Files and the test pattern are played at the pace of their timestamps; ``loop`` starts a file over at its end. Give
    all connections of one stream the same ``timeline``, and stream time goes on across them.
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
    ) -> None:
        self._url, self._name = url, redact(url)
        self._transport, self._hwaccel, self._loop = transport, hwaccel, loop
        self._open_timeout, self._read_timeout = open_timeout, read_timeout
        self._timeline = timeline or Timeline()
        self._cancelled = threading.Event()
        self._connection: _Connection | None = None
        self._ready: deque[_Decoded] = deque()
        self._sequence = 0
        self._decode_errors = 0

    def __repr__(self) -> str:
        state = "cancelled" if self._cancelled.is_set() else "open" if self._connection else "closed"
        return f"<PyAVSource {self._name} {state}, {self._sequence} frames, {self._decode_errors} decode errors>"

    @property
    def decode_errors(self) -> int:
        """Packets and frames of this connection that were damaged and left out."""
        return self._decode_errors

    def open(self) -> None:
        """Connect. Raises ``StreamError``, ``StreamRefused``, ``StreamStalled``; within the open time-out."""
        if self._connection is not None:
            raise RuntimeError("this source is open already")
        source = av_input(self._url, self._transport)
        with deadline(self._open_timeout, self._cancelled.is_set) as limit:
            container = self._connect(source, limit)
        try:
            self._connection = self._choose_stream(container, source)
        except StreamError:
            container.close()
            raise
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
        with deadline(self._read_timeout, self._cancelled.is_set) as limit:
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

    def close(self) -> None:
        """Hang up; may be called more than once, by the thread that reads."""
        connection, self._connection = self._connection, None
        self._ready.clear()
        if connection is None:
            return
        if isinstance(connection.packets, Generator):
            connection.packets.close()  # PyAV's generator holds on to the container
        connection.container.close()

    def _connect(self, source: AvInput, limit: Deadline) -> InputContainer:
        failure: StreamError
        accelerator = self._accelerator()
        try:
            container = av.open(
                source.url,
                mode="r",
                format=source.format,
                options=source.options,
                metadata_errors="replace",  # session names come in whatever encoding
                timeout=pyav_timeout(self._open_timeout, self._read_timeout),
                hwaccel=accelerator,
            )
        except (av.error.FFmpegError, RuntimeError, ValueError, OSError) as exc:
            failure = self._unanswered(limit) if limit.over else self._explain_open(exc)
        else:
            if not limit.over:
                return container
            container.close()  # a probe that is cut short looks like a success
            failure = self._unanswered(limit)
        raise failure  # outside the except block: no context that carries the URL

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

    def _explain_open(self, exc: Exception) -> StreamError:
        device_errors = (RuntimeError, av.error.PermissionError, av.error.ExternalError, av.error.UnknownError)
        if self._hwaccel != "none" and isinstance(exc, device_errors):
            return StreamRefused(
                f"cannot decode {self._name} with hwaccel {self._hwaccel!r}",
                remedy="check the device, its driver and the codec, or set decode.hwaccel: none",
            )
        return explain(exc, f"open {self._name}")

    def _choose_stream(self, container: InputContainer, source: AvInput) -> _Connection:
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
        # A video on a web server comes as fast as the network allows; a live stream has no duration.
        paced = source.paced or (source.scheme.startswith("http") and container.duration is not None)
        return _Connection(
            container=container,
            stream=stream,
            packets=container.demux(stream),
            playback=Playback() if paced else None,
            keyed=context.codec.intra_only or source.scheme == "test",  # those demuxers need not mark key frames
            key_due=time.monotonic() + max(self._open_timeout, self._read_timeout),
        )

    def _next_packet(self, connection: _Connection, limit: Deadline) -> Packet[VideoStream]:
        failure: StreamError
        for _ in range(_BAD_IN_A_ROW):
            try:
                packet = next(connection.packets)
            except StopIteration:
                failure = self._stalled(connection, limit) if limit.over else StreamEnded(f"{self._name} ended")
                break
            except (av.error.FFmpegError, RuntimeError, OSError) as exc:
                failure = self._stalled(connection, limit) if limit.over else explain(exc, f"read {self._name}")
                if limit.over or not isinstance(exc, av.error.InvalidDataError):
                    break
                self._decode_errors += 1
                connection.demux_again()
            else:
                return packet
        raise failure  # outside the except block: no context that carries the URL

    def _decode(self, connection: _Connection, packet: Packet[VideoStream], limit: Deadline) -> None:
        """Put what the packet yields into ``_ready``; the last packet of a stream is empty and yields what is left."""
        received_at, received_wall = time.monotonic(), time.time()
        if packet.size and not connection.keyed:
            if not packet.is_keyframe:
                limit.extend(min(self._read_timeout, connection.key_due - received_at))
                return
            connection.keyed = True
        started = time.thread_time()
        try:
            frames = packet.decode()
        except av.error.FFmpegError as exc:
            self._decode_errors += not isinstance(exc, av.error.EOFError)
            return
        decode_ms = (time.thread_time() - started) * 1e3 / max(1, len(frames))
        for frame in frames:
            if frame.is_corrupt:
                self._decode_errors += 1
            else:
                self._ready.append(_Decoded(frame, frame.time, received_at, received_wall, decode_ms))
        if self._loop and connection.playback is not None and not packet.size:
            connection.container.seek(0)
            connection.demux_again()

    def _held_back(self, playback: Playback, decoded: _Decoded) -> _Decoded:
        """Wait until it is the picture's turn; that is when a file's picture counts as received."""
        if self._cancelled.wait(playback.wait(decoded.pts, time.monotonic())):
            raise self._was_cancelled()
        return replace(decoded, received_at=time.monotonic(), received_wall=time.time())

    def _frame(self, connection: _Connection, decoded: _Decoded) -> Frame:
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
        if not connection.keyed:
            waited = max(self._open_timeout, self._read_timeout)
            return StreamStalled(
                f"{self._name} sends packets but no key frame within {waited:g} s",
                remedy="shorten the key frame interval at the camera, or raise decode.open_timeout",
            )
        damaged = f"; {self._decode_errors} damaged packets so far" if self._decode_errors else ""
        return StreamStalled(f"{self._name} sent no picture for {self._read_timeout:g} s{damaged}")
