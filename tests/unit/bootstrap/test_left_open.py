"""What the program finds at its start of what was open at its end."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from sentinel_pipeline.bootstrap.left_open import left_open
from sentinel_pipeline.domain.events import Event, EventStage
from sentinel_pipeline.domain.system_events import Outage, stream_down
from sentinel_pipeline.infrastructure.storage.outbox import SqliteOutbox
from sentinel_pipeline.infrastructure.storage.outbox_reader import OutboxReader


def test_left_open_is_found_behind_thousands_of_events_and_beside_one_that_cannot_be_read(tmp_path: Path) -> None:
    """A busy site stores some thousand events in the hours in which one camera is dead."""
    path, outage = tmp_path / "outbox.db", Outage(1_732_406_400.0, "no route to host")
    with SqliteOutbox(path) as outbox:
        outbox.register(["vms"])
        outbox.append([stream_down("gate", outage)])
        for start in range(0, 6000, 200):
            outbox.append([Event("X", EventStage.DETECTED, "yard", "zone", float(start + n)) for n in range(200)])
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("""INSERT INTO event(stored_at, body) VALUES(0, '{"module_name": "system", "schema": 7}')""")
        connection.commit()
    assert left_open(OutboxReader(path)) == ({"gate": outage}, {}, [])


def test_left_open_is_nothing_where_nothing_can_be_read(tmp_path: Path) -> None:
    """The program starts all the same."""
    assert left_open(OutboxReader(tmp_path / "outbox.db")) == ({}, {}, [])
