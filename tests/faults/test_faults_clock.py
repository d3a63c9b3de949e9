"""Clocks that jump: the program as a process whose wall clock is moved while it works."""

from __future__ import annotations

import json
import shutil
import struct
import subprocess
import time
from pathlib import Path

import pytest

from faults.clips import Clips
from faults.notebook import Notebook
from faults.site import Site, end_well, kill, site
from sentinel_pipeline.domain.events import Event
from sentinel_pipeline.infrastructure.storage.outbox_reader import OutboxReader
from support.program import wait_until
from support.receivers import FaultyHttpServer, Reply

pytestmark = [pytest.mark.ffmpeg, pytest.mark.compiler]

DAY = 86_400


class Clock:
    """The wall clock of a program; durations stay true. See ``wall_clock.c``."""

    def __init__(self, folder: Path) -> None:
        library, place = folder / "wall_clock.so", folder / "wall_clock"
        compiler = shutil.which("cc")
        assert compiler is not None
        source = Path(__file__).with_name("wall_clock.c")
        command = [compiler, "-shared", "-fPIC", "-O1", "-o", str(library), str(source), "-ldl"]
        subprocess.run(command, check=True, timeout=60)
        self._file = place
        self.offset = 0
        self.set(0)
        self.env = {"LD_PRELOAD": str(library), "WALL_CLOCK": str(place)}

    def set(self, seconds: int) -> None:
        """Move the clock so far from the true time."""
        self.offset = seconds
        self._file.touch()
        with self._file.open("r+b") as file:  # in place: programs have it mapped
            file.write(struct.pack("=q", seconds))

    def now(self) -> float:
        """Return the program's wall clock."""
        return time.time() + self.offset


def newest(it: Site) -> Event:
    """Return the last event of the good camera that arrived."""
    return Event.from_wire([event for event in it.vms.stored if event["stream_id"] == "good"][-1])


JUMPS = {"an hour back": -3600, "an hour ahead": 3600, "thirty days ahead": 30 * DAY, "to 2019": -7 * 365 * DAY}


@pytest.mark.parametrize("what", JUMPS)
def test_a_clock_that_jumps(what: str, tmp_path: Path, clips: Clips, notebook: Notebook) -> None:
    """No stream is lost, nothing stalls, no event is lost; the times of events follow the corrected clock."""
    clock = Clock(tmp_path)
    with site(tmp_path, clips, env=clock.env) as it:
        assert abs(newest(it).ts - clock.now()) < 5
        clock.set(JUMPS[what])
        started = time.monotonic()
        wait_until(lambda: abs(newest(it).ts - clock.now()) < 5, 10, "events follow the clock")
        recovered = time.monotonic() - started
        for name in ("good", "bad"):
            it.unharmed(name)
        assert it.stream("good")["publish"]["restarts"] == 0
        clock.set(0)
        wait_until(lambda: abs(newest(it).ts - clock.now()) < 5, 10, "events follow the clock back")
        it.unharmed()
        clock.set(JUMPS[what])
        ended = end_well(it.program, it.outbox)
        arrived = {event["event_id"] for event in it.vms.stored}
        for stored in OutboxReader(it.outbox).list(100_000):
            assert json.loads(stored.body)["event_id"] in arrived or stored.pending_for
    notebook.fault("clock", f"the clock jumps {what}, and back", seen="RUNNING", recovered_s=recovered, ended_s=ended)


def test_a_clock_that_is_set_while_events_wait(tmp_path: Path, clips: Clips, notebook: Notebook) -> None:
    """A machine that starts in 2019 and learns the time with the network loses none of the events that wait."""
    clock = Clock(tmp_path)
    clock.set(-7 * 365 * DAY)
    with (
        FaultyHttpServer(then=Reply(503)) as vms,
        site(tmp_path, clips, env=clock.env, vms=vms, publish=False, ready=False) as it,
    ):
        it.program.until(lambda s: s["sinks"]["vms"]["pending"] >= 10, 20, "events that wait")
        waiting = [json.loads(each.body)["event_id"] for each in OutboxReader(it.outbox).list(10_000)]
        clock.set(0)
        it.program.until(lambda s: s["streams"]["good"]["events"] > 20, 20, "more events")
        time_of_tidying = time.monotonic() + 3
        wait_until(lambda: time.monotonic() > time_of_tidying, 5, "the outbox is tidied once a second")
        vms.then = Reply()
        wait_until(lambda: len(vms.stored) > 10, 40, "delivery")
        it.program.until(lambda s: s["sinks"]["vms"]["pending"] < 10, 20, "all is delivered")
        status = it.program.status()
        assert status is not None
        missing = set(waiting) - {event["event_id"] for event in vms.stored}
        assert not missing, f"{len(missing)} of {len(waiting)} dropped: {status['sinks']['vms']}"
        ended = end_well(it.program, it.outbox)
    notebook.fault(
        "clock", "the clock is set from 2019 to now while events wait", seen="nothing dropped", ended_s=ended
    )


def test_a_clock_that_is_right_only_after_a_restart(tmp_path: Path, clips: Clips, notebook: Notebook) -> None:
    """Events stored in 2019 by a run that was cut off are not old to the next one, whose clock is right."""
    clock = Clock(tmp_path)
    clock.set(-7 * 365 * DAY)
    with FaultyHttpServer(then=Reply(503)) as vms:
        with site(tmp_path, clips, env=clock.env, vms=vms, publish=False, ready=False) as it:
            it.program.until(lambda s: s["sinks"]["vms"]["pending"] >= 10, 20, "events that wait")
            waiting = {json.loads(each.body)["event_id"] for each in OutboxReader(it.outbox).list(10_000)}
            place = it.outbox
            kill(it.program)
        clock.set(0)
        outbox = {"path": str(place)}
        with site(tmp_path / "again", clips, env=clock.env, vms=vms, publish=False, ready=False, outbox=outbox) as it:
            time_of_tidying = time.monotonic() + 3
            wait_until(lambda: time.monotonic() > time_of_tidying, 5, "the outbox is tidied once a second")
            vms.then = Reply()
            it.program.until(lambda s: s["sinks"]["vms"]["delivered"] > 0, 40, "delivery")
            it.program.until(lambda s: s["sinks"]["vms"]["pending"] < 10, 20, "all is delivered")
            missing = waiting - {event["event_id"] for event in list(vms.stored)}
            assert not missing, f"{len(missing)} of {len(waiting)} dropped"
            ended = end_well(it.program, it.outbox)
    notebook.fault(
        "clock", "killed in 2019 while events wait, started again when the clock is right", seen="nothing dropped",
        ended_s=ended,
    )  # fmt: skip
