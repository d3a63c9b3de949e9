"""Supervision without a camera: the retry loop, the watchdog, the states."""

from __future__ import annotations

import gc
import time
import weakref
from collections.abc import Callable
from threading import Event as Flag
from threading import Thread, Timer

import pytest

from sentinel_pipeline.application.event.outages import Condition, Doing
from sentinel_pipeline.application.ports import OutputReport, SinkReport
from sentinel_pipeline.application.stream.capture import Capture
from sentinel_pipeline.application.stream.health import StreamHealth
from sentinel_pipeline.application.stream.manager import StreamManager, plan
from sentinel_pipeline.application.stream.supervisor import supervise
from sentinel_pipeline.application.stream.worker import REFUSED_DELAY, StreamWorker
from sentinel_pipeline.domain.backoff import Retry
from sentinel_pipeline.domain.errors import SentinelError, StreamEnded, StreamError, StreamRefused, StreamStalled
from sentinel_pipeline.domain.frame import Frame
from sentinel_pipeline.domain.streams import DecodeSpec, ReconnectSpec, StreamSpec, StreamState
from sentinel_pipeline.domain.system_events import Part


def spec(stream_id: str, source: str = "rtsp://h/1") -> StreamSpec:
    return StreamSpec(stream_id, source)


def test_supervision_retries_until_stopped_and_passes_reasons_on() -> None:
    """Each failure is told with its reason, an unexpected one as an internal error; stopping ends the loop at once."""
    errors = iter([StreamError("gone"), ValueError("bug with rtsp://u:secret@h/"), StreamEnded("over")])
    stop, told = Flag(), []

    def run(healthy: object) -> None:
        raise next(errors)

    def failed(error: SentinelError) -> float:
        told.append(str(error))
        if len(told) == 3:
            stop.set()
        return 0.0

    supervise(run, Retry(0.001), stop, failed=failed, given_up=lambda _: None)
    assert told[0] == "gone"
    assert told[1].startswith("internal error")
    assert "secret" not in told[1]
    assert told[2] == "over"


def test_supervision_gives_up_after_max_retries() -> None:
    """With max_retries the last error is told and the loop ends."""
    tries, last = [], []

    def run(healthy: object) -> None:
        tries.append(1)
        raise StreamError(f"try {len(tries)}")

    supervise(run, Retry(0.001, max_retries=2), Flag(), failed=lambda _: 0.0, given_up=lambda e: last.append(str(e)))
    assert (len(tries), last) == (3, ["try 3"])


def test_supervision_does_not_count_a_stall_as_life() -> None:
    """A camera that sends one picture and then stalls, again and again, is given up: the stall was not life."""
    last: list[str] = []

    def run(alive: Callable[[], None]) -> None:
        alive()
        Flag().wait(0.05)
        raise StreamStalled("nothing more")

    retry = Retry(0.001, max_retries=2, healthy_after=0.04)
    stop = Flag()
    watch = Timer(5, stop.set)
    watch.start()
    supervise(run, retry, stop, failed=lambda _: 0.0, given_up=lambda e: last.append(str(e)))
    watch.cancel()
    watch.join()
    assert last == ["nothing more"]


def test_supervision_starts_over_after_a_good_life() -> None:
    """A camera that has worked for long enough has all its retries again."""
    lives = 0

    def run(alive: Callable[[], None]) -> None:
        nonlocal lives
        lives += 1
        alive()
        Flag().wait(0.05 if lives < 4 else 0.0)
        alive()
        raise StreamEnded("over")

    supervise(
        run, Retry(0.001, max_retries=1, healthy_after=0.04), Flag(), failed=lambda _: 0.0, given_up=lambda _: None
    )
    assert lives == 4


class HangingSource:
    """A source whose library call ignores every time-out, as a C library may: only the test lets it go."""

    def __init__(self) -> None:
        self.let_go, self.closed = Flag(), Flag()

    def open(self) -> None:
        self.let_go.wait(20)

    def read(self) -> Frame:
        raise StreamEnded("never reached")

    def cancel(self) -> None:
        pass

    def close(self) -> None:
        self.closed.set()


def test_supervision_watchdog_does_not_depend_on_the_library() -> None:
    """A call that hangs is seen within the time-outs, and its thread ends and closes the source when it returns."""
    source = HangingSource()
    capture = Capture("x", source, lambda _: None, DecodeSpec(open_timeout=0.1, read_timeout=0.1))
    capture._JOIN = 0.05
    started = time.monotonic()
    with pytest.raises(StreamStalled, match=r"0\.2 s"):
        capture.run(lambda: None)
    assert time.monotonic() - started < 2.0
    source.let_go.set()
    assert source.closed.wait(5)


