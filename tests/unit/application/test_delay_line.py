"""The mailbox that holds frames back."""

from __future__ import annotations

import threading
import time

import pytest

from sentinel_pipeline.application.pipeline import delay_line
from sentinel_pipeline.application.pipeline.delay_line import DelayLine
from support.pictures import frame


def _frame(sequence: int, received_at: float):
    made = frame(16, 16, sequence=sequence)
    object.__setattr__(made, "received_at", received_at)
    return made


def test_delay_line_hands_out_a_frame_when_its_time_has_come() -> None:
    """A frame waits until ``delay`` seconds after it was received, then comes at once; order is kept."""
    line = DelayLine(0.15, 2)
    now = time.monotonic()
    line.put(_frame(1, now - 1.0))
    line.put(_frame(2, now))
    first = line.get(0)
    assert first is not None
    assert first.sequence == 1
    assert line.get(0) is None
    second = line.get(5.0)
    assert second is not None
    assert second.sequence == 2
    assert 0.15 <= time.monotonic() - now < 2.0


def test_delay_line_waits_for_a_frame_that_is_put_later() -> None:
    """A reader that waits at an empty line gets the frame that comes meanwhile, not before its time."""
    line, got = DelayLine(0.1, 2), []
    reader = threading.Thread(target=lambda: got.append((line.get(10.0), time.monotonic())))
    reader.start()
    received = time.monotonic()
    line.put(_frame(1, received))
    reader.join(10)
    (found, at) = got[0]
    assert found is not None
    assert at >= received + 0.1


def test_delay_line_gives_up_when_time_is_up() -> None:
    """A time-out shorter than the delay returns None and keeps the frame."""
    line = DelayLine(30.0, 2)
    line.put(_frame(1, time.monotonic()))
    assert line.get(0.01) is None


def test_delay_line_hands_out_nothing_after_close() -> None:
    """What nobody has looked at when the end comes does not go out; a waiting reader wakes."""
    line, got = DelayLine(30.0, 2), []
    line.put(_frame(1, time.monotonic()))
    reader = threading.Thread(target=lambda: got.append(line.get()))
    reader.start()
    line.close()
    reader.join(10)
    assert not reader.is_alive()
    assert got == [None]


class Clock:
    """Stands for the module ``time`` in the delay line: ``get(0)`` and ``put`` only look at it."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    it = Clock()
    monkeypatch.setattr(delay_line, "time", it)
    return it


def test_delay_line_is_bounded(clock: Clock) -> None:
    """Of a camera that sends more than the line holds the newest are refused, counted; the oldest still come out."""
    line, got = DelayLine(0.5, 2), []
    for i in range(100):
        line.put(_frame(i, clock.now + i / 1000))
    assert line.dropped == 68
    clock.now += 0.5005
    for _ in range(100):
        if (due := line.get(0)) is not None:
            got.append(due.sequence)
        clock.now += 0.001
    assert got == list(range(32))


INTERVAL, DELAY = 0.04, 0.7


def test_delay_line_keeps_a_burst_that_the_reader_can_take(clock: Clock) -> None:
    """Pictures that the network held up come together, and are due together: both go out."""
    line = DelayLine(0.5, 2)
    for sequence in range(2):
        line.put(_frame(sequence, clock.now))
    clock.now += 0.6
    assert [found.sequence for found in (line.get(0), line.get(0)) if found is not None] == [0, 1]
    assert (line.get(0), line.dropped) == (None, 0)


@pytest.mark.parametrize("size", [1, 2, 4])
@pytest.mark.parametrize("every", [0.05, 0.1, 0.25, 3.0])
def test_delay_line_lets_no_frame_grow_old(every: float, size: int, clock: Clock) -> None:
    """A reader that is slower than the camera, or stands still for longer than the line is, gets frames that are just
    due, in order; what it misses is counted; nothing comes before its time."""
    line, sent, read_at, got = DelayLine(DELAY, size), 0, clock.now + every, []
    while len(got) < 20:
        sent_at = 1000.0 + sent * INTERVAL
        clock.now = min(sent_at, read_at)
        if sent_at <= read_at:
            line.put(_frame(sent, clock.now))
            sent += 1
            continue
        read_at += every
        if (due := line.get(0)) is not None:
            got.append(due.sequence)
            assert DELAY <= clock.now - due.received_at < DELAY + (size + 1) * INTERVAL
    assert got == sorted(set(got))
    assert line.dropped + len(got) + len(line) == sent
    assert line.dropped > 0
