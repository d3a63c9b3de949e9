"""Chooses how a source is read."""

from __future__ import annotations

from collections.abc import Callable

from sentinel_pipeline.application.ports import FrameSource
from sentinel_pipeline.domain.streams import DecodeSpec
from sentinel_pipeline.domain.timeline import Timeline
from sentinel_pipeline.infrastructure.video.av_input import scheme_of
from sentinel_pipeline.infrastructure.video.opencv_source import OpenCVSource
from sentinel_pipeline.infrastructure.video.pyav_source import PyAVSource


def open_source(
    spec: DecodeSpec,
    url: str,
    *,
    timeline: Timeline | None = None,
    idle: Callable[[], bool] = lambda: False,
    on_packet: Callable[[float], None] = lambda _: None,
    ffmpeg: str = "",
    prompt: bool = False,
) -> FrameSource:
    """Return a source for one connection, not yet connected.

    ``timeline`` carries stream time over from one connection of a stream to the next. ``idle``, ``on_packet`` and
    ``ffmpeg``: see ``PyAVSource``; OpenCV shows neither packets nor key frames. Files and the test pattern are PyAV's,
    whatever the backend: OpenCV would read them as fast as it can, not at their pace.
    ``prompt``: every picture is wanted, as soon as it can be had; where some are skipped or a device decodes it is not.
    """
    played = bool(url) and scheme_of(url) in ("file", "test")
    if spec.backend == "opencv" and not played:
        return OpenCVSource(
            url,
            transport=spec.transport,
            open_timeout=spec.open_timeout,
            read_timeout=spec.read_timeout,
            timeline=timeline,
        )
    return PyAVSource(
        url,
        transport=spec.transport,
        open_timeout=spec.open_timeout,
        read_timeout=spec.read_timeout,
        hwaccel=spec.hwaccel,
        timeline=timeline,
        skip_nonref=spec.skip == "nonref",
        idle=idle,
        on_packet=on_packet,
        ffmpeg=ffmpeg,
        prompt=prompt and spec.skip == "none" and spec.hwaccel == "none",
    )
