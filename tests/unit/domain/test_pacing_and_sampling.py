"""Constant output rate, sampling and the motion gate."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sentinel_pipeline.domain.pacing import Pacer
from sentinel_pipeline.domain.sampling import MotionGate, Sampler, shrink
from sentinel_pipeline.domain.streams import MotionSpec


def play(pacer: Pacer, arrivals: list[float], until: float) -> list[tuple[float, int]]:
    """Run a pacer on given arrivals; return (time, slot) of each picture written."""
    written, now, arrivals = [], 0.0, sorted(arrivals)
    while now < until:
        wait = pacer.wait(now)
        timeout = float("inf") if wait is None else now + wait
        if arrivals and arrivals[0] <= timeout:
            now = arrivals.pop(0)
            slots = pacer.arrive(now)
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


@given(st.lists(st.floats(0, 5), max_size=60), st.sampled_from([1.0, 10.0, 25.0, 29.97]))
def test_pacing_slots_never_repeat(arrivals: list[float], fps: float) -> None:
    """Whatever the arrivals, slots only grow."""
    slots = [slot for _, slot in play(Pacer(fps), arrivals, 6.0)]
    assert slots == sorted(set(slots))


@pytest.mark.parametrize(("camera_fps", "wanted"), [(25, 5), (10, 5), (30, 7), (5, 10)])
def test_sampling_takes_so_many_per_second(camera_fps: int, wanted: int) -> None:
    """Per second of stream time at most ``fps`` frames pass, and that many when the camera has them."""
    sampler = Sampler(wanted)
    passed = sum(sampler.wants(i / camera_fps + 1e-4) for i in range(camera_fps * 20))
    assert passed == min(camera_fps, wanted) * 20


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


def test_sampling_shrink_averages() -> None:
    """Shrinking keeps the mean, and drops what does not fill a block."""
    plane = np.arange(325 * 641, dtype=np.uint32).reshape(325, 641).astype(np.uint8)
    small = shrink(plane, 160)
    assert small.shape == (81, 160)
    assert small[0, 0] == int(plane[:4, :4].mean())
