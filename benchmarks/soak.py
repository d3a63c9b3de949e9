"""The whole program with faults at random for a given time: what was delivered, what was lost, what it grew by.

    .venv/bin/python -m benchmarks.soak --minutes 20

Four cameras (analysed, three of them published), two receivers (HTTP and WebSocket), a media server. Every camera, the
FFmpeg children, the media server and the receivers get faults of their own at random, several at once; now and then the
program itself is killed (-9) or told to stop (SIGTERM), and started again. The peers are those of the tests. The same
``--seed`` gives the same faults in the same order.
"""

from __future__ import annotations

import argparse
import json
import random
import sqlite3
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import psutil

from benchmarks import report
from benchmarks.figures import Figure, Target

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from faults.clips import Clips, make_clips
from faults.site import configuration, stream
from sentinel_pipeline.infrastructure.storage.outbox_reader import OutboxReader
from sentinel_pipeline.lab.rtsp_relay import RtspRelay
from support.program import SentinelProcess, running
from support.receivers import FaultyHttpServer, FaultyWebSocketServer, Reply, Session
from support.streams import publishing

CAMERAS = ("one", "two", "three", "four")
PUBLISHED = CAMERAS[:3]
GOOD = Session(hello=True, ack=True)
SETTLED_S = 300.0  # of a life, before its growth counts: SQLite's caches and the allocator fill up until then
SAMPLE_S = 5.0
CALM_S = 60.0  # within which everything works again once no faults come
RECOVERY_S = 20.0  # beyond it a camera counts as not recovered
MIB = 2**20

CAMERA_FAULTS = ("stall", "half_frame", "garbage", "mute", "close_readers", "reset_readers", "refuse", "burst", "lose",
                 "jump", "larger", "yuv422", "hevc")  # fmt: skip
REPLIES = (Reply(500), Reply(503, {"Retry-After": "1"}), Reply(429, {"Retry-After": "2"}),
           Reply(silent=True, stored=True), Reply(silent=True), Reply(cut=3),
           Reply(raw=b"\x00\xff\r\n\r\n"), Reply(delay=1.5), Reply(413))  # fmt: skip
SESSIONS = (Session(take=0), Session(take=0, code=None), Session(hello=True, ack=True, take=2, code=None),
            Session(status=503), Session(hello=True, reads=False), Session(hello=True, ack=False))  # fmt: skip


@dataclass
class Notes:
    """What was seen. One thread writes each list."""

    faults: Counter[str] = field(default_factory=Counter)
    recovered_s: list[float] = field(default_factory=list)
    not_recovered: list[str] = field(default_factory=list)
    stops_s: list[float] = field(default_factory=list)
    bad_ends: list[str] = field(default_factory=list)
    growths: list[dict[str, float]] = field(default_factory=list)
    left_waiting: int = 0
    lives: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def fault(self, what: str) -> None:
        """Count a fault."""
        with self.lock:
            self.faults[what] += 1

    def back(self, camera: str, fault: str, seconds: float | None) -> None:
        """Note how long a camera took from its repair to RUNNING; None: it was not back in time."""
        with self.lock:
            if seconds is None:
                self.not_recovered.append(f"{camera} after {fault}")
            else:
                self.recovered_s.append(seconds)


@dataclass
class Place:
    """The peers, and the program's present life."""

    relay: RtspRelay
    media: RtspRelay
    http: FaultyHttpServer
    live: FaultyWebSocketServer
    settings: dict[str, Any]
    folder: Path
    ends: threading.Event = field(default_factory=threading.Event)
    calm: threading.Event = field(default_factory=threading.Event)  # nobody begins a new mischief
    program: SentinelProcess | None = None
    status: dict[str, Any] = field(default_factory=dict)

    def running(self, camera: str) -> bool:
        """Whether the program says that a camera is RUNNING."""
        streams = self.status.get("streams", {})
        return bool(streams) and streams[camera]["state"] == "RUNNING"


