"""The ``streams`` section."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from sentinel_pipeline.domain.streams import HidingMethod
from sentinel_pipeline.interface.config.addresses import PublishUrls, SourceUrl, WatchUrls
from sentinel_pipeline.interface.config.fields import (
    BITRATE,
    DURATION,
    NUMBER,
    WHOLE,
    CodecName,
    HiddenClasses,
    Name,
    PresetName,
    PublishSize,
    Quantity,
    Share,
)
from sentinel_pipeline.interface.config.rule_sections import RuleSection
from sentinel_pipeline.interface.config.section import Section, optional, required


class DecodeSection(Section):
    """How a camera is read."""

    backend: Literal["pyav", "opencv"] = optional(
        "pyav", "Library that reads and decodes. opencv is there for cameras that pyav cannot read."
    )
    transport: Literal["tcp", "udp"] = optional(
        "tcp", "How RTSP carries the video. udp loses packets where tcp waits for them."
    )
    open_timeout: Annotated[float, Quantity(DURATION, "100ms", "5m")] = optional(
        "10s", "How long a connection may take until its first frame."
    )
    read_timeout: Annotated[float, Quantity(DURATION, "100ms", "5m")] = optional(
        "5s", "How long a running camera may be silent before it counts as lost."
    )
    buffer_size: Annotated[int, Quantity(WHOLE, 1, 64)] = optional(
        2, "Frames kept for analysis and publishing; the oldest is dropped."
    )
    hwaccel: Literal["none", "auto", "cuda", "vaapi", "qsv"] = optional("none", "Hardware decoder.")
    skip: Literal["none", "nonref", "idle"] = optional(
        "none",
        "Pictures that are not decoded. nonref: those that no other needs (B-frames). idle: all but key frames, while"
        " nothing moves; needs `analyse.motion.enabled`.",
    )


class ReconnectSection(Section):
    """How a lost camera is tried again: waits double from `base_delay` to `max_delay`, with jitter."""

    base_delay: Annotated[float, Quantity(DURATION, "100ms", "1h")] = optional("1s", "First wait.")
    max_delay: Annotated[float, Quantity(DURATION, "100ms", "1h")] = optional(
        "30s", "Longest wait. After a refused login it is 60 s at least: cameras lock accounts."
    )
    max_retries: Annotated[int | None, Quantity(WHOLE, 0, 1_000_000, optional=True)] = optional(
        None,
        "Tries after the first failure, before the stream is given up; null: without end. It comes back with"
        " `restart_stream`, with a change of its entry and SIGHUP, or with the next start.",
    )


class MotionSection(Section):
    """Saves inferences while nothing moves."""

    enabled: bool = optional(written=False, description="Analyse only while something moves.")
    threshold: Share = optional(0.02, "Share of the picture that must change to count as motion.")
    hold: Annotated[float, Quantity(DURATION, 0, "1h")] = optional(
        "3s", "How long analysis goes on after motion has ended."
    )


class DetectSection(Section):
    """Which model looks for what."""

    model: Name = required("A model of the `models` section, or the name of a built-in one.", example="nanodet-g-416")
    classes: tuple[Name, ...] = optional((), "Classes that count, by label. Empty: all that the model knows.")
    confidence: Share = optional(0.4, "Least confidence of a detection. Higher: fewer false alarms, more misses.")
    iou: Share = optional(0.6, "Overlap above which two boxes of a class are one object.")


class TrackSection(Section):
    """Follows objects from frame to frame, so that one person is one incident."""

    enabled: bool = optional(written=True, description="Give objects an identity. Line rules need it.")
    lost_after: Annotated[float, Quantity(DURATION, "100ms", "10m")] = optional(
        "2s", "Stream time after which an object that is not seen any more is gone."
    )


class UserModuleSection(Section):
    """The user's own code."""

    use: Name = required("Class to load: package.module:Class.", example="mypackage.fire:FireModule")
    options: dict[str, Any] = optional({}, "What the class gets.")
    timeout: Annotated[float, Quantity(DURATION, "1ms", "60s")] = optional("50ms", "Longest call.")


