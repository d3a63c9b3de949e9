"""Constant output rate, sampling and the motion gate."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sentinel_pipeline.domain.pacing import Pacer, Thinning
from sentinel_pipeline.domain.sampling import Idleness, MotionGate, Sampler
from sentinel_pipeline.domain.streams import MotionSpec


def play(pacer: Pacer, arrivals: list[float], until: float, pts: list[float] | None = None) -> list[tuple[float, int]]:
    """Run a pacer on given arrivals, with stream times ``pts``; return (time, slot) of each picture written."""
    written, now, arrivals, times = [], 0.0, sorted(arrivals), iter(pts or ())
    while now < until:
        wait = pacer.wait(now)
        timeout = float("inf") if wait is None else now + wait
        if arrivals and arrivals[0] <= timeout:
            now = arrivals.pop(0)
            slots = pacer.arrive(now, next(times, None))
        elif timeout < until:
            now = timeout
            slots = pacer.due(now)
        else:
            break
        written += [(now, slot) for slot in slots]
    return written


def test_pacing_same_rate_publishes_at_once_without_repeats() -> None:
    """A camera at the output rate, with jitter below half an interval, gets one slot per picture, at its arrival."""
    jitter = [0.0, 0.015, -0.01, 0.018, -0.015] * 10
    arrivals = [i / 25 + 0.1 + (j if i else 0) for i, j in enumerate(jitter)]
    assert play(Pacer(25), arrivals, 2.09) == [(t, i) for i, t in enumerate(arrivals)]


@pytest.mark.parametrize("share", [2, 3, 6])
def test_pacing_takes_pictures_that_the_network_held_up(share: int) -> None:
    """Where some pictures come with the next one, each still has a slot of its own: none is dropped, none repeated."""
    pts = [i / 25 for i in range(1000)]
    held = [0.039 if random.Random(i).randrange(share) == 0 else 0.0 for i in range(1000)]
    arrivals = [t + late for t, late in zip(pts, held, strict=True)]
    written = play(Pacer(25), arrivals, 40.0, pts)
    settled = [(t, slot) for t, slot in written if slot > 100]
    assert [slot for _, slot in settled] == list(range(101, settled[-1][1] + 1))
    assert sorted(t for t, _ in settled) == arrivals[-len(settled) :], "all of them at their arrival, none repeated"


def test_pacing_survives_a_stream_time_that_jumps() -> None:
    """Stream time that leaps makes the pacer go by arrival: the output stays in step."""
    pts = [i / 25 + (100.0 if i > 200 else 0.0) for i in range(500)]
    arrivals = [i / 25 for i in range(500)]
    assert play(Pacer(25), arrivals, 20.0, pts) == [(t, i) for i, t in enumerate(arrivals)]


@pytest.mark.parametrize(("stamped", "really"), [(25, 20), (25, 15), (30, 25), (50, 25), (24, 25)])
def test_pacing_learns_that_a_cameras_clock_is_wrong(stamped: int, really: int) -> None:
    """A camera that stamps another rate than it has: soon every picture goes out at its arrival, none is dropped."""
    arrivals = [i / really for i in range(30 * really)]
    written = play(Pacer(25), arrivals, 30.0, [i / stamped for i in range(len(arrivals))])
    assert [slot for _, slot in written] == list(range(len(written)))
    at = {t for t, _ in written}
    assert [t for t in arrivals if t not in at and t > 8.0] == []


def test_pacing_does_not_catch_up_after_a_stall() -> None:
    """Pictures that a stalled network delivers at once get one slot, not slots in the future."""
    pts = [i / 25 for i in range(200)]
    arrivals = [t if t < 2.0 or t >= 4.0 else 4.0 for t in pts]
    written = play(Pacer(25), arrivals, 8.0, pts)
    assert [slot for _, slot in written] == list(range(len(written)))
    assert all(slot <= t * 25 + 0.5 for t, slot in written)


def test_pacing_is_not_bound_to_a_late_first_picture() -> None:
    """Where the first picture came late, the grid moves to the others: soon each has a slot of its own again."""
    rng = random.Random(3)
    arrivals = [0.018, *(i / 25 + rng.uniform(-0.012, 0.012) for i in range(1, 500))]
    pacer, unused = Pacer(25), []
    for i, now in enumerate(arrivals):
        pacer.due(now - 1e-3)
        if not pacer.arrive(now):
            unused.append(i)
    assert [i for i in unused if i > 60] == []
    assert pacer.skipped == 0


def test_pacing_stays_in_step_with_real_time() -> None:
    """A camera whose clock is off by half a per cent does not drag the output along: slots stay with the clock."""
    for camera_fps in (24.875, 25.125):
        arrivals = [i / camera_fps for i in range(int(camera_fps * 600))]
        written = play(Pacer(25), arrivals, 600.0)
        assert [slot for _, slot in written] == list(range(len(written)))
        assert len(written) == pytest.approx(600 * 25, abs=3)


@pytest.mark.parametrize("camera_fps", [5, 10, 12.5, 25, 30, 60])
def test_pacing_gives_the_constant_rate_whatever_the_camera(camera_fps: float) -> None:
    """Every slot is filled exactly once, in order, no later than one and a half intervals after its time."""
    arrivals = [i / camera_fps for i in range(int(10 * camera_fps))]
    written = play(Pacer(25), arrivals, 10.0)
    assert [slot for _, slot in written] == list(range(len(written)))
    assert len(written) == pytest.approx(250, abs=2)
    assert all(now <= (slot + 1.5) / 25 + 1e-6 for now, slot in written)


def test_pacing_goes_on_when_the_camera_is_gone() -> None:
    """The last picture is repeated at the rate for as long as nothing comes."""
    written = play(Pacer(10), [0.0, 0.1], 5.0)
    assert [slot for _, slot in written] == list(range(len(written)))
    assert len(written) >= 48


def test_pacing_skips_after_a_long_sleep() -> None:
    """After a suspend the slots slept through are skipped, not encoded in a burst."""
    pacer = Pacer(25)
    assert list(pacer.arrive(0.0)) == [0]
    assert list(pacer.arrive(60.0)) == [1500]
    assert pacer.skipped == 1499


@given(
    st.lists(st.floats(0, 5), max_size=60),
    st.sampled_from([1.0, 10.0, 25.0, 29.97]),
    st.lists(st.floats(-10, 10), max_size=60),
)
def test_pacing_slots_never_repeat(arrivals: list[float], fps: float, pts: list[float]) -> None:
    """Whatever the arrivals and the stream times, slots only grow."""
    slots = [slot for _, slot in play(Pacer(fps), arrivals, 6.0, pts)]
    assert slots == sorted(set(slots))


@pytest.mark.parametrize("phase", [0.0, 0.37])
@pytest.mark.parametrize(("camera_fps", "wanted"), [(25, 5), (10, 5), (30, 7), (5, 10)])
def test_sampling_takes_so_many_per_second(camera_fps: int, wanted: int, phase: float) -> None:
    """Per second of stream time at most ``fps`` frames pass, and that many when the camera has them."""
    sampler = Sampler(wanted, phase)
    passed = sum(sampler.wants(i / camera_fps + 1e-4) for i in range(camera_fps * 20))
    cut = phase > 0  # the first slot is shorter then, so that one more may have begun
    assert passed - min(camera_fps, wanted) * 20 in ((0, 1) if cut else (0,))


def test_sampling_motion_gate_opens_holds_and_closes() -> None:
    """The gate is closed on a still picture, opens when something moves, and stays open for ``hold``."""
    gate = MotionGate(MotionSpec(enabled=True, threshold=0.02, hold=1.0))
    still = np.full((90, 160), 100, np.uint8)
    moved = still.copy()
    moved[40:60, 40:80] = 200
    assert gate.moved(still, 0.0)
    assert not gate.moved(still, 2.0)
    assert gate.moved(moved, 3.0)
    assert gate.moved(still, 3.9)
    for i in range(30):
        gate.moved(still, 4.0 + i * 0.2)
    assert not gate.moved(still, 11.0)


def test_sampling_motion_gate_ignores_noise() -> None:
    """Sensor noise does not open the gate."""
    rng = np.random.default_rng(7)
    gate = MotionGate(MotionSpec(enabled=True, threshold=0.02, hold=0.5))
    base = np.full((90, 160), 100.0)
    opened = [gate.moved((base + rng.normal(0, 4, base.shape)).clip(0, 255).astype(np.uint8), t) for t in range(20)]
    assert opened == [True] + [False] * 19


def test_sampling_idleness_waits_and_ends_at_once() -> None:
    """Key frames are enough once the gate has been closed for ``hold``; motion ends that with the same picture."""
    idleness = Idleness(3.0, enabled=True)
    assert [idleness.after(t, open_gate=False) for t in (0.0, 2.0, 2.9, 3.0, 60.0)] == [False, False, False, True, True]
    assert not idleness.after(62.0, open_gate=True)
    assert [idleness.after(t, open_gate=False) for t in (64.0, 66.9, 67.0)] == [False, False, True]


def test_sampling_idleness_can_be_off() -> None:
    """Where every picture is wanted, stillness changes nothing."""
    idleness = Idleness(0.0, enabled=False)
    assert not any(idleness.after(t, open_gate=False) for t in range(10))


def test_pacing_thinning_lets_everything_through_while_somebody_watches() -> None:
    """With an audience every slot is wanted, and none needs to stand alone."""
    thinning = Thinning(25)
    assert all(thinning.wants(slot, watched=True) for slot in range(100))
    assert not thinning.alone


def test_pacing_thinning_keeps_the_path_alive_while_nobody_watches() -> None:
    """Without an audience one picture in two seconds goes out, decodable alone; the first one that is watched too."""
    thinning, wanted = Thinning(25), []
    for slot in range(200):
        if thinning.wants(slot, watched=False):
            wanted.append(slot)
            assert thinning.alone
    assert wanted == [0, 50, 100, 150]
    assert thinning.wants(200, watched=True)
    assert thinning.alone
    assert thinning.wants(201, watched=True)
    assert not thinning.alone
    assert not thinning.wants(202, watched=False)


@given(st.lists(st.tuples(st.integers(1, 60), st.booleans()), max_size=80), st.sampled_from([1.0, 12.5, 29.97]))
def test_pacing_thinning_never_lets_the_path_die(steps: list[tuple[int, bool]], fps: float) -> None:
    """Whatever the audience does, a picture is wanted as soon as two seconds have passed since the last one."""
    thinning, slot, last = Thinning(fps), 0, None
    for step, watched in steps:
        slot += step
        wants = thinning.wants(slot, watched=watched)
        assert wants or (not watched and last is not None and (slot - last) / fps < 2.1)
        last = slot if wants else last
