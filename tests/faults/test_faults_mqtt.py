"""An MQTT broker that is killed, frozen or absent, beside a receiver that works; the program as a process."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from faults.clips import Clips
from faults.notebook import Notebook
from faults.site import assert_nothing_lost, end_well, site
from support.mqtt_peer import Broker, subscribed
from support.receivers import FaultyHttpServer

pytestmark = [pytest.mark.ffmpeg, pytest.mark.mosquitto]

FAULTS = {"is killed and comes back": "kill", "freezes and thaws": "freeze", "is absent at the start": "absent"}


@pytest.mark.parametrize("what", FAULTS)
def test_a_broker_that_fails(what: str, tmp_path: Path, clips: Clips, notebook: Notebook) -> None:
    """The state says why, the HTTP sink never waits, the events wait, and SIGTERM ends it in time.

    pain 40: will not start without a broker, events are not sent; pain 42: reconnecting is weak, events are lost.
    """
    fault = FAULTS[what]
    folder = tmp_path / "broker"
    folder.mkdir()
    with FaultyHttpServer() as vms, Broker(folder, "allow_anonymous true\npersistence true") as broker:
        if fault == "absent":
            broker.kill()
        batch = {"max_wait": "50ms"}
        sinks = {
            "mqtt": {"type": "mqtt", "url": broker.url, "timeout": "1s", "batch": batch},
            "vms": {"type": "http", "url": vms.url, "batch": batch},
        }
        with site(tmp_path, clips, sinks=sinks, vms=vms, publish=False) as it:
            if fault != "absent":
                it.program.until(lambda s: s["sinks"]["mqtt"]["delivered"] > 3, 15, "delivered over MQTT")
                getattr(broker, fault)()
            started = time.monotonic()
            status = it.program.until(
                lambda s: s["sinks"]["mqtt"]["state"] == "retrying" and s["sinks"]["mqtt"]["reason"], 15, "said"
            )
            noticed = time.monotonic() - started
            for _ in range(3):
                it.more_events("good", 3)
            broker.thaw() if fault == "freeze" else broker.start()
            with subscribed(broker) as subscriber:
                before = len(subscriber.events)
                started = time.monotonic()
                it.program.until(
                    lambda s: s["sinks"]["mqtt"]["state"] == "up" and s["sinks"]["mqtt"]["oldest_pending_s"] < 1,
                    40,
                    "delivered again",
                )
                recovered = time.monotonic() - started
                it.more_events("good", 3)
                subscriber.wait_for(lambda it: len(it.events) > before)
                if fault == "freeze":
                    broker.freeze()
                else:
                    broker.kill()
                it.more_events("good", 2)
                ended = end_well(it.program, it.outbox)
                if fault == "freeze":
                    broker.thaw()
        assert_nothing_lost(it.outbox, list(vms.stored), "vms")
    reason = status["sinks"]["mqtt"]["reason"]
    notebook.fault(
        "receiver", f"MQTT: the broker {what}", seen=f"sink retrying: {reason}", noticed_s=noticed,
        recovered_s=recovered, ended_s=ended,
    )  # fmt: skip
