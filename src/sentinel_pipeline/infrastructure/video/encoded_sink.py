"""The output of a stream: each picture is drawn and encoded once, and its packets go to every URL."""

from __future__ import annotations

import threading
import time

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
from sentinel_pipeline.infrastructure.video.output_loop import RETRYING, STARTING, STOPPED
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
        muxer_options(spec.url)
        require_codec(spec.codec)
        self._spec = spec
        self._stream_id = stream_id
        self._binary = binary
        self._canvas: Canvas | None = None
        self._painter: Painter | None = None
        self._encoder: H264Encoder | None = None
        self._output: PacketOutput | None = None
        self._failure = ""  # why the encoder does not work
        self._lost = 0
        self._next_try = 0.0  # monotonic seconds
        self._lock = threading.Lock()  # between making the output and closing it
        self._closed = False

    def write(self, frame: Frame, overlay: Overlay, slot: int) -> None:
        """See ``FrameSink``."""
        if self._closed:
            return
        if self._canvas is None or self._painter is None:
            self._canvas = Canvas(*(self._spec.size or frame.size))
            self._painter = Painter(self._canvas.size)
        picture, planes = self._canvas.take(frame.image)
        shown = overlay if self._spec.overlay else Overlay(notice=overlay.notice)
        self._painter.paint(planes, shown, self._canvas.fit)
        try:
            output, encoder = self._ready(self._canvas.size)
            packets = encoder.encode(picture, slot)
        except (PublishError, ConfigError) as exc:
            self._encoder_failed(str(exc))
            return
        self._failure = ""
        for packet in packets:
            output.put(packet)

    def report(self) -> SinkReport:
        """See ``FrameSink``. Counters are in pictures."""
        output = self._output
        state = STOPPED if self._closed else RETRYING if self._failure else STARTING
        if output is None:
            return SinkReport(state, self._failure, dropped=self._lost)
        report = output.report()
        if self._failure and not self._closed:
            return SinkReport(state, self._failure, report.published, report.restarts, report.dropped + self._lost)
        return SinkReport(report.state, report.reason, report.published, report.restarts, report.dropped + self._lost)

    def close(self) -> None:
        """See ``FrameSink``: at most 3 s."""
        with self._lock:
            self._closed = True
        if self._output is not None:
            self._output.close(3.0)

    def _ready(self, size: tuple[int, int]) -> tuple[PacketOutput, H264Encoder]:
        """Return encoder and output, made for the first picture or after the encoder has failed."""
        spec = self._spec
        if self._encoder is None:
            if time.monotonic() < self._next_try:
                raise PublishError(self._failure)
            self._next_try = time.monotonic() + _ENCODER_PAUSE
            self._encoder = H264Encoder(*size, spec.fps, spec.preset, spec.bitrate, spec.codec)
        with self._lock:
            if self._closed:
                raise PublishError("stopped")
            if self._output is None:
                self._output = self._new_output(self._encoder)
            return self._output, self._encoder

    def _new_output(self, encoder: H264Encoder) -> PacketOutput:
        output = PacketOutput(
            self._spec.url,
            encoder.format,
            self._binary,
            request_keyframe=self._request_keyframe,
            stream_id=self._stream_id,
        )
        output.start()
        return output

    def _request_keyframe(self) -> None:
        encoder = self._encoder
        if encoder is not None:
            encoder.request_keyframe()

    def _encoder_failed(self, reason: str) -> None:
        if not self._failure:
            log.warning("encoding failed, trying again", stream_id=self._stream_id, reason=reason)
        self._failure = reason
        self._lost += 1
        self._encoder = None