class Trouble(threading.Thread):
    """Does one kind of mischief again and again, in a thread of its own, until the end."""

    def __init__(
        self, name: str, place: Place, pause: tuple[float, float], act: Callable[[random.Random], None]
    ) -> None:
        super().__init__(name=name)
        self._place, self._pause, self._act = place, pause, act
        self._chance = random.Random(f"{place.settings['seed']}{name}")  # noqa: S311 - reproducible mischief

    def run(self) -> None:
        """Act and pause."""
        while not self._place.ends.wait(self._chance.uniform(*self._pause)):
            if not self._place.calm.is_set():
                self._act(self._chance)


def trouble_camera(place: Place, notes: Notes, camera: str, chance: random.Random) -> None:
    """Give a camera a fault for a while, repair it, and see how long it takes to be back."""
    fault = chance.choice(CAMERA_FAULTS)
    notes.fault(f"camera: {fault}")
    faults = place.relay.faults(camera)
    match fault:
        case "refuse":
            faults.refuse(404)
            faults.close_readers()
        case "mute":
            faults.mute()
            faults.close_readers()
        case "burst" | "lose" | "jump":
            getattr(faults, fault)({"burst": 0.4, "lose": 0.1, "jump": 3600.0}[fault])
        case "larger" | "yuv422" | "hevc":
            faults.play(fault)
        case _:
            getattr(faults, fault)()
    place.ends.wait(chance.uniform(1.0, 6.0))
    away = not place.running(camera)
    faults.resume()
    program, repaired = place.program, time.monotonic()
    if not away:
        return  # a fault that it stands
    while time.monotonic() - repaired < RECOVERY_S and not place.ends.is_set():
        if place.program is not program or program is None:
            return  # killed meanwhile: nothing can be said of this recovery
        if place.running(camera):
            notes.back(camera, fault, time.monotonic() - repaired)
            return
        place.ends.wait(0.1)
    if not place.ends.is_set():
        notes.back(camera, fault, None)


def trouble_output(place: Place, notes: Notes, chance: random.Random) -> None:
    """Hurt an FFmpeg child or the media server."""
    fault = chance.choice(["kill", "stop", "close", "mute"])
    notes.fault(f"output: {fault}")
    if fault in {"kill", "stop"} and place.program is not None:
        with suppress(psutil.Error, IndexError):
            child = chance.choice(psutil.Process(place.program.process.pid).children())
            child.kill() if fault == "kill" else child.suspend()
        return
    if fault == "mute":
        place.media.mute_all()
    for camera in PUBLISHED:
        place.media.faults(camera).close_publisher()
    place.ends.wait(chance.uniform(1.0, 5.0))
    place.media.resume_all()


def trouble_receivers(place: Place, notes: Notes, chance: random.Random) -> None:
    """Make a receiver fail for a while."""
    if chance.random() < 0.5:
        place.http.then = chance.choice(REPLIES)
        notes.fault(f"http: {place.http.then.status}{' broken' if place.http.then.status == 200 else ''}")
        place.ends.wait(chance.uniform(0.5, 5.0))
        place.http.then = Reply()
    else:
        place.live.then = chance.choice(SESSIONS)
        notes.fault("websocket")
        place.live.drop()
        place.ends.wait(chance.uniform(0.5, 5.0))
        place.live.then = GOOD
        place.live.drop()


def watch(place: Place) -> None:
    """Keep ``place.status`` fresh."""
    while not place.ends.wait(0.15):
        program = place.program
        place.status = (program.status() or {}) if program is not None else {}


def live_once(place: Place, notes: Notes, seconds: float, *, gently: bool) -> None:
    """Run the program for so long, look at what it holds, and end it gently or not."""
    notes.lives += 1
    with running(place.settings["sentinel"], place.folder / f"life{notes.lives}") as program:
        place.program = program
        samples: list[tuple[float, int]] = []
        started = time.monotonic()
        long = seconds > SETTLED_S + CALM_S
        before = held_in_calm(place, program, notes) if long else None
        while (age := time.monotonic() - started) < seconds:
            place.ends.wait(min(SAMPLE_S, seconds - age))
            if program.process.poll() is not None:
                notes.bad_ends.append(f"ended by itself with {program.process.returncode}")
                break
            if age > SETTLED_S:
                samples.append((age, psutil.Process(program.process.pid).memory_info().rss))
        after = held_in_calm(place, program, notes) if before else None
        unheard = sum(state in {"retrying", "starting"} for state in outputs(place.status))
        place.program, place.status = None, {}
        end(program, notes, gently=gently, unheard=unheard)
    if before and after:
        notes.growths.append(growth(samples) | {"threads": after[0] - before[0], "fds": after[1] - before[1]})


