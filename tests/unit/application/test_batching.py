"""The dispatcher: when a batch is due, who gets which row, and what happens when the model raises or hangs."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from structlog.testing import capture_logs

from sentinel_pipeline.application.pipeline.batching import Dispatcher, Row
from sentinel_pipeline.application.pipeline.room import REPEATS
from sentinel_pipeline.application.pipeline.turns import Callers, Gaps
from sentinel_pipeline.domain.errors import ModelBusy, ModelError, ModelTimeout

DEADLINE = 5.0


def double(batch: np.ndarray) -> dict[str, np.ndarray]:
    return {"doubled": batch * 2}


class GatedModel:
    """A model that waits inside ``run`` until ``gate`` opens, and notes the batches it has seen."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.entered = threading.Event()
        self.seen: list[list[float]] = []

    def run(self, batch: np.ndarray) -> dict[str, np.ndarray]:
        self.seen.append([float(row[0]) for row in batch])
        self.entered.set()
        assert self.gate.wait(DEADLINE)
        return double(batch)


def tensor(value: float) -> np.ndarray:
    return np.full(3, value, np.float32)


def eventually(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < deadline, "the condition never came true"
        threading.Event().wait(0.005)


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(8) as executor:
        yield executor


class NeverShort(Gaps):
    """Finds waiting for the others worth all the time there is."""

    def window(self, missing: int, max_wait: float) -> float:  # noqa: ARG002 - as inherited
        return max_wait


def queued(dispatcher: Dispatcher, count: int) -> Callable[[], bool]:
    return lambda: len(dispatcher._queue) == count


@pytest.mark.parametrize("wrong", [{"max_size": 0}, {"max_wait": -1.0}, {"timeout": 0.0}])
def test_dispatcher_refuses_settings_that_cannot_work(wrong: dict[str, Any]) -> None:
    """Settings that would never serve are refused when the dispatcher is built."""
    with pytest.raises(ValueError, match="must be positive"):
        Dispatcher("m", double, **wrong)


def test_submit_returns_the_callers_own_row(pool: ThreadPoolExecutor) -> None:
    """However requests are batched, each caller gets the outputs of its own tensor."""
    with Dispatcher("m", double, max_size=3) as dispatcher:
        rows: list[Row] = list(pool.map(lambda value: dispatcher.submit(tensor(value)), range(40)))
    assert [float(row.outputs["doubled"][0]) for row in rows] == [2.0 * value for value in range(40)]
    assert all(row.wait_ms >= 0 and row.infer_ms >= 0 for row in rows)
    state = dispatcher.snapshot()
    assert state.rows == 40
    assert state.batch_mean == pytest.approx(40 / state.batches, abs=0.01)


def test_requests_that_queue_up_run_as_one_batch_of_at_most_max_size(pool: ThreadPoolExecutor) -> None:
    """What arrives while the model is busy goes together, oldest first, and never above the size limit."""
    model = GatedModel()
    with Dispatcher("m", model.run, max_size=4) as dispatcher:
        futures = [pool.submit(dispatcher.submit, tensor(0))]
        assert model.entered.wait(DEADLINE)
        for value in range(1, 7):
            futures.append(pool.submit(dispatcher.submit, tensor(value)))
            eventually(queued(dispatcher, value))
        model.gate.set()
        answers = [float(future.result(DEADLINE).outputs["doubled"][0]) for future in futures]
    assert model.seen == [[0], [1, 2, 3, 4], [5, 6]]
    assert answers == [0, 2, 4, 6, 8, 10, 12]


def test_two_callers_within_max_wait_share_a_batch() -> None:
    """With several streams asking, an incomplete batch waits for the other one instead of running alone."""
    model = GatedModel()
    model.gate.set()
    with (
        ThreadPoolExecutor(1) as gate,
        ThreadPoolExecutor(1) as yard,
        Dispatcher("m", model.run, max_wait=DEADLINE, timeout=2 * DEADLINE) as dispatcher,
    ):
        dispatcher._callers, dispatcher._gaps = Callers(window=60.0), NeverShort()
        gate.submit(dispatcher.submit, tensor(1)).result(DEADLINE)
        early = yard.submit(dispatcher.submit, tensor(2))
        eventually(queued(dispatcher, 1))
        late = gate.submit(dispatcher.submit, tensor(3))
        assert late.result(DEADLINE).outputs["doubled"][0] == 6
        assert early.result(DEADLINE).wait_ms < DEADLINE * 1000, "it ran as soon as everybody had asked"
    assert model.seen == [[1], [2, 3]]


def test_a_fast_caller_does_not_overtake_a_slow_one(pool: ThreadPoolExecutor) -> None:
    """Who was served longest ago is next: a caller that asks again at once stands behind everybody else."""
    model = GatedModel()
    with Dispatcher("m", model.run, max_size=1) as dispatcher:

        def fast() -> None:
            for value in (1, 2, 3):
                dispatcher.submit(tensor(value))

        hurried = pool.submit(fast)
        assert model.entered.wait(DEADLINE)
        slow = pool.submit(dispatcher.submit, tensor(100))
        eventually(queued(dispatcher, 1))
        model.gate.set()
        hurried.result(DEADLINE)
        slow.result(DEADLINE)
    assert model.seen == [[1], [100], [2], [3]]


def test_a_caller_whose_request_grew_too_old_keeps_its_turn(pool: ThreadPoolExecutor) -> None:
    """Replacing an old request by a newer one costs no place: what was not served goes before what was."""
    model = GatedModel()
    with (
        ThreadPoolExecutor(1) as patient,
        ThreadPoolExecutor(1) as hasty,
        Dispatcher("m", model.run, max_size=1) as dispatcher,
    ):
        model.gate.set()
        hasty.submit(dispatcher.submit, tensor(1)).result(DEADLINE)
        patient.submit(dispatcher.submit, tensor(2)).result(DEADLINE)
        model.gate.clear()
        model.entered.clear()
        running = pool.submit(dispatcher.submit, tensor(3))
        assert model.entered.wait(DEADLINE)
        old = hasty.submit(dispatcher.submit, tensor(4), expires_at=time.monotonic() + 0.05)
        with pytest.raises(ModelBusy):
            old.result(DEADLINE)
        later = patient.submit(dispatcher.submit, tensor(5))
        eventually(queued(dispatcher, 1))
        newer = hasty.submit(dispatcher.submit, tensor(6))
        eventually(queued(dispatcher, 2))
        model.gate.set()
        for future in (running, later, newer):
            future.result(DEADLINE)
    assert model.seen == [[1], [2], [3], [6], [5]]


def test_a_request_that_expires_in_the_queue_is_not_run_and_is_counted(pool: ThreadPoolExecutor) -> None:
    """At its deadline a waiting request comes back as too old, long before the time-out; the model never sees it."""
    model = GatedModel()
    with Dispatcher("m", model.run, max_size=1, timeout=DEADLINE) as dispatcher:
        running = pool.submit(dispatcher.submit, tensor(0))
        assert model.entered.wait(DEADLINE)
        started = time.monotonic()
        with pytest.raises(ModelBusy, match="grew too old before its turn"):
            dispatcher.submit(tensor(1), expires_at=started + 0.05)
        assert 0.05 <= time.monotonic() - started < 1.0
        state = dispatcher.snapshot()
        assert (state.state, state.expired) == ("ready", 1)
        model.gate.set()
        running.result(DEADLINE)
        assert dispatcher.submit(tensor(2), expires_at=time.monotonic() + DEADLINE).outputs["doubled"][0] == 4
    assert model.seen == [[0], [2]]
    assert dispatcher.snapshot().expired == 1


def test_a_request_that_could_not_be_done_in_time_is_not_run(pool: ThreadPoolExecutor) -> None:
    """Its answer must be there before it expires: it is refused as early as the model has taken lately."""
    model, slow = GatedModel(), threading.Event()
    with Dispatcher("m", model.run, max_size=1, timeout=DEADLINE) as dispatcher:
        for opens in (False, False, True):
            model.entered.clear()
            model.gate.clear()
            running = pool.submit(dispatcher.submit, tensor(0))
            assert model.entered.wait(DEADLINE)
            if not opens:
                slow.wait(0.15)  # as long as this model takes
                model.gate.set()
                running.result(DEADLINE)
        started = time.monotonic()
        with pytest.raises(ModelBusy):
            dispatcher.submit(tensor(1), expires_at=started + 0.5)
        assert 0.2 < time.monotonic() - started < 0.49
        model.gate.set()
        running.result(DEADLINE)
    assert model.seen == [[0], [0], [0]]


def test_a_request_that_is_already_too_old_is_never_run() -> None:
    """A picture that is past its deadline when it arrives is refused as too old, and the next one is served."""
    model = GatedModel()
    model.gate.set()
    with Dispatcher("m", model.run) as dispatcher:
        for _ in range(20):
            with pytest.raises(ModelBusy):
                dispatcher.submit(tensor(1), expires_at=time.monotonic() - 1.0)
        assert dispatcher.submit(tensor(2)).outputs["doubled"][0] == 4
        assert dispatcher.snapshot().expired == 20
    assert model.seen == [[2]]


def test_a_request_that_expires_while_it_runs_gets_its_answer(pool: ThreadPoolExecutor) -> None:
    """What the model has begun is paid for: its answer is taken although the deadline passes meanwhile."""
    model = GatedModel()
    with Dispatcher("m", model.run, timeout=DEADLINE) as dispatcher:
        expires_at = time.monotonic() + 0.1
        running = pool.submit(dispatcher.submit, tensor(1), expires_at=expires_at)
        assert model.entered.wait(DEADLINE)
        eventually(lambda: time.monotonic() > expires_at + 0.02)
        model.gate.set()
        assert running.result(DEADLINE).outputs["doubled"][0] == 2
        assert dispatcher.snapshot().expired == 0


def test_tensors_of_another_shape_get_a_batch_of_their_own(pool: ThreadPoolExecutor) -> None:
    """A stream with another input shape neither fails the others nor is failed by them."""
    model = GatedModel()
    with Dispatcher("m", model.run, max_size=8) as dispatcher:
        first = pool.submit(dispatcher.submit, tensor(0))
        assert model.entered.wait(DEADLINE)
        odd = pool.submit(dispatcher.submit, np.ones(5, np.float32))
        eventually(queued(dispatcher, 1))
        even = pool.submit(dispatcher.submit, tensor(2))
        eventually(queued(dispatcher, 2))
        model.gate.set()
        assert first.result(DEADLINE).outputs["doubled"].shape == (3,)
        assert odd.result(DEADLINE).outputs["doubled"].shape == (5,)
        assert even.result(DEADLINE).outputs["doubled"].shape == (3,)


class Caller:
    """A thread of its own that asks again and again, as a camera's analysis does."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1)

    def __enter__(self) -> Callable[[Callable[..., Row], np.ndarray], Future[Row]]:
        return self._pool.submit

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown()


def test_a_model_that_raises_for_one_picture_fails_nobody_else_s() -> None:
    """A failing batch runs again one by one: only the bad picture's caller gets the error, with its cause."""
    model = GatedModel()

    def run(batch: np.ndarray) -> dict[str, np.ndarray]:
        outputs = model.run(batch)
        if (batch == 13).any():
            raise RuntimeError("does not like 13")
        return outputs

    with Dispatcher("people", run) as dispatcher, Caller() as zero, Caller() as good, Caller() as bad:
        first = zero(dispatcher.submit, tensor(0))
        assert model.entered.wait(DEADLINE)
        fine = good(dispatcher.submit, tensor(1))
        eventually(queued(dispatcher, 1))
        doomed = bad(dispatcher.submit, tensor(13))
        eventually(queued(dispatcher, 2))
        model.gate.set()
        first.result(DEADLINE)
        assert fine.result(DEADLINE).outputs["doubled"][0] == 2
        with pytest.raises(ModelError, match="model people failed: RuntimeError: does not like 13") as caught:
            doomed.result(DEADLINE)
        assert isinstance(caught.value.__cause__.__cause__, RuntimeError)
        assert model.seen == [[0], [1, 13], [1], [13]]
        assert dispatcher.snapshot().state == "failing"
        assert "does not like 13" in dispatcher.snapshot().reason
        good(dispatcher.submit, tensor(2)).result(DEADLINE)
        assert dispatcher.snapshot().state == "failing", "the bad one's last word stands until it has another"
        assert bad(dispatcher.submit, tensor(4)).result(DEADLINE).outputs["doubled"][0] == 8
        assert dispatcher.snapshot().state == "ready"


def test_a_caller_whose_pictures_failed_keeps_to_itself_until_one_goes_well() -> None:
    """Suspects run alone, so that they spoil no batch; the others are batched as before."""
    model = GatedModel()
    model.gate.set()

    def run(batch: np.ndarray) -> dict[str, np.ndarray]:
        if (batch == 13).any():
            raise RuntimeError("does not like 13")
        return model.run(batch)

    with Dispatcher("people", run) as dispatcher, Caller() as zero, Caller() as one, Caller() as two, Caller() as bad:
        with pytest.raises(ModelError):
            bad(dispatcher.submit, tensor(13)).result(DEADLINE)
        for turn, batches in enumerate([{(1, 2), (3,)}, {(1, 2, 3)}]):
            model.gate.clear()
            model.entered.clear()
            asked = [zero(dispatcher.submit, tensor(0))]
            assert model.entered.wait(DEADLINE)
            for number, caller in enumerate((one, two, bad), start=1):
                asked.append(caller(dispatcher.submit, tensor(number)))
                eventually(queued(dispatcher, number))
            model.gate.set()
            for future in asked:
                future.result(DEADLINE)
            assert {tuple(sorted(seen)) for seen in model.seen} - {(0,)} == batches, turn
            model.seen.clear()


def test_a_camera_that_hangs_the_model_is_left_out_and_the_others_go_on() -> None:
    """After one stall its pictures are refused at once for a while, longer each time; the others are served."""
    hangs, over = threading.Event(), threading.Event()

    def run(batch: np.ndarray) -> dict[str, np.ndarray]:
        if (batch == 13).any():
            hangs.set()
            over.wait(DEADLINE)
        return double(batch)

    with Dispatcher("m", run, timeout=0.1) as dispatcher, Caller() as good, Caller() as bad:
        with pytest.raises(ModelTimeout, match="did not answer"):
            bad(dispatcher.submit, tensor(13)).result(DEADLINE)
        assert dispatcher.snapshot().state == "stalled"
        over.set()
        eventually(lambda: "took" in dispatcher.snapshot().reason)
        for _ in range(5):
            assert good(dispatcher.submit, tensor(2)).result(DEADLINE).outputs["doubled"][0] == 4
            with pytest.raises(ModelTimeout, match="hangs over pictures of this camera"):
                bad(dispatcher.submit, tensor(13)).result(DEADLINE)
        state = dispatcher.snapshot()
        assert (state.state, state.rows) == ("stalled", 6)
        assert "ThreadPoolExecutor" in state.reason, "the thread is named"


def test_a_camera_that_hangs_the_model_until_it_raises_is_left_out_as_well() -> None:
    """A time-out inside the model costs the others as much as a late answer does, and is told as a stall."""
    over = threading.Event()

    def run(batch: np.ndarray) -> dict[str, np.ndarray]:
        if (batch == 13).any():
            over.wait(DEADLINE)
            raise RuntimeError("launch timed out")
        return double(batch)

    with Dispatcher("m", run, timeout=0.1) as dispatcher, Caller() as good, Caller() as bad:
        with pytest.raises(ModelTimeout, match="did not answer"):
            bad(dispatcher.submit, tensor(13)).result(DEADLINE)
        eventually(lambda: dispatcher.snapshot().state == "stalled")
        over.set()
        eventually(lambda: "launch timed out" in dispatcher.snapshot().reason)
        with pytest.raises(ModelTimeout, match="hangs over pictures of this camera"):
            bad(dispatcher.submit, tensor(13)).result(DEADLINE)
        assert good(dispatcher.submit, tensor(2)).result(DEADLINE).outputs["doubled"][0] == 4
        state = dispatcher.snapshot()
        assert state.state == "stalled"
        assert "ThreadPoolExecutor" in state.reason, "the thread is named"


def test_a_batch_that_hangs_and_raises_is_not_run_again() -> None:
    """Its callers have given up: running their pictures one by one would only make the model hang once more."""
    model, over = GatedModel(), threading.Event()

    def run(batch: np.ndarray) -> dict[str, np.ndarray]:
        outputs = model.run(batch)
        if len(batch) > 1:
            over.wait(DEADLINE)
            raise RuntimeError("launch timed out")
        return outputs

    with Dispatcher("m", run, timeout=0.3) as dispatcher, Caller() as zero, Caller() as one, Caller() as two:
        first = zero(dispatcher.submit, tensor(0))
        assert model.entered.wait(DEADLINE)
        asked = []
        for number, caller in enumerate((one, two), start=1):
            asked.append(caller(dispatcher.submit, tensor(number)))
            eventually(queued(dispatcher, number))
        model.gate.set()
        first.result(DEADLINE)
        for future in asked:
            with pytest.raises(ModelTimeout, match="did not answer"):
                future.result(DEADLINE)
        eventually(lambda: dispatcher.snapshot().state == "stalled")
        over.set()
        eventually(lambda: "launch timed out" in dispatcher.snapshot().reason)
        assert one(dispatcher.submit, tensor(3)).result(DEADLINE).outputs["doubled"][0] == 6, "it may be innocent"
    assert model.seen == [[0], [1, 2], [3]]


class CrowdedModel:
    """A model that has room for ``most`` pictures at once, and notes the sizes of the batches it has seen."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.seen: list[int] = []

    def run(self, batch: np.ndarray) -> dict[str, np.ndarray]:
        self.seen.append(len(batch))
        if len(batch) > self.most:
            raise MemoryError("no room")
        return double(batch)


def ask_together(dispatcher: Dispatcher, callers: list[Callable[..., Future[Row]]]) -> None:
    """Have one picture of each caller looked at."""
    for future in [caller(dispatcher.submit, tensor(1)) for caller in callers]:
        assert future.result(DEADLINE).outputs["doubled"][0] == 2


def test_batches_that_fail_though_their_pictures_succeed_become_smaller_and_are_told() -> None:
    """Nobody is failed, but a permanent double cost ends after a few times and stands in the reason and the log."""
    model = CrowdedModel(1)
    with (
        capture_logs() as logs,
        Dispatcher("m", model.run, max_size=2, max_wait=DEADLINE, timeout=2 * DEADLINE) as dispatcher,
        Caller() as one,
        Caller() as two,
    ):
        dispatcher._callers, dispatcher._gaps = Callers(window=60.0), NeverShort()
        for caller in (one, two):
            dispatcher._callers.note(caller(threading.current_thread).result(), time.monotonic())
        for _ in range(REPEATS):
            ask_together(dispatcher, [one, two])
        eventually(lambda: dispatcher.snapshot().reason != "")
        state = dispatcher.snapshot()
        assert state.state == "ready"
        assert "batches of 2 fail though each picture succeeds alone, so it runs 1 at a time" in state.reason
        assert model.seen == [2, 1, 1] * REPEATS
        dispatcher._room._again_at = math.inf  # however slow this machine is
        ask_together(dispatcher, [one, two])
        assert model.seen[3 * REPEATS :] == [1, 1]

        model.most = 2
        dispatcher._room._again_at = 0.0  # as if the wait were over
        ask_together(dispatcher, [one, two])
        eventually(lambda: dispatcher.snapshot().reason == "")
        assert model.seen[-1] == 2
    assert [line["event"] for line in logs] == ["model runs smaller batches", "model runs batches of full size again"]
    assert "MemoryError: no room" in logs[0]["reason"]


def test_a_new_thread_does_not_inherit_the_sentence_of_an_ended_one() -> None:
    """A thread may get the ident of one that has ended; a new stream is served although that one was left out."""
    over = threading.Event()

    def run(batch: np.ndarray) -> dict[str, np.ndarray]:
        if (batch == 13).any():
            over.wait(DEADLINE)
        return double(batch)

    with Dispatcher("m", run, timeout=0.05) as dispatcher:
        with Caller() as bad:
            ident = bad(threading.get_ident).result(DEADLINE)
            with pytest.raises(ModelTimeout, match="did not answer"):
                bad(dispatcher.submit, tensor(13)).result(DEADLINE)
            eventually(lambda: dispatcher.snapshot().state == "stalled")
            over.set()
            eventually(lambda: "took" in dispatcher.snapshot().reason)
        for _ in range(100):
            with Caller() as good:
                if good(threading.get_ident).result(DEADLINE) == ident:
                    assert good(dispatcher.submit, tensor(1)).result(DEADLINE).outputs["doubled"][0] == 2
                    return
        pytest.skip("this system gives no ident twice")


def test_outputs_that_lack_rows_are_an_error() -> None:
    """A model that does not return one row per tensor fails loudly instead of mixing up streams."""
    with (
        Dispatcher("m", lambda _: {"boxes": np.zeros((7, 2))}) as dispatcher,
        pytest.raises(ModelError, match=r"output boxes has shape \(7, 2\) for a batch of 1"),
    ):
        dispatcher.submit(tensor(1))


def test_a_hung_model_times_out_then_rejects_at_once_then_recovers(pool: ThreadPoolExecutor) -> None:
    """Nobody waits for a stuck model longer than the deadline; while it hangs, new requests fail at once."""
    model = GatedModel()
    with Dispatcher("m", model.run, max_size=1, timeout=0.2) as dispatcher:
        stuck = pool.submit(dispatcher.submit, tensor(0))
        assert model.entered.wait(DEADLINE)
        waiting = pool.submit(dispatcher.submit, tensor(1))
        for future in (stuck, waiting):
            with pytest.raises(ModelTimeout, match=r"did not answer within 0\.2 s"):
                future.result(DEADLINE)
        eventually(lambda: dispatcher.snapshot().state == "stalled")
        assert "under way for" in dispatcher.snapshot().reason

        started = time.monotonic()
        with pytest.raises(ModelTimeout, match="is stuck"):
            dispatcher.submit(tensor(2))
        assert time.monotonic() - started < 0.1

        model.gate.set()
        eventually(lambda: "took" in dispatcher.snapshot().reason)
        assert dispatcher.submit(tensor(3)).outputs["doubled"][0] == 6
    assert model.seen == [[0], [3]], "what its caller had given up was not computed"


def test_close_reports_a_thread_that_is_stuck_in_the_model(pool: ThreadPoolExecutor) -> None:
    """``close`` keeps its deadline and says that the thread is left; once the model returns, closing succeeds."""
    model = GatedModel()
    dispatcher = Dispatcher("m", model.run, timeout=0.1)
    dispatcher.start()
    stuck = pool.submit(dispatcher.submit, tensor(0))
    assert model.entered.wait(DEADLINE)
    started = time.monotonic()
    assert dispatcher.close(timeout=0.1) is False
    assert time.monotonic() - started < 1.0
    with pytest.raises(ModelTimeout):
        stuck.result(DEADLINE)
    model.gate.set()
    assert dispatcher.close() is True
    assert dispatcher.snapshot().state == "closed"


def test_close_refuses_what_is_queued(pool: ThreadPoolExecutor) -> None:
    """A request that has not begun when the dispatcher closes is refused at once, not left to its deadline."""
    model = GatedModel()
    dispatcher = Dispatcher("m", model.run, max_size=1, timeout=DEADLINE)
    dispatcher.start()
    running = pool.submit(dispatcher.submit, tensor(0))
    assert model.entered.wait(DEADLINE)
    waiting = pool.submit(dispatcher.submit, tensor(1))
    eventually(queued(dispatcher, 1))
    closing = pool.submit(dispatcher.close)
    with pytest.raises(ModelError, match="is closed"):
        waiting.result(DEADLINE)
    model.gate.set()
    assert running.result(DEADLINE).outputs["doubled"][0] == 0
    assert closing.result(DEADLINE) is True
    assert dispatcher.close() is True


def test_submit_needs_a_running_dispatcher() -> None:
    """Before start and after close there is nobody to answer, and ``submit`` says so at once."""
    dispatcher = Dispatcher("m", double)
    with pytest.raises(ModelError, match="not started"):
        dispatcher.submit(tensor(1))
    assert dispatcher.close() is True
    with pytest.raises(ModelError, match="closed"):
        dispatcher.submit(tensor(1))
