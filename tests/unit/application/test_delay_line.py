"""The mailbox that holds frames back."""

from __future__ import annotations

import threading
import time

from sentinel_pipeline.application.pipeline.delay_line import DelayLine
from support.pictures import frame


def _frame(sequence: int, received_at: float):
    made = frame(16, 16, sequence=sequence)
    object.__setattr__(made, "received_at", received_at)
    return made


def test_delay_line_hands_out_a_frame_when_its_time_has_come() -> None:
    """A frame waits until ``delay`` seconds after it was received, then comes at once; order is kept."""
    line = DelayLine(0.15)
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
    line, got = DelayLine(0.1), []
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
    line = DelayLine(30.0)
    line.put(_frame(1, time.monotonic()))
    assert line.get(0.01) is None


def test_delay_line_hands_out_nothing_after_close() -> None:
    """What nobody has looked at when the end comes does not go out; a waiting reader wakes."""
    line, got = DelayLine(30.0), []
    line.put(_frame(1, time.monotonic()))
    reader = threading.Thread(target=lambda: got.append(line.get()))
    reader.start()
    line.close()
    reader.join(10)
    assert not reader.is_alive()
    assert got == [None]


def test_delay_line_is_bounded() -> None:
    """Of a camera that sends more than the line holds the newest are refused, counted; the oldest still come out."""
    line, past = DelayLine(0.5), time.monotonic() - 1.0
    for i in range(100):
        line.put(_frame(i, past))
    assert line.dropped == 70
    got = [frame.sequence for frame in iter(lambda: line.get(0), None)]
    assert got == list(range(30))
