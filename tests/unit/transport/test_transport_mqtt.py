"""MQTT without a broker: addresses, reason codes, messages, Home Assistant's sensors."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sentinel_pipeline.domain.errors import ConfigError, DeliveryError, PayloadTooLarge, Rejected, Unauthorised
from sentinel_pipeline.domain.events import Event, EventStage
from sentinel_pipeline.domain.system_events import Outage, stream_down, stream_up
from sentinel_pipeline.infrastructure.transport.mqtt_address import MqttAddress, parse_address
from sentinel_pipeline.infrastructure.transport.mqtt_messages import Board, Message
from sentinel_pipeline.infrastructure.transport.mqtt_reasons import judge
from sentinel_pipeline.infrastructure.transport.mqtt_sink import MqttSink, default_client_id

DETECTED, CONFIRMED, CLEARED = EventStage.DETECTED, EventStage.CONFIRMED, EventStage.CLEARED


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("mqtt://broker", MqttAddress("broker", 1883, False)),
        ("mqtts://broker/", MqttAddress("broker", 8883, True)),
        ("mqtt://u:p%40s%2F@broker:18/a/b/", MqttAddress("broker", 18, False, "a/b", "u", "p@s/")),
        ("mqtt://u@[::1]:1/caf%C3%A9", MqttAddress("::1", 1, False, "café", "u")),
    ],
)
def test_mqtt_address(url: str, expected: MqttAddress) -> None:
    """Scheme, credentials, host, port and topic prefix come out of one URL."""
    assert parse_address(url) == expected


@pytest.mark.parametrize(
    "url",
    [
        "http://h",
        "mqtt://",
        "mqtt://h:99999",
        "mqtt://h/a+b",
        "mqtt://h/%23",
        "mqtt://h/$SYS",
        "mqtt://h/a?x=1",
        "mqtt://h /",
    ],
)
def test_mqtt_address_that_cannot_be_used(url: str) -> None:
    """A URL that names no broker or no possible topic is refused with a remedy and without its password."""
    with pytest.raises(ConfigError) as caught:
        parse_address(url.replace("//h", "//bob:s3cret@h"))
    assert "s3cret" not in str(caught.value)
    assert caught.value.remedy


def test_mqtt_repr_has_no_credentials() -> None:
    """Neither the address nor the sink shows the password."""
    address = parse_address("mqtt://bob:s3cret@h/x")
    assert "s3cret" not in repr(address) + repr(MqttSink("mqtt://bob:s3cret@h/x"))


def test_mqtt_client_id_is_one_that_every_broker_must_take() -> None:
    """At most 23 letters and digits, the same after a restart, another for another prefix."""
    here, there = parse_address("mqtt://h/a"), parse_address("mqtt://h/b")
    assert default_client_id(here) == default_client_id(parse_address("mqtt://h/a"))
    assert default_client_id(here) != default_client_id(there)
    assert default_client_id(here).isalnum()
    assert len(default_client_id(here)) <= 23


@pytest.mark.parametrize(
    ("code", "about_batch", "expected"),
    [
        (0x87, True, Unauthorised),
        (0x86, False, Unauthorised),
        (0x8A, False, Unauthorised),
        (0x95, True, PayloadTooLarge),
        (0x95, False, DeliveryError),
        (0x99, True, Rejected),
        (0x99, False, DeliveryError),
        (0x97, True, DeliveryError),
        (0x90, True, DeliveryError),
        (0x80, True, DeliveryError),
        (0x9D, False, DeliveryError),
    ],
)
def test_mqtt_reason_codes(code: int, about_batch: bool, expected: type[Exception]) -> None:
    """Each class of reason codes has its consequence; only an answer to a batch can condemn events."""
    failure = judge(code, "words", "broker:1883", about_batch=about_batch)
    assert type(failure) is expected
    assert failure.remedy
    assert f"0x{code:02x}: words" in str(failure)


@given(st.integers(0x80, 0xFF))
def test_mqtt_no_reason_for_the_connection_costs_events(code: int) -> None:
    """Whatever a broker says when it refuses or ends a connection, no event is parked or split for it."""
    assert isinstance(judge(code, "", "b", about_batch=False), DeliveryError | Unauthorised)


def bodies(*events: Event) -> list[bytes]:
    return [event.encode() for event in events]


def alarm(stage: EventStage, incident: str = "1", rule: str = "zone", **more: Any) -> Event:
    return Event("INTRUSION", stage, "gate", rule, 1.0, details={"incident_id": incident, **more})


def news(board: Board, *events: Event) -> list[Message]:
    """What a broker that takes everything is told after a batch."""
    settle(board, board.unsettled())
    told = board.news(bodies(*events))
    settle(board, told)
    return told


def settle(board: Board, messages: list[Message]) -> None:
    for message in messages:
        board.settle(message)


def test_mqtt_batch_becomes_one_message() -> None:
    """All events of a batch, of all streams, are one JSON array under the batch's key; nothing else without need."""
    sent = [alarm(DETECTED), Event("X", CONFIRMED, "yard", "r", 2.0)]
    board = Board("site")
    message = board.batch(bodies(*sent), "key-1")
    assert news(board, *sent) == []
    assert (message.topic, message.retain, message.key) == ("site/events", False, "key-1")
    assert [Event.from_wire(wire) for wire in json.loads(message.payload)] == sent