def test_supervision_interrupt_ends_a_capture_that_hangs() -> None:
    """``interrupt`` returns control at once although the library call goes on."""
    source = HangingSource()
    capture = Capture("x", source, lambda _: None, DecodeSpec())
    capture._JOIN = 0.05
    runner = Thread(target=capture.run, args=(lambda: None,))
    runner.start()
    capture.interrupt()
    runner.join(5)
    assert not runner.is_alive()
    source.let_go.set()
    assert source.closed.wait(5)


class UnclosableSource(HangingSource):
    """A source that fails, and fails again when it is closed."""

    def open(self) -> None:
        raise StreamError("no route")

    def close(self) -> None:
        raise ValueError("a bug in close")


def test_supervision_survives_a_source_that_cannot_be_closed() -> None:
    """An error while closing ends the capture at once, with a reason, not at the watchdog's time."""
    started = time.monotonic()
    with pytest.raises(StreamError, match="a bug in close"):
        Capture("x", UnclosableSource(), lambda _: None, DecodeSpec()).run(lambda: None)
    assert time.monotonic() - started < 2.0


class LostSource(HangingSource):
    """A source whose error is still known to the call that raised it, as it is in PyAV's."""

    def open(self) -> None:
        pass

    def read(self) -> Frame:
        failure = StreamEnded("over")
        raise failure


def test_supervision_lets_a_lost_source_go_at_once() -> None:
    """Decoder and pictures of a lost connection are freed with it, not whenever the garbage collector runs."""
    source = LostSource()
    gone = weakref.ref(source)
    stop = Flag()

    def run(_: Callable[[], None]) -> None:
        nonlocal source
        capture = Capture("x", source, lambda _: None, DecodeSpec())
        del source
        capture.run(lambda: None)

    gc.disable()
    try:
        supervise(run, Retry(0.001, max_retries=0), stop, failed=lambda _: 0.0, given_up=lambda _: None)
        assert gone() is None
    finally:
        gc.enable()


class RefusingSource(HangingSource):
    """A source that raises at once."""

    def __init__(self, error: SentinelError) -> None:
        super().__init__()
        self.error = error

    def open(self) -> None:
        raise self.error


class NoPipeline:
    """Stands for a pipeline without stages."""

    def start(self) -> None: ...
    def accept(self, frame: Frame) -> None: ...
    def close(self) -> None: ...
    def join(self, deadline: float) -> bool:
        return deadline > 0


@pytest.mark.parametrize(
    ("error", "state", "delay"),
    [
        pytest.param(StreamError("no route"), StreamState.RECONNECTING, 0.0, id="network"),
        pytest.param(StreamRefused("401", status=401), StreamState.FAILED, REFUSED_DELAY, id="password"),
        pytest.param(StreamRefused("404", status=404), StreamState.FAILED, 0.0, id="path"),
    ],
)
def test_supervision_names_the_state_of_a_failure(error: StreamError, state: StreamState, delay: float) -> None:
    """A refused login fails and is repeated rarely, a lost network reconnects; the reason is kept."""
    worker = StreamWorker(
        StreamSpec("x", "rtsp://h", reconnect=ReconnectSpec(base_delay=30)),
        open_source=lambda _: RefusingSource(error),
        make_pipeline=lambda *_: NoPipeline(),  # type: ignore[arg-type, return-value]
    )
    worker.health.move(StreamState.CONNECTING)
    assert worker._failed(error) == delay
    assert (worker.health.state, worker.health.snapshot()["reason"]) == (state, str(error))


def test_supervision_404_after_frames_is_a_loss() -> None:
    """A server that has shown the stream before and answers 404 now has lost its camera."""
    worker = StreamWorker(spec("x"), open_source=lambda _: HangingSource(), make_pipeline=lambda *_: NoPipeline())  # type: ignore[arg-type, return-value]
    worker.health.move(StreamState.CONNECTING)
    worker.health.move(StreamState.RUNNING)
    worker._ran = True
    worker._failed(StreamRefused("404", status=404))
    assert worker.health.state is StreamState.RECONNECTING


def test_supervision_manager_plan_converges() -> None:
    """Only what changed stops and starts; applying the same again changes nothing."""
    live = {"a": spec("a"), "b": spec("b"), "c": spec("c")}
    wanted = {"a": spec("a"), "b": spec("b", "rtsp://h/2"), "d": spec("d")}
    assert plan(live, wanted) == ({"b", "c"}, {"b", "d"})
    assert plan(wanted, wanted) == (set(), set())


def test_supervision_manager_stops_every_stream_together() -> None:
    """Streams that fail for ever are stopped at once, and a restart gives a new worker."""
    made = []

    def make(stream: StreamSpec) -> StreamWorker:
        made.append(stream.id)
        return StreamWorker(
            stream,
            open_source=lambda _: RefusingSource(StreamError("no route")),
            make_pipeline=lambda *_: NoPipeline(),  # type: ignore[arg-type, return-value]
        )

    with StreamManager(make) as manager:
        manager.apply([spec("a"), spec("b")])
        manager.apply([spec("a"), spec("b")])
        manager.restart("a")
        started = time.monotonic()
        manager.stop()
        assert time.monotonic() - started < 2.0
        assert {s["state"] for s in manager.snapshot().values()} == {"STOPPED"}
    assert made == ["a", "b", "a"]


