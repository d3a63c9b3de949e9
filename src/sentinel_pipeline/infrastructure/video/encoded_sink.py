"""The output of a stream: each picture is drawn and encoded once, and its packets go to every URL."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

import av
import structlog

from sentinel_pipeline.application.ports import SinkReport
from sentinel_pipeline.domain.errors import ConfigError, PublishError
from sentinel_pipeline.domain.frame import Frame
from sentinel_pipeline.domain.overlay import Overlay
from sentinel_pipeline.domain.streams import PublishSpec
from sentinel_pipeline.infrastructure.video.canvas import Canvas
from sentinel_pipeline.infrastructure.video.drawing import Painter
from sentinel_pipeline.infrastructure.video.encoder import H264Encoder, require_codec
from sentinel_pipeline.infrastructure.video.ffmpeg_command import muxer_options
from sentinel_pipeline.infrastructure.video.output_loop import RETRYING, STOPPED
from sentinel_pipeline.infrastructure.video.outputs import Outputs
from sentinel_pipeline.infrastructure.video.packet_output import PacketOutput

log = structlog.get_logger(__name__)
_ENCODER_PAUSE = 1.0  # seconds between two tries to open an encoder


class EncodedSink:
    """Implements ``FrameSink``. One thread writes; ``report`` and ``close`` may come from any thread.

    The first picture fixes the output's size where ``spec`` does not; later ones of another size are letterboxed.

    binary: the ffmpeg that copies the packets to the network.
    Raises ``ConfigError`` for a URL or codec that cannot be used.
    """

    def __init__(self, spec: PublishSpec, stream_id: str, binary: str) -> None:
        for url in spec.urls:
            muxer_options(url)
        require_codec(spec.codec)
        self._spec = spec
        self._stream_id = stream_id
        self._binary = binary
        self._canvas: Canvas | None = None
        self._painter: Painter | None = None
        self._encoder: H264Encoder | None = None
        self._shown: tuple[Frame, Overlay] | None = None  # what is on the canvas
        self._failure = ""  # why the encoder does not work
        self._lost = 0
        self._next_try = 0.0  # monotonic seconds
        self._keyframe_wanted = threading.Event()  # an object of its own: outputs that hold on to it do not hold us
        self._outputs = Outputs(spec.urls, self._new_output)
        self._started = False
        self._lock = threading.Lock()  # between starting the outputs and closing them
        self._closed = False

    def start(self) -> None:
        """Start the outputs' children ahead of the first picture, which does it otherwise; may be called again."""
        with self._lock:
            if self._started or self._closed:
                return
            self._started = True
            self._outputs.start()

    def write(self, frame: Frame, overlay: Overlay, slot: int, *, alone: bool = False) -> None:
        """See ``FrameSink``."""
        if self._closed:
            return
        picture = self._painted(frame, overlay)
        try:
            self.start()
            encoder = self._ready((picture.width, picture.height))
            if alone or self._keyframe_wanted.is_set():
                self._keyframe_wanted.clear()
                encoder.request_keyframe()
            packets = encoder.encode(picture, slot)
        except (PublishError, ConfigError) as exc:
            self._encoder_failed(str(exc))
            return
        self._failure = ""
        for packet in packets:
            self._outputs.put(packet)

    def report(self) -> SinkReport:
        """See ``FrameSink``. Counters are in pictures."""
        report = self._outputs.report()
        if self._closed:
            report = replace(report, state=STOPPED)
        elif self._failure:
            report = replace(report, state=RETRYING, reason=self._failure)
        return replace(report, dropped=report.dropped + self._lost)

    def close(self) -> None:
        """See ``FrameSink``: at most 3 s."""
        with self._lock:
            self._closed = True
        if self._started:
            self._outputs.close(3.0)

    def _painted(self, frame: Frame, overlay: Overlay) -> av.VideoFrame:
        """Return the canvas with ``frame`` and ``overlay`` on it; a repetition costs nothing."""
        if self._canvas is None or self._painter is None:
            self._canvas = Canvas(*(self._spec.size or frame.size))
            self._painter = Painter(self._canvas.size)
        if self._shown is None or self._shown[0] is not frame or self._shown[1] != overlay:
            self._shown = None  # the picture before this one is in memory no longer
            _, planes = self._canvas.take(frame.image)
            self._painter.paint(planes, overlay, self._canvas.fit)
            self._shown = (frame, overlay)
        return self._canvas.frame

    def _ready(self, size: tuple[int, int]) -> H264Encoder:
        """Return the encoder, made for the first picture or after it has failed."""
        spec = self._spec
        if self._encoder is None:
            if time.monotonic() < self._next_try:
                raise PublishError(self._failure)
            self._next_try = time.monotonic() + _ENCODER_PAUSE
            self._encoder = H264Encoder(*size, spec.fps, spec.preset, spec.bitrate, spec.codec)
        return self._encoder

    def _new_output(self, url: str, published: Callable[[Sequence[int]], None]) -> PacketOutput:
        return PacketOutput(
            url,
            self._spec.fps,
            self._binary,
            request_keyframe=self._keyframe_wanted.set,
            published=published,
            stream_id=self._stream_id,
        )

    def _encoder_failed(self, reason: str) -> None:
        if not self._failure:
            log.warning("encoding failed, trying again", stream_id=self._stream_id, reason=reason)
        self._failure = reason
        self._lost += 1
        self._encoder = None