def held_in_calm(place: Place, program: SentinelProcess, notes: Notes) -> tuple[int, int] | None:
    """Return how many threads and descriptors it holds once everything works; None if that does not come to pass."""
    place.calm.set()
    try:
        place.ends.wait(6.0)  # mischief under way lasts no longer
        program.until(all_is_well, CALM_S, "everything works")
        place.ends.wait(11.0)  # AnyIO lets go of a thread that has answered for the API after ten seconds
        process = psutil.Process(program.process.pid)
        looks = []
        for _ in range(20):
            place.ends.wait(0.25)
            looks.append((process.num_threads(), process.num_fds()))
    except (AssertionError, psutil.Error) as exc:
        notes.bad_ends.append(f"not calm: {exc}"[:2000])
        return None
    else:
        # The least of each: questions to the API come and go.
        return min(threads for threads, _ in looks), min(fds for _, fds in looks)
    finally:
        place.calm.clear()


def all_is_well(status: dict[str, Any]) -> bool:
    """Whether all cameras run, all outputs publish and all receivers take events."""
    return (
        all(stream["state"] == "RUNNING" for stream in status["streams"].values())
        and set(outputs(status)) == {"running"}
        and all(sink["state"] in {"up", "idle"} for sink in status["sinks"].values())
    )


def outputs(status: dict[str, Any]) -> list[str]:
    """Return the states of all outputs."""
    streams = status.get("streams", {}).values()
    return [output["state"] for stream in streams if stream["publish"] for output in stream["publish"]["outputs"]]


def end(program: SentinelProcess, notes: Notes, *, gently: bool, unheard: int = 0) -> None:
    """End a life; SIGTERM must end it in time, with code 0 and no orphan.

    After kill -9 an FFmpeg child ends with its input, unless it waits for a media server that answers nothing.
    unheard: outputs that were waiting for their server.
    """
    if program.process.poll() is not None:
        return
    if gently:
        try:
            code, took = program.end(timeout=15)
        except AssertionError as exc:
            notes.bad_ends.append(str(exc))
            return
        notes.stops_s.append(took)
        if code != 0:
            notes.bad_ends.append(f"code {code}: {program.stderr[-500:]}")
    else:
        children = psutil.Process(program.process.pid).children(recursive=True)
        program.process.kill()
        program.process.wait(10)
        for child in children:
            with suppress(psutil.Error):
                child.resume()  # a stopped one cannot see the end of its input
        _, alive = psutil.wait_procs(children, timeout=10)
        notes.left_waiting += min(len(alive), unheard)
        notes.bad_ends += ["an orphan after kill -9"] * (len(alive) - unheard)
        for child in alive:
            child.kill()
    if "Traceback" in program.stderr:
        at = program.stderr.index("Traceback")
        notes.bad_ends.append(program.stderr[max(0, at - 300) : at + 3000])


def growth(samples: list[tuple[float, int]]) -> dict[str, float]:
    """Return by how much memory grew: the slope (least squares), and the medians of both halves of the time."""
    ages = [age for age, _ in samples]
    middle = sum(ages) / len(ages)
    spread = sum((age - middle) ** 2 for age in ages)
    rss = [sample[1] for sample in samples]
    slope = sum((age - middle) * value for age, value in zip(ages, rss, strict=True)) / spread * 60
    half = len(samples) // 2
    return {
        "minutes": (ages[-1] - ages[0]) / 60,
        "rss_mib_per_min": slope / MIB,
        "rss_mib": (median(rss[half:]) - median(rss[:half])) / MIB,
    }