class Slow(NoPipeline):
    """A pipeline that takes its time to end, and says when it is asked to."""

    def __init__(self) -> None:
        self.asked, self.let_go, self.started = Flag(), Flag(), Flag()

    def start(self) -> None:
        self.started.set()

    def close(self) -> None:
        self.asked.set()

    def join(self, deadline: float) -> bool:
        return self.let_go.wait(max(0.0, deadline - time.monotonic()))


def test_supervision_stop_wins_against_a_change_under_way() -> None:
    """Streams that ``apply`` was about to start when the program stopped are not left running."""
    pipelines: dict[str, Slow] = {}

    def make(stream: StreamSpec) -> StreamWorker:
        slow = pipelines.setdefault(stream.source, Slow())
        source = RefusingSource(StreamError("no route"))
        return StreamWorker(stream, open_source=lambda _: source, make_pipeline=lambda *_: slow)  # type: ignore[arg-type, return-value]

    manager = StreamManager(make)
    manager.apply([spec("a", "old")])
    change = Thread(target=manager.apply, args=([spec("a", "new"), spec("b", "other")],))
    change.start()
    assert pipelines["old"].asked.wait(5)  # apply waits for the old stream to end
    stopping = Thread(target=manager.stop)
    stopping.start()
    pipelines["old"].let_go.set()
    change.join(5)
    stopping.join(5)
    assert not change.is_alive()
    assert not stopping.is_alive()
    running = [key for key, slow in pipelines.items() if slow.started.is_set() and not slow.asked.is_set()]
    for slow in pipelines.values():
        slow.let_go.set()
    manager.close()
    assert running == []


def test_supervision_two_restarts_leave_one_stream() -> None:
    """Restarts that come together follow each other, so that no stream runs without its manager knowing it."""
    made: list[StreamWorker] = []

    def make(stream: StreamSpec) -> StreamWorker:
        source = RefusingSource(StreamError("no route"))
        made.append(StreamWorker(stream, open_source=lambda _: source, make_pipeline=lambda *_: NoPipeline()))  # type: ignore[arg-type, return-value]
        return made[-1]

    manager = StreamManager(make)
    manager.apply([spec("a")])
    together = [Thread(target=manager.restart, args=("a",)) for _ in range(4)]
    for thread in together:
        thread.start()
    for thread in together:
        thread.join(5)
    alive = [worker for worker in made if worker._thread.is_alive()]
    manager.close()
    for worker in made:
        worker.stop()
    assert len(alive) == 1


def test_supervision_health_tells_each_output_s_condition() -> None:
    """Outputs are told apart; an encoder that fails takes all of them with it; a stopped one does nothing."""
    health = StreamHealth("gate")
    assert health.publishers() == {}
    good, bad = OutputReport("rtsp://a/x", "running", "", 9), OutputReport("rtsp://b/x", "retrying", "refused", 2)
    health.sink_report = lambda: SinkReport("retrying", "refused", outputs=(good, bad))
    assert health.publishers() == {
        Part("publisher", "rtsp://a/x", "gate"): Condition(Doing.WELL, "", 9),
        Part("publisher", "rtsp://b/x", "gate"): Condition(Doing.FAILING, "refused", 2),
    }
    health.sink_report = lambda: SinkReport("retrying", "no such codec", outputs=(good,))
    assert [(c.doing, c.reason) for c in health.publishers().values()] == [(Doing.FAILING, "no such codec")]
    health.sink_report = lambda: SinkReport("stopped", outputs=(OutputReport("rtsp://a/x", "stopped"),))
    assert [c.doing for c in health.publishers().values()] == [Doing.NOTHING]


def test_supervision_health_reports_the_contract() -> None:
    """A stream's part of the report has every key of design section 7, and counts drops by cause."""
    health = StreamHealth("gate")
    health.move(StreamState.CONNECTING)
    health.drop("too_old", 2)
    health.sink_report = lambda: SinkReport("running", published=7, dropped=1)
    health.latency_ms.add(5.0)
    report = health.snapshot()
    assert {
        "state", "since", "reason", "frames_decoded", "frames_analysed", "frames_published", "frames_dropped",
        "reconnects", "fps", "latency_ms",
    } <= set(report)  # fmt: skip
    assert (report["frames_published"], report["frames_dropped"]) == (7, 3)
    assert report["dropped_by"] == {"too_old": 2, "output": 1}
    assert report["latency_ms"] == {"p50": 5.0, "p95": 5.0, "p99": 5.0}
