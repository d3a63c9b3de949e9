"""Supervision without a camera: the retry loop, the watchdog, the states."""

from __future__ import annotations

import time
from threading import Event as Flag
from threading import Thread

import pytest

from sentinel_pipeline.application.ports import SinkReport
from sentinel_pipeline.application.stream.capture import Capture
from sentinel_pipeline.application.stream.health import StreamHealth
from sentinel_pipeline.application.stream.manager import StreamManager, plan
from sentinel_pipeline.application.stream.supervisor import supervise
from sentinel_pipeline.application.stream.worker import REFUSED_DELAY, StreamWorker
from sentinel_pipeline.domain.backoff import Retry
from sentinel_pipeline.domain.errors import SentinelError, StreamEnded, StreamError, StreamRefused, StreamStalled
from sentinel_pipeline.domain.frame import Frame
from sentinel_pipeline.domain.streams import DecodeSpec, ReconnectSpec, StreamSpec, StreamState


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
    with pytest.raises(StreamStalled, match=r"0\.1 s"):
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
        open_source=lambda: RefusingSource(error),
        make_pipeline=lambda *_: NoPipeline(),  # type: ignore[arg-type, return-value]
    )
    worker.health.move(StreamState.CONNECTING)
    assert worker._failed(error) == delay
    assert (worker.health.state, worker.health.snapshot()["reason"]) == (state, str(error))


def test_supervision_404_after_frames_is_a_loss() -> None:
    """A server that has shown the stream before and answers 404 now has lost its camera."""
    worker = StreamWorker(spec("x"), open_source=HangingSource, make_pipeline=lambda *_: NoPipeline())  # type: ignore[arg-type, return-value]
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
            open_source=lambda: RefusingSource(StreamError("no route")),
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