@contextmanager
def peers(folder: Path, clips: Clips, seed: int) -> Iterator[Place]:
    """Start everything but the program."""
    with ExitStack() as stack:
        relay = stack.enter_context(RtspRelay(allow_takeover=True))
        media = stack.enter_context(RtspRelay(allow_takeover=True))
        http = stack.enter_context(FaultyHttpServer())
        live = stack.enter_context(FaultyWebSocketServer(then=GOOD))
        shown = dict.fromkeys(CAMERAS, clips.blink) | {
            "larger": clips.larger, "yuv422": clips.yuv422, "hevc": clips.hevc,
        }  # fmt: skip
        for name, clip in shown.items():
            stack.enter_context(publishing(relay.url(name), clip=clip))
            relay.wait_for_publisher(name, 10)
        streams = {name: stream(relay.url(name), media.url(name) if name in PUBLISHED else None) for name in CAMERAS}
        batch = {"max_wait": "50ms"}
        sinks = {
            "http": {"type": "http", "url": http.url, "timeout": "1s", "batch": batch},
            "live": {"type": "websocket", "url": live.url, "timeout": "1s", "batch": batch},
        }
        settings = {"seed": seed, "sentinel": configuration(folder, streams, sinks)}
        yield Place(relay, media, http, live, settings, folder)


def make_trouble(place: Place, notes: Notes) -> list[threading.Thread]:
    """Return the threads that do the mischief, and the one that watches."""

    def camera(name: str) -> Callable[[random.Random], None]:
        return lambda chance: trouble_camera(place, notes, name, chance)

    threads: list[threading.Thread] = [Trouble(f"camera {name}", place, (1.0, 8.0), camera(name)) for name in CAMERAS]
    threads.append(Trouble("output", place, (4.0, 15.0), lambda chance: trouble_output(place, notes, chance)))
    threads.append(Trouble("receivers", place, (1.0, 6.0), lambda chance: trouble_receivers(place, notes, chance)))
    threads.append(threading.Thread(target=watch, args=(place,), name="watch"))
    return threads


def lives(minutes: float, kills: int, chance: random.Random) -> list[float]:
    """Return how long each life lasts, in seconds: the first half of the time in one piece, the rest cut at random."""
    total = minutes * 60
    if kills == 0:
        return [total]
    cuts = sorted(chance.uniform(total / 2, total) for _ in range(kills - 1))
    edges = [0.0, total / 2, *cuts, total]
    return [max(2.0, later - earlier) for earlier, later in pairwise(edges)]


def settle(place: Place, notes: Notes) -> None:
    """Repair everything and let one last life deliver what is left."""
    place.http.then, place.live.then = Reply(), GOOD
    place.live.drop()
    place.media.resume_all()
    for camera in CAMERAS:
        place.relay.faults(camera).resume()
    dark = json.loads(json.dumps(place.settings["sentinel"]))
    for each in dark["streams"].values():
        each["source"] = "rtsp://127.0.0.1:1/off"
        each.pop("publish", None)
    with running(dark, place.folder / "last") as program:
        program.until(lambda s: all(sink["pending"] == 0 for sink in s["sinks"].values()), 120, "all is delivered")
        end(program, notes, gently=True)


def account(place: Place) -> dict[str, dict[str, int]]:
    """Return per receiver: emitted, delivered, duplicated, pending, dead, lost."""
    outbox = Path(place.settings["sentinel"]["outbox"]["path"])
    with closing(sqlite3.connect(outbox)) as connection:
        whole = connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        emitted = connection.execute("SELECT seq FROM sqlite_sequence WHERE name = 'event'").fetchone()[0]
    if not whole:
        raise RuntimeError("the outbox is damaged")
    pending: Counter[str] = Counter(name for each in OutboxReader(outbox).list(10**6) for name in each.pending_for)
    dead: Counter[str] = Counter(letter.sink for letter in OutboxReader(outbox).dead(10**6))
    arrived = {
        "http": [event["event_id"] for event in place.http.stored],
        "live": [event["event_id"] for batch in place.live.batches for event in batch],
    }
    accounts = {}
    for name, ids in arrived.items():
        unique = len(set(ids))
        accounts[name] = {
            "emitted": emitted, "delivered": unique, "duplicated": len(ids) - unique, "pending": pending[name],
            "dead": dead[name], "lost": emitted - unique - pending[name] - dead[name],
        }  # fmt: skip
    return accounts


