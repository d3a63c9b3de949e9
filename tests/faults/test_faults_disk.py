"""Disks that run full and outboxes that are damaged, under a program at work."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from faults.clips import Clips
from faults.notebook import Notebook
from faults.site import Site, assert_in_order, end_well, kill, site
from sentinel_pipeline.infrastructure.storage.outbox_reader import OutboxReader
from support.program import wait_until
from support.receivers import FaultyHttpServer, Reply
from support.small_disk import fill, small_disk

pytestmark = [pytest.mark.ffmpeg]


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    with small_disk(tmp_path / "disk", "2M") as place:
        yield place


def delivered_all(it: Site) -> None:
    """Assert that all that is in the outbox is at the receiver or pending, and that it came in order."""
    arrived = {event["event_id"] for event in it.vms.stored}
    for stored in OutboxReader(it.outbox).list(100_000):
        assert json.loads(stored.body)["event_id"] in arrived or stored.pending_for
    assert_in_order(list(it.vms.stored))


def test_a_disk_that_runs_full(disk: Path, tmp_path: Path, clips: Clips, notebook: Notebook) -> None:
    """Video goes on, the trouble is said with a remedy, events wait in memory, and all is stored when there is room.

    pain 48: a disk buffer that loses or acknowledges what failed.
    """
    with FaultyHttpServer() as vms:
        outbox = {"path": str(disk / "outbox.db"), "max_size": "64MiB"}
        with site(tmp_path, clips, outbox=outbox, vms=vms, publish=False) as it:
            vms.then = Reply(503)
            fill(disk / "ballast")

            def refused() -> bool:
                fill(disk / "ballast")  # what a checkpoint has freed meanwhile
                return "cannot be stored" in it.program.stderr

            wait_until(refused, 30, "the full disk is said")
            noticed = it.program.stderr
            assert "disk" in noticed
            before = it.stream("good")["frames_decoded"]
            wait_until(lambda: it.stream("good")["frames_decoded"] > before + 50, 10, "frames while the disk is full")
            assert it.stream("good")["fps"] > 22
            (disk / "ballast").unlink()
            vms.then = Reply()
            wait_until(lambda: "can be stored again" in it.program.stderr, 10, "room is found")
            it.more_events("good", 6)
            assert it.stream("good")["events_lost"] == 0
            fill(disk / "ballast")
            ended = end_well(it.program, it.outbox)
            delivered_all(it)
    said = next(json.loads(line) for line in noticed.splitlines() if "cannot be stored" in line)
    notebook.fault(
        "disk", "the disk runs full", seen=f"log: {said['event']}: {said['reason']}; video goes on", ended_s=ended
    )


@pytest.mark.parametrize("what", ["its head", "its middle"])
def test_an_outbox_that_is_damaged_between_two_runs(
    what: str, tmp_path: Path, clips: Clips, notebook: Notebook
) -> None:
    """The damaged file is set aside under a name that is logged, and the program runs with a new one."""
    place = tmp_path / "outbox.db"
    with site(tmp_path, clips, publish=False) as it:
        it.more_events("good", 6)
        end_well(it.program, it.outbox)
    size = place.stat().st_size
    with place.open("r+b") as file:
        file.seek(0 if what == "its head" else size // 3)
        file.write(b"\xa5" * (size // 2 if what == "its middle" else 100))
    with site(tmp_path / "again", clips, publish=False, outbox={"path": str(place)}) as it:
        it.more_events("good", 6)
        aside = [
            path.name for path in tmp_path.iterdir() if path.name.startswith("outbox.db.") and "lock" not in path.name
        ]
        kept = [name for name in aside if not name.endswith(("-wal", "-shm"))]
        assert kept, list(tmp_path.iterdir())
        assert kept[0] in it.program.stderr
        ended = end_well(it.program, it.outbox)
    notebook.fault(
        "disk", f"the outbox is damaged in {what} between two runs", ended_s=ended,
        seen="set aside and named in the log; a new one is begun",
    )  # fmt: skip


def spoil(path: Path, start: int) -> None:
    with path.open("r+b") as file:
        file.seek(start)
        file.write(b"\xa5" * (path.stat().st_size - start))


@pytest.mark.parametrize("what", ["the file and its log become garbage", "its second half becomes garbage"])
def test_an_outbox_that_is_damaged_while_in_use(what: str, tmp_path: Path, clips: Clips, notebook: Notebook) -> None:
    """It is set aside and replaced at once: video goes on, what is accepted from then on is delivered, and it is told.

    The event about it and all new ones come through the new file; what could be read of the old one as well.
    """
    place = tmp_path / "outbox.db"
    with site(tmp_path, clips, publish=False) as it:
        it.vms.then = Reply(503)
        it.program.until(lambda s: s["sinks"]["vms"]["pending"] > 40, 30, "events that wait")
        if what.startswith("its"):
            with closing(sqlite3.connect(place)) as other:
                other.execute("PRAGMA wal_checkpoint(FULL)")
            spoil(place, place.stat().st_size // 2)
        else:
            spoil(place, 4096)
            spoil(tmp_path / "outbox.db-wal", 32)
        started = time.monotonic()
        it.program.until(lambda s: s["outbox"]["replaced"] > 0, 15, "the damage is found")
        noticed = time.monotonic() - started
        before = it.stream("good")["frames_decoded"]
        wait_until(lambda: it.stream("good")["frames_decoded"] > before + 50, 15, "frames")
        it.vms.then = Reply()
        it.more_events("good", 6)
        told = it.told("SYSTEM_OUTBOX_DAMAGED", 10)
        recovered = time.monotonic() - started
        aside = Path(told[0]["details"]["set_aside"])
        assert aside.parent == tmp_path
        assert aside.is_file()
        said = next(json.loads(line) for line in it.program.stderr.splitlines() if "was damaged" in line)
        assert (said["level"], said["aside"]) == ("error", str(aside))
        assert it.stream("good")["events_lost"] == 0
        ended = it.end()
    notebook.fault(
        "disk", f"the outbox is damaged while in use: {what}", ended_s=ended, noticed_s=noticed, recovered_s=recovered,
        seen="set aside and named in the log and in SYSTEM_OUTBOX_DAMAGED; what can be read goes on in a new one",
    )  # fmt: skip


@pytest.mark.parametrize("what", ["the files", "the directory"])
def test_an_outbox_whose_place_is_taken_away(what: str, tmp_path: Path, clips: Clips, notebook: Notebook) -> None:
    """Somebody deletes it under the running program: it is written again, and even ``kill -9`` then loses nothing."""
    folder = tmp_path / "var"
    place = folder / "outbox.db"
    with FaultyHttpServer() as vms:
        with site(tmp_path, clips, publish=False, vms=vms, outbox={"path": str(place)}) as it:
            vms.then = Reply(503)
            it.program.until(lambda s: s["sinks"]["vms"]["pending"] > 10, 30, "events that wait")
            waiting = {json.loads(each.body)["event_id"] for each in OutboxReader(place).list(10_000)}
            for path in folder.iterdir():
                path.unlink()
            if what == "the directory":
                folder.rmdir()
            started = time.monotonic()
            it.program.until(lambda s: s["outbox"]["replaced"] > 0, 15, "it is found out")
            noticed = time.monotonic() - started
            kill(it.program)
        again = tmp_path / "again"
        with site(again, clips, publish=False, vms=vms, outbox={"path": str(place)}, ready=False) as it:
            it.program.until(lambda s: s["sinks"]["vms"]["state"] == "retrying", 20, "a try")
            vms.then = Reply()
            it.more_events("good", 3, timeout=30)
            ended = it.end()
        assert waiting <= {event["event_id"] for event in vms.stored}
    notebook.fault(
        "disk", f"somebody deletes {what} of the outbox of a running program", ended_s=ended, noticed_s=noticed,
        seen="written again from what the program has, and said; nothing lost, not to kill -9 either",
    )  # fmt: skip
