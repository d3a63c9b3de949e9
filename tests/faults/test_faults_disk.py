"""Disks that run full and outboxes that are damaged, under a program at work."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from faults.clips import Clips
from faults.notebook import Notebook
from faults.site import Site, assert_consistent, assert_in_order, end_well, site
from sentinel_pipeline.infrastructure.storage.outbox_reader import OutboxReader
from support.program import wait_until
from support.receivers import FaultyHttpServer, Reply

pytestmark = [pytest.mark.ffmpeg]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Mount a file system of two megabytes."""
    place = tmp_path / "disk"
    place.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2M", "tmpfs", str(place)], capture_output=True, check=False
    )
    if done.returncode != 0:
        pytest.skip("mounting a tmpfs needs root and CAP_SYS_ADMIN")
    yield place
    subprocess.run(["umount", str(place)], check=True, timeout=10)


def fill(ballast: Path) -> None:
    """Take all the room that is left."""
    with ballast.open("wb", buffering=0) as file:
        for size in (65536, 4096):
            while True:
                try:
                    if file.write(b"\0" * size) == 0:
                        break
                except OSError:
                    break


def delivered_all(it: Site) -> None:
    """Assert that all that is in the outbox is at the receiver or pending, and that it came in order."""
    arrived = {event["event_id"] for event in it.vms.stored}
    for stored in OutboxReader(it.outbox).list(100_000):
        assert json.loads(stored.body)["event_id"] in arrived or stored.pending_for
    assert_in_order(list(it.vms.stored))


def test_a_disk_that_runs_full(small_disk: Path, tmp_path: Path, clips: Clips, notebook: Notebook) -> None:
    """Video goes on, the trouble is said with a remedy, events wait in memory, and all is stored when there is room.

    pain 48: a disk buffer that loses or acknowledges what failed.
    """
    with FaultyHttpServer() as vms:
        outbox = {"path": str(small_disk / "outbox.db"), "max_size": "64MiB"}
        with site(tmp_path, clips, outbox=outbox, vms=vms, publish=False) as it:
            vms.then = Reply(503)
            fill(small_disk / "ballast")

            def refused() -> bool:
                fill(small_disk / "ballast")  # what a checkpoint has freed meanwhile
                return "cannot be stored" in it.program.stderr

            wait_until(refused, 30, "the full disk is said")
            noticed = it.program.stderr
            assert "disk" in noticed
            before = it.stream("good")["frames_decoded"]
            wait_until(lambda: it.stream("good")["frames_decoded"] > before + 50, 10, "frames while the disk is full")
            assert it.stream("good")["fps"] > 22
            (small_disk / "ballast").unlink()
            vms.then = Reply()
            wait_until(lambda: "can be stored again" in it.program.stderr, 10, "room is found")
            it.more_events("good", 6)
            assert it.stream("good")["events_lost"] == 0
            fill(small_disk / "ballast")
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


def test_an_outbox_that_is_damaged_while_in_use(tmp_path: Path, clips: Clips, notebook: Notebook) -> None:
    """Nobody dies: video goes on, the sink says what is wrong, SIGTERM works, and the next run sets the file aside."""
    place = tmp_path / "outbox.db"
    log = tmp_path / "outbox.db-wal"
    with site(tmp_path, clips, publish=False) as it:
        it.vms.then = Reply(503)
        it.program.until(lambda s: s["sinks"]["vms"]["pending"] > 40, 30, "events that wait")
        for path in (place, log):
            with path.open("r+b") as file:
                file.seek(4096 if path == place else 32)
                file.write(b"\xa5" * (path.stat().st_size - file.tell()))
        started = time.monotonic()
        it.program.until(lambda s: "damaged" in s["sinks"]["vms"]["reason"], 15, "the damage is said")
        noticed = time.monotonic() - started
        said = it.program.status()
        assert said is not None
        before = it.stream("good")["frames_decoded"]
        wait_until(lambda: it.stream("good")["frames_decoded"] > before + 100, 15, "frames over a damaged outbox")
        it.vms.then = Reply()
        code, ended = it.program.end(timeout=15)
        assert code == 0, it.program.stderr[-2000:]
        assert ended < 5
        assert "Traceback" not in it.program.stderr
    with site(tmp_path / "again", clips, publish=False, outbox={"path": str(place)}) as it:
        it.more_events("good", 6)
        end_well(it.program, it.outbox)
        assert_consistent(place)
    notebook.fault(
        "disk", "the outbox is damaged while it is in use", ended_s=ended,
        seen=f"sink {said['sinks']['vms']['state']}: {said['sinks']['vms']['reason']}; set aside at the next start",
        noticed_s=noticed,
    )  # fmt: skip


def test_an_outbox_whose_place_is_taken_away(tmp_path: Path, clips: Clips, notebook: Notebook) -> None:
    """A file that somebody deletes under the running program: it goes on, ends in time, and starts again."""
    place = tmp_path / "outbox.db"
    with site(tmp_path, clips, publish=False) as it:
        for name in ("outbox.db", "outbox.db-wal", "outbox.db-shm"):
            (tmp_path / name).unlink(missing_ok=True)
        before = it.stream("good")["frames_decoded"]
        wait_until(lambda: it.stream("good")["frames_decoded"] > before + 50, 15, "frames")
        code, ended = it.program.end(timeout=15)
        assert (code, ended < 5) == (0, True)
        assert "Traceback" not in it.program.stderr
    with site(tmp_path / "again", clips, publish=False, outbox={"path": str(place)}) as it:
        it.more_events("good", 3)
        end_well(it.program, it.outbox)
    with closing(place.open("rb")) as file:
        assert file.read(15) == b"SQLite format 3"
    notebook.fault("disk", "somebody deletes the outbox of a running program", seen="goes on", ended_s=ended)
