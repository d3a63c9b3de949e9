"""Several outputs of one stream: what their common report says, and that each picture counts once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any

import pytest

from sentinel_pipeline.application.ports import SinkReport
from sentinel_pipeline.infrastructure.video.encoder import EncodedPacket, StreamFormat
from sentinel_pipeline.infrastructure.video.outputs import _REMEMBERED, Outputs

PACKET = EncodedPacket(b"\0", 0, keyframe=True, format=StreamFormat("h264", (64, 64), Fraction(25)))


class Output:
    """Stands for a ``PacketOutput``: says what the test says."""

    def __init__(self, published: Callable[[Sequence[int]], None]) -> None:
        self.published = published
        self.says = SinkReport("starting")
        self.calls: list[str] = []

    def start(self) -> None:
        self.calls.append("start")

    def put(self, _: EncodedPacket) -> None:
        self.calls.append("put")

    def ask_to_stop(self, _: float) -> None:
        self.calls.append("ask")

    def close(self, _: float) -> None:
        self.calls.append("close")

    def report(self) -> SinkReport:
        return self.says


def make(count: int) -> tuple[Outputs, list[Output]]:
    made: list[Output] = []

    def new(_: str, published: Callable[[Sequence[int]], None]) -> Any:
        made.append(Output(published))
        return made[-1]

    return Outputs([f"rtsp://user:s3cret@h/{number}" for number in range(count)], new), made


@pytest.mark.parametrize(
    ("states", "worst"),
    [
        (("running", "running"), "running"),
        (("running", "starting"), "starting"),
        (("retrying", "starting"), "retrying"),
        (("running", "stopped"), "stopped"),
        (("stopped", "retrying"), "retrying"),
    ],
)
def test_outputs_report_the_worst_state(states: tuple[str, str], worst: str) -> None:
    """The state is that of the output that needs attention most; its reason names it, without the password."""
    outputs, made = make(2)
    for output, state in zip(made, states, strict=True):
        output.says = SinkReport(state, "" if state == "running" else f"{state} for a reason")
    report = outputs.report()
    assert report.state == worst
    if worst != "running":
        assert report.reason == f"rtsp://user:****@h/{states.index(worst)}: {worst} for a reason"
    assert [output.state for output in report.outputs] == list(states)
    assert "s3cret" not in repr(report)


def test_outputs_with_one_address_speak_for_it() -> None:
    """The reason of a single output needs no address in front."""
    outputs, (output,) = make(1)
    output.says = SinkReport("retrying", "gone", published=3, restarts=4, dropped=5)
    report = outputs.report()
    assert (report.reason, report.restarts, report.dropped) == ("gone", 4, 5)


def test_outputs_count_each_picture_once() -> None:
    """A picture that two outputs publish is one, whoever is first; one that only one of them publishes is one too."""
    outputs, (one, two) = make(2)
    one.published([0, 1, 2])
    two.published([1, 2, 3])
    one.published([3, 4])
    two.published([9])
    assert outputs.report().published == 6


def test_outputs_forget_old_pictures() -> None:
    """What is remembered to tell pictures apart is bounded, and the count stays right while outputs are in step."""
    outputs, (one, two) = make(2)
    for slot in range(3 * _REMEMBERED):
        one.published([slot])
        two.published([slot])
    assert outputs.report().published == 3 * _REMEMBERED
    assert len(outputs._pictures._recent) == _REMEMBERED


def test_outputs_drop_what_none_of_them_took() -> None:
    """Drops are those of the best output: the dead one's would hide that everything is well elsewhere."""
    outputs, (one, two) = make(2)
    one.says, two.says = SinkReport("running", dropped=2, restarts=1), SinkReport("retrying", dropped=500, restarts=7)
    report = outputs.report()
    assert (report.dropped, report.restarts) == (2, 8)


def test_outputs_end_together() -> None:
    """All are asked to stop before any is waited for."""
    outputs, made = make(3)
    order: list[tuple[int, str]] = []
    for number, output in enumerate(made):
        output.calls = _Recorder(order, number)  # type: ignore[assignment]
    outputs.start()
    outputs.put(PACKET)
    outputs.close(1.0)
    assert order[-6:] == [(0, "ask"), (1, "ask"), (2, "ask"), (0, "close"), (1, "close"), (2, "close")]


class _Recorder:
    """A list that tells the common order of calls."""

    def __init__(self, order: list[tuple[int, str]], number: int) -> None:
        self._order, self._number = order, number

    def append(self, call: str) -> None:
        self._order.append((self._number, call))