def parser() -> argparse.ArgumentParser:
    """Return the options."""
    made = report.parser(__doc__)
    made.add_argument("--minutes", type=float, default=0, help="how long (default 20, 1 with --quick)")
    made.add_argument("--kills", type=int, default=-1, help="lives that are ended (default: one in two minutes)")
    made.add_argument("--seed", type=int, default=20261124, help="which faults come, and when (default: %(default)s)")
    return made


def measure(options: argparse.Namespace) -> int:
    """Run, and report."""
    results = report.Report("soak", options)
    minutes = options.minutes or (1.0 if options.quick else 20.0)
    kills = options.kills if options.kills >= 0 else max(1, int(minutes / 2))
    chance, notes = random.Random(options.seed), Notes()  # noqa: S311 - reproducible mischief
    with tempfile.TemporaryDirectory(prefix="sentinel-soak-") as name:
        folder = Path(name)
        with peers(folder, make_clips(folder), options.seed) as place:
            threads = make_trouble(place, notes)
            for thread in threads:
                thread.start()
            try:
                for number, seconds in enumerate(lives(minutes, kills, chance)):
                    live_once(place, notes, seconds, gently=number % 2 == 0)
            finally:
                place.ends.set()
                for thread in threads:
                    thread.join(30)
            settle(place, notes)
            accounts = account(place)
    tell(results, notes, accounts)
    return results.finish()


def tell(results: report.Report, notes: Notes, accounts: dict[str, dict[str, int]]) -> None:
    """Fill in the report."""
    none = Target(0)
    for name, counts in accounts.items():
        results.add(Figure(f"{name}: events emitted", "", (counts["emitted"],)))
        results.add(Figure("  delivered, each counted once", "", (counts["delivered"],)))
        results.add(Figure("  copies of them beside those", "", (counts["duplicated"],)))
        results.add(Figure(f"  lost (beyond dead letters: {counts['dead']})", "", (counts["lost"],), target=none))
    if notes.recovered_s:
        ordered = sorted(notes.recovered_s)
        late = ordered[int(0.95 * (len(ordered) - 1))]
        results.add(Figure("camera back after its repair, median", "s", (median(ordered),)))
        results.add(Figure("  p95 (tries at most 0.6 s apart, each up to 1 s)", "s", (late,), target=Target(2.0)))
    results.add(Figure(f"  not back within {RECOVERY_S:g} s", "", (len(notes.not_recovered),), target=none))
    if notes.stops_s:
        results.add(Figure("SIGTERM to exit, under faults, longest", "s", (max(notes.stops_s),), target=Target(5.0)))
    results.add(Figure("bad ends: tracebacks, codes, orphans, deaths", "", (len(notes.bad_ends),), target=none))
    results.add(Figure("FFmpeg children left waiting for a mute server, kill -9", "", (notes.left_waiting,)))
    if notes.growths:
        longest = max(notes.growths, key=lambda each: each["minutes"])
        name = f"memory growth over {longest['minutes']:.1f} min, second half beyond the first"
        results.add(Figure(name, "MiB", (longest["rss_mib"],), target=Target(2.0)))
        results.add(Figure("  slope", "MiB/min", (longest["rss_mib_per_min"],), target=Target(0.5)))
        results.add(Figure("  threads, from calm to calm", "", (longest["threads"],), target=none))
        results.add(Figure("  descriptors, from calm to calm", "", (longest["fds"],), target=none))
    else:
        results.note(f"no life was long enough to judge its growth: that takes more than {SETTLED_S:g} s and a minute")
    results.note(f"{sum(notes.faults.values())} faults in {notes.lives} lives: " + ", ".join(
        f"{what} {count}" for what, count in sorted(notes.faults.items())
    ))  # fmt: skip
    for text in [*notes.not_recovered, *notes.bad_ends]:
        results.note(text)
    results.detail("accounts", accounts)
    results.detail("growths", notes.growths)
    results.detail("recovered_s", [round(value, 2) for value in notes.recovered_s])


if __name__ == "__main__":
    report.main(parser, measure)