def test_mqtt_stream_state_follows_the_system_events() -> None:
    """Each loss and return is a retained state; what is retained is remembered, the newest per topic."""
    outage = Outage(1_732_406_400.0, "401")
    board = Board("site")
    made = news(board, stream_down("gate", outage), stream_up("gate", outage, 1_732_406_500.0))
    assert [(m.topic, m.retain, json.loads(m.payload)["state"]) for m in made] == [
        ("site/streams/gate/state", True, "DOWN"),
        ("site/streams/gate/state", True, "UP"),
    ]
    assert json.loads(made[0].payload)["reason"] == "401"
    board.unsettle()
    assert board.unsettled() == [board.status("online"), made[1]]


def states(messages: list[Message]) -> list[bytes]:
    return [message.payload for message in messages if message.topic.startswith("site/streams/gate/rules/")]


def test_mqtt_alarm_is_on_while_anybody_is_inside() -> None:
    """Two objects in a zone: on with the first, off when the last has gone; seen only is not an alarm."""
    board = Board("site", "homeassistant")
    sent = [alarm(DETECTED), alarm(CONFIRMED), alarm(CONFIRMED, "2"), alarm(CLEARED), alarm(CLEARED, "2")]
    assert states(news(board, *sent)) == [b"ON", b"ON", b"ON", b"OFF"]
    # The same batch again, as after a lost answer, ends in the same state.
    assert states(news(board, *sent))[-1] == b"OFF"
    assert states(news(board, alarm(CLEARED, "never seen"))) == [b"OFF"]


def test_mqtt_crossed_line_turns_itself_off() -> None:
    """Nothing clears a line: its state is not retained, and the sensor has a delay after which it is off."""
    board = Board("site", "homeassistant")
    config, state = news(board, alarm(CONFIRMED, rule="line", direction="left"))
    assert json.loads(config.payload)["off_delay"] == 5
    assert (state.payload, state.retain) == (b"ON", False)


def test_mqtt_discovery_says_what_home_assistant_needs() -> None:
    """A sensor per rule and one for the connection, each announced once, retained, with unique ids and an origin."""
    board = Board("site", "ha")
    odd = alarm(CONFIRMED, rule="connection")
    down = stream_down("gate", Outage(1.0, "gone"))
    made = news(board, alarm(CONFIRMED), odd, down, alarm(CONFIRMED, "2"), down)
    configs = [message for message in made if message.topic.startswith("ha/binary_sensor/")]
    assert all(message.retain for message in configs)
    payloads = [json.loads(message.payload) for message in configs]
    assert len(payloads) == len({p["unique_id"] for p in payloads}) == len({m.topic for m in configs}) == 3
    for payload in payloads:
        assert payload["availability_topic"] == "site/status"
        assert payload["origin"]["name"]
        assert payload["device"]["name"] == "gate"
        assert payload["state_topic"] in {message.topic for message in made}
    assert [p["device_class"] for p in payloads] == ["motion", "motion", "connectivity"]
    board.unsettle()
    assert {m.topic for m in board.unsettled()} >= {m.topic for m in configs}


def test_mqtt_without_discovery_there_are_no_alarm_states() -> None:
    """Rule states are for Home Assistant only."""
    assert news(Board("site"), alarm(CONFIRMED)) == []


