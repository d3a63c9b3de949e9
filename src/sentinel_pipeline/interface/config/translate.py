"""From the validated configuration to values of the domain. Paths become absolute; behind this nothing knows YAML."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from sentinel_pipeline.domain.builtin_models import BUILTIN_MODELS
from sentinel_pipeline.domain.models import ModelSpec
from sentinel_pipeline.domain.settings import ApiSpec, OutboxSpec, RuntimeSpec, SinkSpec
from sentinel_pipeline.domain.streams import (
    AnalyseSpec,
    DecodeSpec,
    DetectSpec,
    DwellRuleSpec,
    LineRuleSpec,
    MotionSpec,
    PrivacySpec,
    PublishSpec,
    ReconnectSpec,
    RuleSpec,
    StreamSpec,
    TrackSpec,
    ZoneRuleSpec,
)
from sentinel_pipeline.interface.config.addresses import is_local, local_path
from sentinel_pipeline.interface.config.combinations import binary
from sentinel_pipeline.interface.config.files import read_labels, resolve
from sentinel_pipeline.interface.config.model_section import ModelSection
from sentinel_pipeline.interface.config.process_sections import ApiSection, OutboxSection, RuntimeSection, split_listen
from sentinel_pipeline.interface.config.references import finder
from sentinel_pipeline.interface.config.rule_sections import DwellRule, LineRule, ZoneRule
from sentinel_pipeline.interface.config.sink_section import HttpSink, MqttSink, WebSocketSink
from sentinel_pipeline.interface.config.stream_section import (
    AnalyseSection,
    DecodeSection,
    PrivacySection,
    PublishSection,
    StreamSection,
)


def model_specs(models: Mapping[str, ModelSection], streams: Iterable[StreamSpec], base: Path) -> tuple[ModelSpec, ...]:
    """Return the models of the file, and the built-in ones that ``streams`` name directly."""
    used = [model for stream in streams for model in stream.models]
    direct = dict.fromkeys(name for name in used if name not in models and name in BUILTIN_MODELS)
    written = tuple(model_spec(name, section, base) for name, section in models.items())
    return written + tuple(ModelSpec(name, builtin=name) for name in direct)


def model_spec(name: str, section: ModelSection, base: Path) -> ModelSpec:
    """Return one model. Raises ``ValueError`` when its labels file cannot be read."""
    labels = section.labels
    if isinstance(labels, str) and labels != "coco":
        labels = read_labels(resolve(base, labels))
    return ModelSpec(
        id=name,
        builtin=section.builtin,
        path=str(resolve(base, section.path)) if section.path is not None else None,
        family=section.family or (None if section.builtin else "yolov8"),
        labels=labels,
        device=section.device,
        tensorrt=section.tensorrt,
        max_size=section.batch.max_size,
        max_wait=section.batch.max_wait,
        sha256=section.sha256,
        resize=section.resize,
        input_size=section.input_size,
        threads=section.threads,
        timeout=section.timeout,
    )


def stream_specs(streams: Iterable[tuple[str, StreamSection]], base: Path) -> tuple[StreamSpec, ...]:
    """Return the enabled streams."""
    return tuple(stream_spec(name, section, base) for name, section in streams if section.enabled)


def stream_spec(name: str, section: StreamSection, base: Path) -> StreamSpec:
    """Return one stream."""
    reconnect = section.reconnect
    return StreamSpec(
        id=name,
        source=_located(section.source, base),
        decode=_decode(section.decode),
        reconnect=ReconnectSpec(reconnect.base_delay, reconnect.max_delay, reconnect.max_retries),
        analyse=_analyse(section.analyse) if section.analyse else None,
        privacy=_privacy(section.privacy, section.analyse) if section.privacy else None,
        publish=_publish(section.publish, base) if section.publish else None,
    )


def _located(address: str, base: Path) -> str:
    return str(resolve(base, local_path(address))) if is_local(address) else address


def _decode(section: DecodeSection) -> DecodeSpec:
    return DecodeSpec(
        backend=section.backend,
        transport=section.transport,
        open_timeout=section.open_timeout,
        read_timeout=section.read_timeout,
        buffer_size=section.buffer_size,
        hwaccel=section.hwaccel,
        skip=section.skip,
    )


def _analyse(section: AnalyseSection) -> AnalyseSpec:
    detect, motion, track = section.detect, section.motion, section.track
    return AnalyseSpec(
        detect=DetectSpec(detect.model, detect.classes, detect.confidence, detect.iou),
        fps=section.fps,
        motion=MotionSpec(motion.enabled, motion.threshold, motion.hold),
        track=TrackSpec(track.enabled, track.lost_after),
        rules=tuple(_rule(rule) for rule in section.rules),
        max_age=section.max_age,
    )


def _rule(rule: ZoneRule | LineRule | DwellRule) -> RuleSpec:
    match rule:
        case ZoneRule():
            return ZoneRuleSpec(
                name=rule.name,
                polygon=rule.polygon,
                event=rule.event,
                classes=rule.classes,
                confirm_after=rule.confirm_after,
                clear_after=rule.clear_after,
                cooldown=rule.cooldown,
            )
        case LineRule():
            return LineRuleSpec(
                name=rule.name,
                start=rule.start,
                end=rule.end,
                event=rule.event,
                direction=rule.direction,
                classes=rule.classes,
                cooldown=rule.cooldown,
            )
        case DwellRule():
            return DwellRuleSpec(
                name=rule.name,
                polygon=rule.polygon,
                event=rule.event,
                longer_than=rule.longer_than,
                classes=rule.classes,
                clear_after=rule.clear_after,
                cooldown=rule.cooldown,
            )


def _privacy(section: PrivacySection, analyse: AnalyseSection | None) -> PrivacySpec:
    model = finder(section.blur, section.model, analyse.detect.model if analyse else None)
    if model is None:
        raise ValueError("no model finds what is private")  # the file was not checked: see ``references``
    return PrivacySpec(section.blur, model, section.method, section.fps, section.confidence)


def _publish(section: PublishSection, base: Path) -> PublishSpec:
    url, *also = (_located(url, base) for url in section.url)
    return PublishSpec(
        url=url,
        also=tuple(also),
        when=section.when,
        watch=section.watch.url if section.watch is not None and section.when == "watched" else (),
        fps=section.fps,
        size=section.size,
        codec=section.codec,
        preset=section.preset,
        bitrate=section.bitrate,
        overlay=section.overlay,
        tracks=section.tracks,
        time=section.time,
        on_signal_loss=section.on_signal_loss,
    )


def sink_spec(name: str, section: HttpSink | WebSocketSink | MqttSink) -> SinkSpec:
    """Return one sink."""
    return SinkSpec(
        id=name,
        type=section.type,
        url=section.url,
        headers={} if isinstance(section, MqttSink) else dict(section.headers),
        max_events=section.batch.max_events,
        max_wait=section.batch.max_wait,
        timeout=section.timeout,
        format=section.format if isinstance(section, HttpSink) else "json",
        verify_tls=section.verify_tls,
        allow_commands=section.allow_commands if isinstance(section, WebSocketSink) else (),
        discovery=section.discovery_prefix if isinstance(section, MqttSink) and section.discovery else None,
    )


def outbox_spec(section: OutboxSection, base: Path) -> OutboxSpec:
    """Return the outbox."""
    return OutboxSpec(resolve(base, section.path), section.max_size, section.max_age, section.when_full)


def api_spec(section: ApiSection) -> ApiSpec:
    """Return where the API listens."""
    host, port = split_listen(section.listen)
    return ApiSpec(host, port, section.token)


def runtime_spec(section: RuntimeSection, base: Path) -> RuntimeSpec:
    """Return the settings of the process."""
    ffmpeg = binary(section.ffmpeg, base) if section.ffmpeg is not None else None
    return RuntimeSpec(section.log.format, section.log.level, ffmpeg)
