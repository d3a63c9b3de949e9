"""The ``sinks`` section."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from sentinel_pipeline.interface.config.addresses import HttpUrl, MqttUrl, WebSocketUrl
from sentinel_pipeline.interface.config.fields import (
    DURATION,
    WHOLE,
    CommandName,
    HeaderName,
    HeaderValue,
    Quantity,
    TopicName,
)
from sentinel_pipeline.interface.config.section import Section, optional, required


class SinkBatchSection(Section):
    """How events are put together for one delivery."""

    max_events: Annotated[int, Quantity(WHOLE, 1, 10_000)] = optional(100, "Most events in one delivery.")
    max_wait: Annotated[float, Quantity(DURATION, 0, "60s")] = optional("200ms", "How long an event waits for company.")


class _Sink(Section):
    batch: SinkBatchSection = optional({}, "Batching of events.")
    timeout: Annotated[float, Quantity(DURATION, "100ms", "10m")] = optional(
        "10s", "How long connecting, sending and waiting for the answer may take, each; http: three times it in all."
    )
    verify_tls: bool = optional(
        written=True,
        description="Check the receiver's certificate. false only for tests; a CA of your own: see security.md.",
    )


class _WithHeaders(_Sink):
    headers: dict[HeaderName, HeaderValue] = optional(
        {}, "Headers of every request, such as Authorization. Values are never shown.", secret=True
    )


class HttpSink(_WithHeaders):
    """Events by HTTP POST, a JSON array each time."""

    type: Literal["http"] = required("Kind of receiver: http.")
    url: HttpUrl = required(
        "http:// or https:// address of the receiver.", secret=True, example="https://vms.example/events"
    )
    format: Literal["json", "cloudevents"] = optional("json", "Wire form 1, or a CloudEvents 1.0 batch.")


class WebSocketSink(_WithHeaders):
    """Events over one WebSocket that is kept open."""

    type: Literal["websocket"] = required("Kind of receiver: websocket.")
    url: WebSocketUrl = required(
        "ws:// or wss:// address of the receiver.", secret=True, example="wss://vms.example/ws/events"
    )
    allow_commands: tuple[CommandName, ...] = optional(
        (), "What the server may ask for: snapshot, restart_stream, ping. Everything else is answered with an error."
    )


class MqttSink(_Sink):
    """Events to an MQTT 5 broker, QoS 1, a JSON array each time. Needs the extra brokers."""

    type: Literal["mqtt"] = required("Kind of receiver: mqtt.")
    url: MqttUrl = required(
        "mqtt:// or mqtts:// address of the broker, with the prefix of all topics as its path (sentinel without one).",
        secret=True,
        example="mqtt://user:${MQTT_PASSWORD}@broker.example:1883/site/a",
    )
    discovery: bool = optional(written=False, description="Tell Home Assistant of the streams and rules.")
    discovery_prefix: TopicName = optional("homeassistant", "Home Assistant's discovery prefix.")


SinkSection = Annotated[HttpSink | WebSocketSink | MqttSink, Field(discriminator="type")]