@given(st.text(min_size=1, max_size=60), st.text(min_size=1, max_size=60))
def test_mqtt_any_name_makes_possible_topics(rule: str, other: str) -> None:
    """Whatever rules are called, topics have no wildcards, discovery's parts its few characters, and none collide."""
    try:
        rule.encode(), other.encode()
    except UnicodeEncodeError:
        return
    made = news(Board("site", "ha"), alarm(CONFIRMED, rule=rule), alarm(CONFIRMED, rule=other))
    topics = {message.topic for message in made}
    assert not any(character in topic for topic in topics for character in "+#\0 ")
    configs = [topic for topic in topics if topic.startswith("ha/")]
    assert all(part.replace("_", "").replace("-", "").isalnum() for topic in configs for part in topic.split("/"))
    assert len(topics) == (4 if rule != other else 2)


def test_mqtt_replay_of_an_old_event_changes_no_state() -> None:
    """What an operator sends again is in the events; the camera is as its newest event says, and so is the alarm."""
    board, outage = Board("site", "ha"), Outage(1_732_406_400.0, "401")
    down, up = stream_down("gate", outage), stream_up("gate", outage, 1_732_406_500.0)
    entered, gone, crossed = alarm(CONFIRMED), alarm(CLEARED), alarm(CONFIRMED, "2", "line", direction="left")
    news(board, down, up, entered, gone, crossed, alarm(CONFIRMED, "3", "line", direction="left"))
    assert news(board, down, entered, crossed) == []
    assert states(news(board, alarm(CONFIRMED, "4"), alarm(CLEARED, "4"))) == [b"ON", b"OFF"]


def test_mqtt_end_of_an_incident_counts_however_late_it_comes() -> None:
    """One that was parked, and is sent again behind newer ones, must not leave the alarm on for ever."""
    board = Board("site", "ha")
    first, gone, second = alarm(CONFIRMED, "1"), alarm(CLEARED, "1"), alarm(CONFIRMED, "2")
    assert states(news(board, first, second)) == [b"ON", b"ON"]
    assert news(board, gone) == []
    assert states(news(board, alarm(CLEARED, "2"))) == [b"OFF"]


def test_mqtt_batch_that_was_not_delivered_gives_the_same_again() -> None:
    """Making the message of a batch follows none of its events: those that come again are not taken for old ones."""
    board, outage = Board("site"), Outage(1.0, "gone")
    sent = bodies(stream_down("gate", outage), stream_up("gate", outage, 2.0))
    assert board.batch(sent, "k") == board.batch(sent, "k")
    settle(board, board.unsettled())
    assert [json.loads(message.payload)["state"] for message in board.news(sent)] == ["DOWN", "UP"]


def test_mqtt_events_of_a_wrong_clock_do_not_freeze_a_state() -> None:
    """A backlog that was stored under a clock years ahead is followed, and so is what happens now."""
    board, outage = Board("site"), Outage(1.0, "gone")
    ahead = replace(stream_down("gate", outage), event_id="f" + stream_down("gate", outage).event_id[1:])
    made = news(board, ahead, stream_up("gate", outage, 2.0), stream_down("gate", outage))
    assert [json.loads(message.payload)["state"] for message in made] == ["DOWN", "UP", "DOWN"]


def test_mqtt_incidents_of_an_earlier_run_are_over() -> None:
    """Nobody is left to clear what was confirmed before a crash: it turns nothing on, and what was on goes off."""
    entered, crossed = alarm(CONFIRMED), alarm(CONFIRMED, "2", "line", direction="left")
    board = Board("site", "ha")
    assert states(news(board, entered, crossed)) == [b"OFF"]
    assert states(news(board, alarm(CONFIRMED, "3"), alarm(CLEARED, "3"))) == [b"ON", b"OFF"]


def test_mqtt_what_a_broker_has_not_taken_is_told_with_the_next_batch() -> None:
    """A sensor and a state that were refused in passing come first, and no more once they were taken."""
    board = Board("site", "ha")
    settle(board, board.unsettled())
    refused = board.news(bodies(alarm(CONFIRMED)))
    told = board.news(bodies(Event("X", DETECTED, "gate", "other", 1.0)))
    assert told == refused
    assert [message.topic.split("/")[0] for message in told] == ["ha", "site"]
    settle(board, told)
    assert board.unsettled() == []
    board.unsettle()  # a new connection
    assert board.unsettled() == [board.status("online"), *told]
