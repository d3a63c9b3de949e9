"""Models that are slow, return NaN, raise or never come back; real files, at work in the program."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from faults.clips import Clips
from faults.models import Trouble, make_torchscript
from faults.notebook import Notebook
from faults.site import Site, lab_model, site
from support.program import wait_until
from support.streams import publishing

pytestmark = [pytest.mark.ffmpeg]

STATES: dict[Trouble, tuple[str, str]] = {
    "nan": ("failing", "NaN or infinity"),
    "raise": ("failing", "failed"),
    "slow": ("stalled", "under way for"),
}
WORDS: dict[Trouble, str] = {
    "nan": "returns NaN", "raise": "raises", "slow": "takes 0.8 s for a picture", "hang": "never comes back",
}  # fmt: skip


def troubled(it: Site, state: str, words: str, timeout: float = 10.0) -> tuple[str, float]:
    """Show the bad camera white; wait until the model's state tells of it. Return the reason and the seconds."""
    started = time.monotonic()
    it.relay.faults("bad").play("white")
    status = it.program.until(
        lambda s: s["models"]["lab"]["state"] == state and words in s["models"]["lab"]["reason"],
        timeout,
        f"the model is {state}: {words}",
    )
    return str(status["models"]["lab"]["reason"]), time.monotonic() - started


def pictures_flow(it: Site) -> None:
    """Assert that capture and publishing keep their rates while the model is in trouble."""
    before = {name: it.stream(name)["frames_published"] for name in ("good", "bad")}
    started = time.monotonic()
    wait_until(
        lambda: all(it.stream(name)["frames_published"] >= before[name] + 20 for name in before), 10, "20 pictures each"
    )
    assert time.monotonic() - started < 3.5, "20 pictures at 10 fps take 2 s"
    for name in before:
        now = it.stream(name)
        assert now["state"] == "RUNNING"
        assert now["fps"] > 22, now
        assert now["publish"]["state"] == "running"


@pytest.mark.parametrize("trouble", STATES)
def test_a_model_in_trouble(trouble: Trouble, tmp_path: Path, clips: Clips, notebook: Notebook) -> None:
    """Frames are skipped and counted, never queued; the model's state says why; it works again right after.

    pain 16: frames queue up, the video is minutes behind; pain 19: the rate drops for all.
    """
    models = lab_model(tmp_path, trouble, timeout="300ms")
    with site(tmp_path, clips, models=models) as it, publishing(it.relay.url("white"), clip=clips.white):
        it.relay.wait_for_publisher("white", 10)
        state, words = STATES[trouble]
        reason, noticed = troubled(it, state, words)
        assert noticed < 2.0
        pictures_flow(it)
        assert it.stream("bad")["dropped_by"]["model"] > 3
        it.more_events("good")  # also while the model is slow over the other camera's pictures
        it.relay.faults("bad").resume()
        started = time.monotonic()
        it.program.until(lambda s: s["models"]["lab"]["state"] == "ready", 10, "the model is ready")
        it.more_events("bad")
        recovered = time.monotonic() - started
        late = max(event["latency_ms"] for event in it.vms.stored)
        assert late < 1500, "an event is never as old as a queue of frames would make it"
        it.relay.faults("bad").play("white")
        ended = it.end()
    notebook.fault(
        "model", f"the model {WORDS[trouble]}", seen=f"model {state}: {reason}", noticed_s=noticed,
        recovered_s=recovered, ended_s=ended,
    )  # fmt: skip


def test_a_model_that_never_comes_back(tmp_path: Path, clips: Clips, notebook: Notebook) -> None:
    """Stalled is said within its time-out; cameras and outputs go on; SIGTERM ends the program in spite of it.

    pain 26: hangs for hours; pain 28: shutdown takes minutes.
    """
    models = lab_model(tmp_path, "hang", timeout="300ms")
    with site(tmp_path, clips, models=models) as it, publishing(it.relay.url("white"), clip=clips.white):
        it.relay.wait_for_publisher("white", 10)
        reason, noticed = troubled(it, "stalled", "under way for")
        assert noticed < 2.0
        pictures_flow(it)
        it.relay.faults("bad").resume()
        pictures_flow(it)
        assert it.program.status()["models"]["lab"]["state"] == "stalled"  # type: ignore[index]
        (down,) = it.told("SYSTEM_MODEL_DOWN", 15)
        assert (down["details"]["model"], "under way for" in down["details"]["reason"]) == ("lab", True)
        ended = it.end()
    notebook.fault(
        "model", f"the model {WORDS['hang']}", seen=f"model stalled: {reason}", noticed_s=noticed, ended_s=ended
    )


@pytest.mark.torch
def test_a_torchscript_model_that_raises(tmp_path: Path, clips: Clips, notebook: Notebook) -> None:
    """A Python-like exception inside TorchScript is named, and only the frames that it concerns are skipped."""
    path = make_torchscript(tmp_path / "raises.torchscript")
    models: dict[str, Any] = {
        "lab": {
            "path": str(path), "family": "yolov8", "labels": ["person"], "resize": "stretch", "input_size": "32x32",
            "batch": {"max_size": 1},
        }
    }  # fmt: skip
    with site(tmp_path, clips, models=models) as it, publishing(it.relay.url("white"), clip=clips.white):
        it.relay.wait_for_publisher("white", 10)
        reason, noticed = troubled(it, "failing", "does not like white")
        pictures_flow(it)
        it.more_events("good")
        it.relay.faults("bad").resume()
        started = time.monotonic()
        it.program.until(lambda s: s["models"]["lab"]["state"] == "ready", 10, "the model is ready")
        it.more_events("bad")
        recovered = time.monotonic() - started
        ended = it.end()
    notebook.fault(
        "model", "a TorchScript model raises", seen=f"model failing: {reason}", noticed_s=noticed,
        recovered_s=recovered, ended_s=ended,
    )  # fmt: skip
