"""Events about the program itself: their form, and what was left open."""

from __future__ import annotations

from sentinel_pipeline.domain.events import Event, EventStage
from sentinel_pipeline.domain.system_events import (
    Outage,
    Part,
    open_outages,
    outbox_damaged,
    part_down,
    part_up,
    resolution_changed,
    stream_down,
    stream_up,
)

OUTAGE = Outage(1_732_406_400.25, "no route to host")
VMS, LIVE = Part("sink", "vms"), Part("sink", "live")
OUT, PEOPLE = Part("publisher", "rtsp://h/gate", "gate"), Part("model", "people")


def test_system_events_of_an_outage_belong_together() -> None:
    """Down is DETECTED, up is CLEARED, both with the incident, the reason and when it began; up says how long."""
    down, up = stream_down("gate", OUTAGE), stream_up("gate", OUTAGE, OUTAGE.since + 12.5)
    assert (down.type, down.stage, up.type, up.stage) == (
        "SYSTEM_STREAM_DOWN",
        EventStage.DETECTED,
        "SYSTEM_STREAM_UP",
        EventStage.CLEARED,
    )
    assert {event.module_name for event in (down, up)} == {"system"}
    assert down.details == {
        "incident_id": OUTAGE.incident_id,
        "reason": "no route to host",
        "since": "2024-11-24T00:00:00.250Z",
    }
    assert up.details == {**down.details, "down_s": 12.5}
    assert (down.ts, up.ts) == (OUTAGE.since, OUTAGE.since + 12.5)


def test_system_events_of_sinks_and_sizes_are_wire_form_1() -> None:
    """A sink's events have the stream system and name the sink; every system event survives the wire."""
    told = [
        part_down(VMS, OUTAGE, OUTAGE.since + 10),
        part_up(VMS, OUTAGE, OUTAGE.since + 60),
        resolution_changed("gate", (1920, 1080), (640, 360), OUTAGE.since),
    ]
    assert [Event.from_wire(event.encode()) for event in told] == told
    assert [event.stream_id for event in told] == ["system", "system", "gate"]
    assert told[1].details["sink"] == "vms"
    assert told[1].details["down_s"] == 60.0
    assert (told[2].details["from"], told[2].details["to"]) == ([1920, 1080], [640, 360])


def test_system_events_say_what_was_left_open() -> None:
    """The newest word on each stream and part counts; the outage comes back with its incident, start and reason."""
    newest_first = [
        part_up(LIVE, OUTAGE, OUTAGE.since + 60),
        stream_down("gate", OUTAGE),
        part_down(VMS, OUTAGE, OUTAGE.since + 10),
        part_down(OUT, OUTAGE, OUTAGE.since + 10),
        part_up(PEOPLE, OUTAGE, OUTAGE.since + 10),
        part_down(PEOPLE, OUTAGE, OUTAGE.since + 5),
        Event("INTRUSION", EventStage.DETECTED, "gate", "zone", 1.0),
        stream_up("gate", Outage(1.0, "old"), 2.0),
        stream_up("yard", Outage(1.0, "old"), 2.0),
        part_down(LIVE, OUTAGE, OUTAGE.since + 10),
        stream_down("yard", Outage(1.0, "old")),
    ]
    assert open_outages(newest_first) == ({"gate": OUTAGE}, {VMS: OUTAGE, OUT: OUTAGE})


def test_system_events_read_back_what_others_wrote() -> None:
    """An event of that type without our details is an outage all the same, from its own time."""
    strange = Event("SYSTEM_STREAM_DOWN", EventStage.DETECTED, "gate", "system", 5.0, details={"since": 7})
    streams, _ = open_outages([strange])
    assert streams["gate"].since == 5.0


def test_system_events_that_were_replayed_say_nothing_new() -> None:
    """A copy of an old loss that an operator has queued again does not open the outage again."""
    down, up = part_down(VMS, OUTAGE, 2.0), part_up(VMS, OUTAGE, 3.0)
    lost, back = stream_down("gate", OUTAGE), stream_up("gate", OUTAGE, 3.0)
    assert open_outages([lost, down, up, back, lost, down]) == ({}, {})
    assert open_outages([up, down, up]) == ({}, {VMS: OUTAGE})


def test_system_events_carry_paths_that_are_not_utf_8() -> None:
    """Bytes of a path that no UTF-8 has, which Python keeps as surrogates, are written as escapes."""
    outage = Outage(1.0, "cannot open /srv/\udcff")
    told = [
        outbox_damaged("/srv/\udcff was damaged", "/srv/\udcff.corrupt", 1, 1.0),
        part_down(Part("model", "a\udcff"), outage, 1.0),
        stream_down("gate", outage),
    ]
    damaged, model, stream = [Event.from_wire(event.encode()).details for event in told]
    assert (damaged["reason"], damaged["set_aside"]) == ("/srv/\\udcff was damaged", "/srv/\\udcff.corrupt")
    assert (damaged["rescued"], model["model"]) == (1, "a\\udcff")
    assert stream["reason"] == "cannot open /srv/\\udcff"
