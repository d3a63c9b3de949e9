"""What a stream is asked to do, and the states it goes through."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal

from sentinel_pipeline.domain.geometry import Point


class StreamState(StrEnum):
    """The life of a stream."""

    CONNECTING = "CONNECTING"  # first try
    RUNNING = "RUNNING"  # frames arrive
    RECONNECTING = "RECONNECTING"  # lost, or not there yet; the next try is scheduled or under way
    FAILED = "FAILED"  # the camera refuses (password, path): retried slowly, or given up when max_retries is set
    STOPPED = "STOPPED"  # by the operator


MOVES: dict[StreamState, frozenset[StreamState]] = {
    StreamState.STOPPED: frozenset({StreamState.CONNECTING}),
    StreamState.CONNECTING: frozenset(
        {StreamState.RUNNING, StreamState.RECONNECTING, StreamState.FAILED, StreamState.STOPPED}
    ),
    StreamState.RUNNING: frozenset({StreamState.RECONNECTING, StreamState.FAILED, StreamState.STOPPED}),
    StreamState.RECONNECTING: frozenset(
        {StreamState.CONNECTING, StreamState.RUNNING, StreamState.FAILED, StreamState.STOPPED}
    ),
    StreamState.FAILED: frozenset(
        {StreamState.CONNECTING, StreamState.RUNNING, StreamState.RECONNECTING, StreamState.STOPPED}
    ),
}


def move(old: StreamState, new: StreamState) -> StreamState:
    """Return ``new`` when the table allows the move (staying is allowed), else raise ``RuntimeError``."""
    if new is not old and new not in MOVES[old]:
        raise RuntimeError(f"a stream cannot go from {old} to {new}")
    return new


@dataclass(frozen=True, slots=True)
class DecodeSpec:
    """How to read a camera. Time-outs in seconds; ``buffer_size`` in frames.

    skip: ``nonref`` leaves out the pictures that no other refers to; ``idle`` decodes key frames only while the motion
    gate has been closed for its ``hold``, and needs that gate. With the backend pyav only.
    """

    backend: Literal["pyav", "opencv"] = "pyav"
    transport: Literal["tcp", "udp"] = "tcp"
    open_timeout: float = 10.0
    read_timeout: float = 5.0
    buffer_size: int = 2
    hwaccel: str = "none"
    skip: Literal["none", "nonref", "idle"] = "none"


@dataclass(frozen=True, slots=True)
class ReconnectSpec:
    """Waits in seconds; ``max_retries`` None means for ever."""

    base_delay: float = 1.0
    max_delay: float = 30.0
    max_retries: int | None = None


@dataclass(frozen=True, slots=True)
class MotionSpec:
    """``threshold``: share of the picture that must change, in [0, 1]; ``hold``: seconds to go on after motion ends."""

    enabled: bool = False
    threshold: float = 0.02
    hold: float = 3.0


@dataclass(frozen=True, slots=True)
class DetectSpec:
    """``classes`` empty means all; ``confidence`` and ``iou`` in [0, 1]."""

    model: str
    classes: tuple[str, ...] = ()
    confidence: float = 0.4
    iou: float = 0.6


@dataclass(frozen=True, slots=True)
class TrackSpec:
    """``lost_after``: seconds of stream time after which a track that is not seen any more ends."""

    enabled: bool = True
    lost_after: float = 2.0


@dataclass(frozen=True, slots=True)
class ZoneRuleSpec:
    """Objects inside a polygon. Points are shares of width and height in [0, 1]; times in seconds."""

    name: str
    polygon: tuple[Point, ...]
    event: str
    classes: tuple[str, ...] = ()
    confirm_after: float = 0.5
    clear_after: float = 2.0
    cooldown: float = 0.0


@dataclass(frozen=True, slots=True)
class LineRuleSpec:
    """Objects that cross a line. ``direction`` is as seen when looking from ``start`` to ``end``."""

    name: str
    start: Point
    end: Point
    event: str
    direction: Literal["both", "left", "right"] = "both"
    classes: tuple[str, ...] = ()
    cooldown: float = 0.0


@dataclass(frozen=True, slots=True)
class DwellRuleSpec:
    """Objects that stay inside a polygon longer than ``longer_than`` seconds."""

    name: str
    polygon: tuple[Point, ...]
    event: str
    longer_than: float
    classes: tuple[str, ...] = ()
    clear_after: float = 2.0
    cooldown: float = 0.0


RuleSpec = ZoneRuleSpec | LineRuleSpec | DwellRuleSpec


@dataclass(frozen=True, slots=True)
class AnalyseSpec:
    """``fps``: frames analysed per second of stream time; ``max_age``: seconds after which a frame is too old."""

    detect: DetectSpec
    fps: float = 5.0
    motion: MotionSpec = MotionSpec()
    track: TrackSpec = TrackSpec()
    rules: tuple[RuleSpec, ...] = ()
    max_age: float = 0.5


@dataclass(frozen=True, slots=True)
class PublishSpec:
    """Where and how the picture is republished. ``size`` None keeps the source's; ``bitrate`` in bit/s.

    also: further URLs that get the same packets.
    overlay: boxes, labels and zones are drawn; with ``tracks`` also where objects have been, with ``time`` the time.
    when: with ``watched``, only a key frame now and then goes out while nobody watches, as far as ``watch`` tells: the
    URLs that are asked for it, and may carry credentials.
    """

    url: str = field(repr=False)
    fps: float = 25.0
    size: tuple[int, int] | None = None
    codec: str = "libx264"
    preset: str = "ultrafast"
    bitrate: int = 2_000_000
    overlay: bool = True
    tracks: bool = False
    time: bool = False
    on_signal_loss: Literal["hold", "stop"] = "hold"
    also: tuple[str, ...] = field(default=(), repr=False)
    when: Literal["always", "watched"] = "always"
    watch: tuple[str, ...] = field(default=(), repr=False)

    @property
    def urls(self) -> tuple[str, ...]:
        """All URLs, the main one first."""
        return (self.url, *self.also)


HidingMethod = Literal["pixelate", "blur", "fill"]


@dataclass(frozen=True, slots=True)
class PrivacySpec:
    """What is made unrecognisable in every picture that leaves the program.

    classes: labels of ``model``. fps: pictures looked at per second of stream time. max_age: seconds after which a
    picture is too old to be looked at. confidence, iou: in [0, 1].
    """

    classes: tuple[str, ...]
    model: str
    method: HidingMethod = "pixelate"
    fps: float = 5.0
    confidence: float = 0.3
    iou: float = 0.6
    max_age: float = 0.5

    @property
    def delay(self) -> float:
        """Seconds after which the pictures before and after one have been looked at, or never will be."""
        return 1 / self.fps + self.max_age


@dataclass(frozen=True, slots=True)
class StreamSpec:
    """One camera and what happens to its pictures. Two equal specs need no restart."""

    id: str
    source: str = field(repr=False)  # may carry a password
    decode: DecodeSpec = DecodeSpec()
    reconnect: ReconnectSpec = ReconnectSpec()
    analyse: AnalyseSpec | None = None
    privacy: PrivacySpec | None = None
    publish: PublishSpec | None = None

    @property
    def models(self) -> tuple[str, ...]:
        """The models that it uses."""
        found = self.analyse.detect.model if self.analyse else None
        hidden = self.privacy.model if self.privacy else None
        return tuple(model for model in (found, hidden) if model is not None)
