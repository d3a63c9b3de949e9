"""From the configuration of a sink to its transport and how it is served."""

from __future__ import annotations

from sentinel_pipeline.application.commands import Commands
from sentinel_pipeline.application.event.delivery import DeliverySettings
from sentinel_pipeline.application.ports import EventTransport
from sentinel_pipeline.domain.errors import ConfigError
from sentinel_pipeline.domain.settings import SinkSpec
from sentinel_pipeline.infrastructure.transport.http_sink import HttpSink
from sentinel_pipeline.infrastructure.transport.ws_sink import WebSocketSink


def make_transport(spec: SinkSpec, commands: Commands) -> EventTransport:
    """Return the transport of a sink. Raises ``ConfigError`` when the library that it needs is not installed."""
    if spec.type == "mqtt":
        return make_mqtt_sink(spec)
    if spec.type == "http":
        return HttpSink(
            spec.url, headers=spec.headers, timeout=spec.timeout, format=spec.format, verify=spec.verify_tls
        )
    return WebSocketSink(
        spec.url,
        headers=spec.headers,
        verify=spec.verify_tls,
        open_timeout=spec.timeout,
        ack_timeout=spec.timeout,
        commands=commands.run,
        allow_commands=spec.allow_commands,
    )


def make_mqtt_sink(spec: SinkSpec) -> EventTransport:
    """Return an MQTT sink. Raises ``ConfigError`` when the extra ``brokers`` is not installed."""
    try:
        from sentinel_pipeline.infrastructure.transport.mqtt_sink import MqttSink
    except ImportError as exc:
        raise ConfigError(
            f"the sink {spec.id} needs a library that is not installed: {exc.name}",
            remedy="pip install 'sentinel-pipeline[brokers]'",
        ) from exc
    return MqttSink(spec.url, timeout=spec.timeout, verify=spec.verify_tls, discovery=spec.discovery)


def delivery_settings(spec: SinkSpec) -> DeliverySettings:
    """Return how a sink is served; the loop's own time limit must not cut off what the sink's ``timeout`` allows.

    One send connects, greets, sends and hears the answer, each with that timeout.
    """
    return DeliverySettings(spec.max_events, spec.max_wait, send_timeout=max(120.0, 4 * spec.timeout + 10.0))
