"""How Home Assistant learns of streams and rules by itself (MQTT discovery, component ``binary_sensor``). Pure.

One device per stream; on it one sensor per rule that has confirmed something, and one for the connection.
https://www.home-assistant.io/integrations/mqtt/#mqtt-discovery
"""

from __future__ import annotations

import hashlib
import re
from typing import Any

import orjson

# A line is crossed in a moment and nothing ever clears it: Home Assistant takes the state back by itself.
OFF_DELAY_S = 5
CONNECTION = "connection"


def config_topic(discovery_prefix: str, prefix: str, stream: str, key: str) -> str:
    """Return the topic of a sensor's configuration; only ``[A-Za-z0-9_-]`` may be in its last parts."""
    return f"{discovery_prefix}/binary_sensor/sentinel_{_slug(prefix)}_{_slug(stream)}/{_slug(key)}/config"


def rule_key(rule: str) -> str:
    """Return what tells a rule's sensor from the others of its stream."""
    return f"rule_{rule}"


def alarm_sensor(prefix: str, stream: str, rule: str, state_topic: str, *, momentary: bool) -> bytes:
    """Return the configuration of a rule's sensor, JSON: on while an incident is open."""
    made = _sensor(prefix, stream, rule_key(rule), rule, state_topic) | {
        "device_class": "motion",
        "payload_on": "ON",
        "payload_off": "OFF",
    }
    return orjson.dumps(made | ({"off_delay": OFF_DELAY_S} if momentary else {}))


def connection_sensor(prefix: str, stream: str, state_topic: str) -> bytes:
    """Return the configuration of the sensor that says whether a camera is connected, JSON."""
    return orjson.dumps(
        _sensor(prefix, stream, CONNECTION, CONNECTION, state_topic)
        | {
            "device_class": "connectivity",
            "entity_category": "diagnostic",
            "value_template": "{{ value_json.state }}",
            "payload_on": "UP",
            "payload_off": "DOWN",
        }
    )


def _sensor(prefix: str, stream: str, key: str, name: str, state_topic: str) -> dict[str, Any]:
    device = f"sentinel_{_slug(prefix)}_{_slug(stream)}"
    return {
        "name": name,
        "unique_id": f"{device}_{_slug(key)}",
        "state_topic": state_topic,
        "qos": 1,
        "availability_topic": f"{prefix}/status",
        "payload_available": "online",
        "payload_not_available": "offline",
        "device": {"identifiers": [device], "name": stream, "manufacturer": "Sentinel Pipeline"},
        "origin": {"name": "Sentinel Pipeline"},
    }


def _slug(name: str) -> str:
    """Return ``name`` in the characters that discovery allows; a changed one gets a hash, so that no two collide."""
    plain = re.sub(r"[^A-Za-z0-9_-]", "_", name)
    return plain if plain == name else f"{plain[:40]}_{hashlib.sha256(name.encode()).hexdigest()[:8]}"
