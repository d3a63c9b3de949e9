"""The whole configuration file."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator

from sentinel_pipeline.interface.config.fields import Id, fault
from sentinel_pipeline.interface.config.model_section import ModelSection
from sentinel_pipeline.interface.config.process_sections import ApiSection, OutboxSection, RuntimeSection
from sentinel_pipeline.interface.config.section import Section, optional, required
from sentinel_pipeline.interface.config.sink_section import SinkSection
from sentinel_pipeline.interface.config.stream_section import StreamSection


def _nothing_is_empty(value: object) -> object:
    return {} if value is None else value


def _version(value: object) -> object:
    if isinstance(value, bool) or str(value) != "1":
        raise fault("this program reads version 1 of the configuration", "write `version: 1`")
    return 1


def _some(streams: dict[str, StreamSection]) -> dict[str, StreamSection]:
    if not streams:
        raise fault("there is no camera", "add one: gate: {source: rtsp://host/path}")
    return streams


class RootSection(Section):
    """Configuration of Sentinel Pipeline."""

    version: Annotated[Literal[1], BeforeValidator(_version)] = required(
        "Version of the configuration's form: 1.", example=1
    )
    models: Annotated[dict[Id, ModelSection], BeforeValidator(_nothing_is_empty)] = optional(
        {}, "Models by id. A stream may name a built-in model without an entry here."
    )
    streams: Annotated[dict[Id, StreamSection], BeforeValidator(_nothing_is_empty), AfterValidator(_some)] = required(
        "Cameras by id, at least one.", example="{gate: {source: rtsp://host/path}}"
    )
    sinks: Annotated[dict[Id, SinkSection], BeforeValidator(_nothing_is_empty)] = optional(
        {}, "Receivers of events by id. Each gets every event."
    )
    outbox: OutboxSection = optional({}, "Where accepted events are kept until every sink has them.")
    api: ApiSection = optional({}, "The HTTP API: how everything is doing.")
    runtime: RuntimeSection = optional({}, "The process.")