class AnalyseSection(Section):
    """What is looked for in the pictures."""

    fps: Annotated[float, Quantity(NUMBER, 0.01, 120)] = optional(
        5, "Frames analysed per second of stream time. Five follow walking people; more costs in proportion."
    )
    max_age: Annotated[float, Quantity(DURATION, "10ms", "60s")] = optional(
        "500ms", "Frames older than this are skipped rather than analysed late."
    )
    motion: MotionSection = optional({}, "Motion gate in front of the model.")
    detect: DetectSection = required("The model and its thresholds.", example="{model: nanodet-g-416}")
    track: TrackSection = optional({}, "Tracking.")
    rules: tuple[RuleSection, ...] = optional((), "What becomes an event. Empty: boxes are drawn, nothing is sent.")
    modules: tuple[UserModuleSection, ...] = optional((), "The user's own code, called with every analysed frame.")


class PrivacySection(Section):
    """Makes people unrecognisable in every picture that goes out, and hides the whole where nobody has looked."""

    blur: HiddenClasses = required("Classes that are hidden, by label, such as face or person.", example="[face]")
    method: HidingMethod = optional("pixelate", "pixelate: squares. blur: soft. fill: black.")
    model: Name | None = optional(
        None,
        "What finds all of them. Without it: for [face] alone centerface, which is built in, for anything else"
        " `analyse.detect.model`. [face, person] needs a model of your own that knows both.",
    )
    fps: Annotated[float, Quantity(NUMBER, 2, 120)] = optional(
        5, "Pictures looked at per second of stream time. Who comes and goes between two of them is not seen."
    )
    confidence: Share = optional(0.3, "Least confidence of what is hidden. Lower: fewer misses, more hidden in vain.")


class WatchSection(Section):
    """Who is asked whether somebody watches."""

    url: WatchUrls = required(
        "What says who watches: MediaMTX's http://host:9997/v3/paths/get/NAME, or anything that answers with a number"
        ' or {"readers": number} in JSON. Or a list, one per media server.',
        secret=True,
        example="http://127.0.0.1:9997/v3/paths/get/gate",
    )


class PublishSection(Section):
    """Where and how the picture is republished."""

    url: PublishUrls = required(
        "rtsp://, rtsps://, rtmp://, rtmps:// or srt:// address, or a file ending in .mp4, .mkv or .ts. Or a list of"
        " them: the picture is encoded once, and an address that does not work does not hurt the others.",
        secret=True,
        example="rtsp://127.0.0.1:8554/gate",
    )
    fps: Annotated[float, Quantity(NUMBER, 1, 120)] = optional(25, "Constant frame rate, frames per second.")
    size: PublishSize = optional("source", "WIDTHxHEIGHT in pixels, even numbers, or source for the camera's own.")
    codec: CodecName = optional("libx264", "FFmpeg's name of the encoder, such as libx264 or h264_nvenc.")
    preset: PresetName = optional("ultrafast", "Preset of the software encoder. Slower ones need fewer bits.")
    bitrate: Annotated[int, Quantity(BITRATE, "10k", "200M")] = optional("2M", "Bits per second.")
    overlay: bool = optional(written=True, description="Draw boxes, labels and zones.")
    tracks: bool = optional(
        written=False, description="With `overlay: true`: draw where objects have been in the last two seconds as well."
    )
    time: bool = optional(
        written=False, description="With `overlay: true`: draw when the picture was taken as well, in local time."
    )
    when: Literal["always", "watched"] = optional(
        "always",
        "watched: while nobody watches only a picture every two seconds goes out, so that the path is there to be"
        " watched. Needs `watch`.",
    )
    watch: WatchSection | None = optional(None, "Who is asked whether somebody watches. Asked once a second.")
    on_signal_loss: Literal["hold", "stop"] = optional(
        "hold", "While the camera is away: hold shows its last picture with a mark, stop ends the output."
    )


class StreamSection(Section):
    """One camera and what happens to its pictures."""

    enabled: bool = optional(written=True, description="false keeps the entry and does not run it.")
    source: SourceUrl = required(
        "Camera: rtsp(s)://, rtmp(s)://, http(s)://, srt:// or udp:// address, a video file (relative to the"
        " configuration file), or test:WIDTHxHEIGHT@FPS. A password may be written raw or percent-encoded.",
        secret=True,
        example="rtsp://user:password@host:554/path",
    )
    decode: DecodeSection = optional({}, "How the camera is read.")
    reconnect: ReconnectSection = optional({}, "How a lost camera is tried again.")
    analyse: AnalyseSection | None = optional(None, "What is looked for. Without it nothing is analysed.")
    privacy: PrivacySection | None = optional(
        None, "What is made unrecognisable. Pictures are published 0.5 s and one look (1/fps) later then."
    )
    publish: PublishSection | None = optional(None, "Where the picture goes. Without it nothing is published.")
