"""Lines for a reader that may be gone, stuck or out of room."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Iterator

import pytest

from sentinel_pipeline.interface.outlet import Outlet, StandardError


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """A pipe whose ends the test may close."""
    ends = os.pipe()
    yield ends
    for end in ends:
        try:
            os.close(end)
        except OSError:
            continue


def read_all(fd: int) -> bytes:
    os.set_blocking(fd, False)
    got = b""
    try:
        while piece := os.read(fd, 65536):
            got += piece
    except BlockingIOError:
        return got
    return got


def test_outlet_writes_lines_in_full(pipe: tuple[int, int]) -> None:
    """Lines longer than what a pipe takes at once arrive whole while somebody reads."""
    reader, writer = pipe
    lines = ["short", "x" * 300_000, "ü\udc80"]
    got = []
    file = os.fdopen(os.dup(reader), "rb")
    thread = threading.Thread(target=lambda: got.extend(file.readline() for _ in lines))
    thread.start()
    outlet = Outlet(writer, 5.0)
    for line in lines:
        outlet.write(line)
    thread.join(5)
    file.close()
    assert got == [line.encode(errors="backslashreplace") + b"\n" for line in lines]


def test_outlet_outlives_its_reader(pipe: tuple[int, int]) -> None:
    """A reader that is gone costs lines, and nothing is raised."""
    reader, writer = pipe
    os.close(reader)
    outlet = Outlet(writer, 0.05)
    for number in range(3):
        outlet.write(f"line {number}")


def test_outlet_waits_for_a_stuck_reader_once_and_tells_what_was_lost(pipe: tuple[int, int]) -> None:
    """A full pipe costs one patience, not one for each line; the count of lost lines comes first when there is room."""
    reader, writer = pipe
    outlet = Outlet(writer, 0.1, "lost {lost}")
    started = time.monotonic()
    for _ in range(500):
        outlet.write("x" * 1000)
    assert time.monotonic() - started < 1.0
    taken = read_all(reader)
    assert len(taken) < 70_000
    outlet.write("back again")
    rest = read_all(reader).splitlines()
    lost = 500 - taken.count(b"\n")
    assert rest[-2:] == [b"lost %d" % lost, b"back again"]


def test_outlet_does_not_glue_a_line_to_half_of_another(pipe: tuple[int, int]) -> None:
    """What follows a line that was cut off begins on a line of its own."""
    reader, writer = pipe
    outlet = Outlet(writer, 0.0)
    outlet.write("a" * 200_000)
    cut = read_all(reader)
    assert 0 < len(cut) < 200_000
    outlet.write("whole")
    assert read_all(reader) == b"\nwhole\n"


def test_outlet_outlives_a_full_disk() -> None:
    """A file that takes no more bytes raises nothing: /dev/full answers every write with ENOSPC."""
    fd = os.open("/dev/full", os.O_WRONLY)
    try:
        Outlet(fd, 0.05).write("line")
    finally:
        os.close(fd)


def test_standard_error_goes_wherever_the_name_points(capsys: pytest.CaptureFixture[str]) -> None:
    """Whoever has borrowed ``sys.stderr`` gets the lines; one that is closed or missing costs them."""
    StandardError().error("one line")
    assert capsys.readouterr().err == "one line\n"
    borrowed = sys.stderr
    try:
        sys.stderr = None
        StandardError().info("nobody")
        with open(os.devnull, "w") as closed:
            pass
        sys.stderr = closed
        StandardError().info("nobody")
    finally:
        sys.stderr = borrowed
