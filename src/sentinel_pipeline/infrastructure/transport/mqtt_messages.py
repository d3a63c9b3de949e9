"""Which messages a batch becomes, and on which topics. Pure but for the clock.

<prefix>/events                         the batch: a JSON array of wire form 1
<prefix>/streams/<id>/state             retained: {"state": "UP" | "DOWN", "since": …, "reason": …}
<prefix>/status                         retained: online, or offline (the last will)
<prefix>/streams/<id>/rules/<rule>      ON, OFF: with Home Assistant's discovery only
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import orjson

from sentinel_pipeline.domain.events import EventStage, new_event_id
from sentinel_pipeline.domain.incidents import is_momentary
from sentinel_pipeline.domain.system_events import STREAM_DOWN, STREAM_UP, SYSTEM
from sentinel_pipeline.infrastructure.transport.mqtt_discovery import (
    CONNECTION,
    alarm_sensor,
    config_topic,
    connection_sensor,
    rule_key,
)
from sentinel_pipeline.infrastructure.transport.payload import json_array

_OPEN_INCIDENTS = 1000  # per rule; those that never end (a rule that was removed) must not add up


@dataclass(frozen=True, slots=True)
class Message:
    """What is published. ``json``: the payload is JSON. ``key``: the batch's idempotency key, where it is one."""

    topic: str
    payload: bytes
    retain: bool = False
    json: bool = True
    key: str = ""


class Board:
    """Turns batches into messages, and remembers what is retained: a broker may forget it when it restarts.

    prefix: of our topics. discovery_prefix: Home Assistant's (usually ``homeassistant``), or None for no discovery.
    Belongs to one sink, and is made before the program's first event. What is to be retained is one thing, what the
    broker has taken of it over this connection (``settled``) another.
    """

    def __init__(self, prefix: str, discovery_prefix: str | None = None) -> None:
        self._prefix, self._discovery = prefix, discovery_prefix
        self._born = new_event_id()  # event ids are UUIDv7: as text they are ordered by time
        self._retained: dict[str, Message] = {self.status_topic: self.status("online")}
        self._settled: dict[str, Message] = {}
        self._newest: dict[str, str] = {}  # state topic -> the newest event that it has followed
        self._open: dict[str, dict[str, None]] = {}  # state topic of a rule -> its open incidents, oldest first

    @property
    def status_topic(self) -> str:
        """Where it says whether this program is connected."""
        return f"{self._prefix}/status"

    def status(self, state: str) -> Message:
        """Return the message that says ``online`` or ``offline``."""
        return Message(self.status_topic, state.encode(), retain=True, json=False)

    def batch(self, bodies: Sequence[bytes], key: str) -> Message:
        """Return the message that carries a batch of wire forms."""
        return Message(f"{self._prefix}/events", json_array(bodies), key=key)

    def news(self, bodies: Sequence[bytes]) -> list[Message]:
        """Follow the events of a batch that the broker has; return what it is to be told, in order.

        That begins with what it has not taken yet. A batch that comes once more ends in the same states.
        """
        told = self.unsettled()
        for body in bodies:
            told += self._consequences(orjson.loads(body))
        return told

    def unsettled(self) -> list[Message]:
        """Return what a broker should have retained by now and has not taken: that we are online, sensors, states."""
        return [message for topic, message in self._retained.items() if self._settled.get(topic) != message]

    def settle(self, message: Message) -> None:
        """The broker has taken the message, or never will."""
        if message.retain:
            self._settled[message.topic] = message

    def unsettle(self) -> None:
        """There is a new connection: a broker may have forgotten everything."""
        self._settled.clear()

    def _consequences(self, event: Mapping[str, Any]) -> list[Message]:
        if event["type"] in (STREAM_UP, STREAM_DOWN):
            return self._stream_state(event)
        if self._discovery is None or event["module_name"] == SYSTEM or event["stage"] == EventStage.DETECTED:
            return []
        return self._alarm(event)

    def _stream_state(self, event: Mapping[str, Any]) -> list[Message]:
        stream, topic = event["stream_id"], f"{self._stream(event)}/state"
        if self._is_old(topic, event):
            return []
        up = event["type"] == STREAM_UP
        state = {
            "state": "UP" if up else "DOWN",
            "since": event["ts_iso"],
            "reason": "" if up else event["details"].get("reason", ""),
        }
        news = []
        if self._discovery is not None:
            place = config_topic(self._discovery, self._prefix, stream, CONNECTION)
            news += self._once(Message(place, connection_sensor(self._prefix, stream, topic), retain=True))
        return [*news, self._keep(Message(topic, orjson.dumps(state), retain=True))]

    def _alarm(self, event: Mapping[str, Any]) -> list[Message]:
        assert self._discovery is not None  # noqa: S101 - the only caller has looked
        stream, rule = event["stream_id"], event["module_name"]
        topic = f"{self._stream(event)}/rules/{quote(rule, safe='')}"
        momentary = is_momentary(event["details"])
        if event["stage"] == EventStage.CLEARED:  # whenever it comes: it is never open again
            self._open.get(topic, {}).pop(_incident(event), None)
        if self._is_old(topic, event) or (momentary and self._is_of_an_earlier_run(event)):
            return []
        place = config_topic(self._discovery, self._prefix, stream, rule_key(rule))
        sensor = alarm_sensor(self._prefix, stream, rule, topic, momentary=momentary)
        news = self._once(Message(place, sensor, retain=True))
        if momentary:
            return [*news, Message(topic, b"ON", json=False)]
        state = b"ON" if self._is_open(topic, event) else b"OFF"
        return [*news, self._keep(Message(topic, state, retain=True, json=False))]

    def _is_open(self, topic: str, event: Mapping[str, Any]) -> bool:
        """Return whether the rule has an open incident after this event: several objects may be inside at once."""
        incidents = self._open.setdefault(topic, {})
        # Incidents of an earlier run are over: nobody is left to clear them.
        if event["stage"] != EventStage.CLEARED and not self._is_of_an_earlier_run(event):
            incidents[_incident(event)] = None
            if len(incidents) > _OPEN_INCIDENTS:
                del incidents[next(iter(incidents))]
        return bool(incidents)

    def _is_old(self, topic: str, event: Mapping[str, Any]) -> bool:
        """Return whether the topic has followed a newer event: an operator's replay says nothing of the present."""
        followed = self._newest.get(topic, "")
        # An id of the future is from a run whose clock was wrong: it must not outweigh all that happens from now on.
        if event["event_id"] < followed <= new_event_id():
            return True
        self._newest[topic] = event["event_id"]
        return False

    def _is_of_an_earlier_run(self, event: Mapping[str, Any]) -> bool:
        return bool(event["event_id"] < self._born)

    def _once(self, message: Message) -> list[Message]:
        """Return the message unless this very one is retained, and so among the unsettled where it must be told."""
        return [] if self._retained.get(message.topic) == message else [self._keep(message)]

    def _keep(self, message: Message) -> Message:
        self._retained[message.topic] = message
        return message

    def _stream(self, event: Mapping[str, Any]) -> str:
        return f"{self._prefix}/streams/{quote(event['stream_id'], safe='')}"


def _incident(event: Mapping[str, Any]) -> str:
    return str(event["details"].get("incident_id", ""))
