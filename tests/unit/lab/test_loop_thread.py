"""A loop thread starts, hands over results and errors, and ends."""

from __future__ import annotations

import asyncio
import threading

import pytest

from sentinel_pipeline.domain.errors import SentinelError
from sentinel_pipeline.lab.loop_thread import LoopThread


@pytest.fixture
def thread() -> LoopThread:
    return LoopThread("test-loop")


def test_results_and_errors_come_back(thread: LoopThread) -> None:
    """Work runs in the loop's own thread, and its outcome in the caller's."""
    thread.start()
    try:
        assert thread.call(threading.get_ident) != threading.get_ident()
        assert thread.run(lambda: asyncio.sleep(0, "done")) == "done"
        with pytest.raises(ZeroDivisionError):
            thread.call(lambda: 1 // 0)
    finally:
        thread.close()


def test_work_that_hangs_ends_with_the_deadline(thread: LoopThread) -> None:
    """The caller is not held longer than the deadline, and closing cancels the work."""
    thread.start()
    try:
        with pytest.raises(TimeoutError):
            thread.run(asyncio.Event().wait, deadline_s=0.05)
    finally:
        thread.close()


def test_a_thread_that_does_not_run_says_so(thread: LoopThread) -> None:
    """Before the start and after the end calls are refused; closing twice is allowed, starting twice is not."""
    with pytest.raises(SentinelError, match="not running"):
        thread.call(lambda: None)
    thread.close()
    thread.start()
    with pytest.raises(RuntimeError, match="already"):
        thread.start()
    thread.close()
    thread.close()
    with pytest.raises(SentinelError, match="not running"):
        thread.call(lambda: None)
