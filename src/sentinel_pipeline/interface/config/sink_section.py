"""The ``sinks`` section."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from sentinel_pipeline.interface.config.addresses import HttpUrl, WebSocketUrl
from sentinel_pipeline.interface.config.fields import DURATION, WHOLE, HeaderName, HeaderValue, Quantity
from sentinel_pipeline.interface.config.section import Section, optional, required


class SinkBatchSection(Section):
    """How events are put together for one delivery."""

    max_events: Annotated[int, Quantity(WHOLE, 1, 10_000)] = optional(100, "Most events in one delivery.")
    max_wait: Annotated[float, Quantity(DURATION, 0, "60s")] = optional("200ms", "How long an event waits for company.")


class _Sink(Section):
    headers: dict[HeaderName, HeaderValue] = optional(
        {}, "Headers of every request, such as Authorization. Values are never shown.", secret=True
    )
    batch: SinkBatchSection = optional({}, "Batching of events.")
    timeout: Annotated[float, Quantity(DURATION, "100ms", "10m")] = optional(
        "10s", "How long one attempt to deliver may take."
    )
    verify_tls: bool = optional(written=True, description="Check the receiver's certificate. false only for tests.")


class HttpSink(_Sink):
    """Events by HTTP POST, a JSON array each time."""

    type: Literal["http"] = required("Kind of receiver: http.")
    url: HttpUrl = required(
        "http:// or https:// address of the receiver.", secret=True, example="https://vms.example/events"
    )
    format: Literal["json", "cloudevents"] = optional("json", "Wire form 1, or a CloudEvents 1.0 batch.")


class WebSocketSink(_Sink):
    """Events over one WebSocket that is kept open."""

    type: Literal["websocket"] = required("Kind of receiver: websocket.")
    url: WebSocketUrl = required(
        "ws:// or wss:// address of the receiver.", secret=True, example="wss://vms.example/ws/events"
    )


SinkSection = Annotated[HttpSink | WebSocketSink, Field(discriminator="type")]
