"""Logging: whatever shape a text has, no credential leaves."""

from __future__ import annotations

import json
import logging
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog

from sentinel_pipeline.interface.logs import configure_logging

SECRET = "s3cret-pw"
URL = f"rtsp://viewer:{SECRET}@cam/x"


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    """Give the process its own logging back."""
    hook, handlers, level = threading.excepthook, logging.root.handlers[:], logging.root.level
    yield
    logging.captureWarnings(capture=False)
    threading.excepthook = hook
    logging.root.handlers[:] = handlers
    logging.root.setLevel(level)
    structlog.reset_defaults()


def lines(capsys: pytest.CaptureFixture[str]) -> list[dict[str, object]]:
    return [json.loads(line) for line in capsys.readouterr().err.splitlines()]


@pytest.mark.parametrize(
    "value",
    [URL, OSError(5, "no", URL), [URL], {"at": (URL,)}, {"password": URL}, {URL}, Path("/x?token=" + SECRET)],
    ids=["text", "exception", "list", "nested", "mapping", "set", "path"],
)
def test_logs_redact_values_of_every_kind(value: object, capsys: pytest.CaptureFixture[str]) -> None:
    """Text, and what becomes text when it is written; the user's name stays."""
    configure_logging("json")
    structlog.get_logger("x").info("event", value=value, count=3)
    (line,) = lines(capsys)
    assert line["count"] == 3
    assert SECRET not in json.dumps(line)
    assert "****" in json.dumps(line)


def test_logs_carry_what_ends_a_thread_and_what_is_warned_of(capsys: pytest.CaptureFixture[str]) -> None:
    """Python's own hooks print as it is; here both become redacted log lines."""
    configure_logging("json")

    def fail() -> None:
        raise OSError(5, "no", URL)

    thread = threading.Thread(target=fail, name="camera")
    thread.start()
    thread.join()
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn(f"cannot open {URL}", stacklevel=1)
    ended, warned = lines(capsys)
    assert (ended["event"], ended["thread"]) == ("a thread ended by an exception", "camera")
    assert "OSError" in str(ended["exception"])
    assert "cannot open" in str(warned["event"])
    assert SECRET not in json.dumps([ended, warned])
