"""A model that is to find what is private, and fails: the picture is hidden as a whole, and nothing of it gets out."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import av
import numpy as np
import pytest

from faults.clips import SIZE, encode
from faults.models import Trouble
from faults.notebook import Notebook
from faults.site import configuration, end_well, lab_model, stream
from sentinel_pipeline.lab.rtsp_relay import RtspRelay
from support.program import running, wait_until
from support.streams import publishing
from support.viewer import Viewer, viewing

pytestmark = [pytest.mark.ffmpeg]

# The laboratory's model sees a person in the middle of a grey picture, and fails at a white one.
GRID = "drawgrid=w=8:h=8:t=1:color=black"
WIDTH, HEIGHT = SIZE
CORNER = np.s_[: HEIGHT // 12, : WIDTH // 6]
MIDDLE = np.s_[HEIGHT // 3 : 2 * HEIGHT // 3, 2 * WIDTH // 5 : 3 * WIDTH // 5]
SHARP = 8.0  # the grid has about 25 at its own place, and 3 at most once it is hidden and encoded


class Grid(Viewer):
    """Keeps how much of the grid is seen in the corner, and the most ever in the middle."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.corner = 0.0  # of the newest picture
        self.bright = 0.0  # mean of the newest picture
        self.sharpest_middle = 0.0
        self.sharpest_white_corner = 0.0

    def see(self, picture: av.VideoFrame) -> None:
        luma = picture.to_ndarray(format="yuv420p")[:HEIGHT].astype(int)
        self.corner, self.bright = _detail(luma[CORNER]), float(luma.mean())
        self.sharpest_middle = max(self.sharpest_middle, _detail(luma[MIDDLE]))
        if self.bright > 170:
            self.sharpest_white_corner = max(self.sharpest_white_corner, self.corner)


def _detail(luma: np.ndarray) -> float:
    return float(np.abs(np.diff(luma, axis=1)).mean())


@contextmanager
def watching(relay: RtspRelay, name: str) -> Iterator[Grid]:
    relay.wait_for_publisher(name, 15)
    with viewing(Grid(relay.url(name))) as grid:
        yield grid


@pytest.mark.parametrize("trouble", ["nan", "raise", "hang"])
def test_privacy_fails_closed(trouble: Trouble, tmp_path: Path, notebook: Notebook) -> None:
    """The person is never seen; while the model is in trouble nothing of the picture is; publishing goes on throughout.

    A stream of its own has no analysis: what hides does not depend on it.
    """
    codec = ("libx264", "-preset", "ultrafast", "-tune", "zerolatency")
    grey = encode(tmp_path / "grey.ts", SIZE, GRID, *codec)
    white = encode(tmp_path / "white.ts", SIZE, f"eq=brightness=1,{GRID}", *codec)
    with RtspRelay() as relay, publishing(relay.url("camera"), clip=grey), publishing(relay.url("white"), clip=white):
        for name in ("camera", "white"):
            relay.wait_for_publisher(name, 10)
        camera = stream(
            relay.url("camera"),
            relay.url("out"),
            analyse=False,
            privacy={"blur": ["person"], "model": "lab", "fps": 10},
        )
        camera["publish"] |= {"overlay": False, "bitrate": "2M"}
        models = lab_model(tmp_path, trouble, timeout="300ms")
        settings = configuration(tmp_path, {"camera": camera}, {}, models=models)
        with running(settings, tmp_path / "run") as program, watching(relay, "out") as watcher:
            wait_until(lambda: watcher.corner > SHARP, 10, "a picture in which only the person is hidden")
            relay.faults("camera").play("white")
            wait_until(lambda: watcher.bright > 170, 10, "pictures that the model fails at")
            pictures = watcher.pictures
            wait_until(lambda: watcher.pictures > pictures + 15, 10, "publishing goes on")
            assert watcher.sharpest_white_corner < SHARP, "nothing leaves that nobody has looked at"
            assert program.status()["streams"]["camera"]["dropped_by"]["privacy"] > 3  # type: ignore[index]
            assert "the whole picture is hidden" in program.stderr
            if trouble != "hang":
                relay.faults("camera").resume()
                wait_until(
                    lambda: watcher.bright < 170 and watcher.corner > SHARP, 10, "only the person is hidden again"
                )
            ended = end_well(program, Path(settings["outbox"]["path"]))
        assert watcher.sharpest_middle < SHARP, "the person is never seen"
    notebook.fault(
        "model", f"what is to hide people: {trouble}", seen="the whole picture is hidden; publishing goes on",
        ended_s=ended,
    )  # fmt: skip
