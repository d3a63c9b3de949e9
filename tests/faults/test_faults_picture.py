"""A camera whose size, pixel format or codec changes in mid-stream: followed or named, and nothing green goes out."""

from __future__ import annotations

import time
from pathlib import Path

import av
import numpy as np
import pytest

from faults.clips import SIZE, Clips
from faults.notebook import Notebook
from faults.site import LATE_PICTURE, NOTICED, POLL, READ_TIMEOUT, site
from support.program import wait_until
from support.streams import publishing
from support.viewer import Viewer, viewing

pytestmark = [pytest.mark.ffmpeg]

NEUTRAL = 128
GREEN = 25  # so far from neutral is the mean chroma of no picture here; all zero (green) is 128 away


class Colours(Viewer):
    """Keeps of each picture its size, and its mean colours."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.sizes: set[tuple[int, int]] = set()
        self.worst = 0.0  # farthest mean of a chroma plane from neutral

    def see(self, picture: av.VideoFrame) -> None:
        self.sizes.add((picture.width, picture.height))
        planes = picture.to_ndarray(format="yuv444p")
        self.worst = max(self.worst, *(abs(float(np.mean(plane)) - NEUTRAL) for plane in planes[1:]))


FOLLOWED = {
    "a larger picture": "larger",
    "a smaller picture of another shape": "odd",
    "4:2:2 instead of 4:2:0": "yuv422",
    "4:4:4 instead of 4:2:0": "yuv444",
}
RECONNECTED = {"H.265 instead of H.264": "hevc", "MJPEG instead of H.264": "mjpeg"}


@pytest.mark.parametrize("what", FOLLOWED)
def test_a_picture_that_changes_is_followed(what: str, tmp_path: Path, clips: Clips, notebook: Notebook) -> None:
    """No reconnect, no gap of events; the output keeps its size and shows no green picture, there and back.

    pain 6: green noise; pain 9: a resolution switch gives a green stripe; pain 10: a pixel format change crashes.
    """
    with (
        site(tmp_path, clips, overlay=False) as it,
        publishing(it.relay.url("other"), clip=getattr(clips, FOLLOWED[what])),
    ):
        it.relay.wait_for_publisher("other", 10)
        with viewing(Colours(it.relay.url("bad-out"))) as viewer:
            it.relay.faults("bad").play("other")
            it.more_events("bad", 6)
            it.relay.faults("bad").resume()
            it.more_events("bad", 6)
            pictures = viewer.pictures
            wait_until(lambda: viewer.pictures > pictures + 10, 10, "published pictures")
        assert viewer.sizes == {SIZE}
        assert viewer.worst < GREEN
        now = it.stream("bad")
        assert (now["state"], now["reconnects"]) == ("RUNNING", 0), now
        it.unharmed()
        it.relay.faults("bad").play("other")
        ended = it.end()
    notebook.fault(
        "picture", what, seen=f"RUNNING, followed at once; {viewer.pictures} published pictures, all "
        f"{SIZE[0]}x{SIZE[1]}, none green", noticed_s=0.0, recovered_s=0.0, ended_s=ended,
    )  # fmt: skip


@pytest.mark.parametrize("what", RECONNECTED)
def test_a_codec_that_changes_is_found_out(what: str, tmp_path: Path, clips: Clips, notebook: Notebook) -> None:
    """Named within read_timeout + 0.5 s; the next connection speaks the new codec; the output never turns green.

    pain 7: corrupt frames pass as good; pain 10: crash or silent corruption.
    """
    with (
        site(tmp_path, clips, overlay=False) as it,
        publishing(it.relay.url("other"), clip=getattr(clips, RECONNECTED[what])),
    ):
        it.relay.wait_for_publisher("other", 10)
        with viewing(Colours(it.relay.url("bad-out"))) as viewer:
            it.relay.faults("bad").play("other")
            said, noticed = it.left("bad")
            assert noticed < NOTICED + POLL + LATE_PICTURE
            assert f"no picture for {READ_TIMEOUT:g} s" in said["reason"]
            recovered = it.back("bad")
            assert recovered < 2.0
            it.more_events("bad", 6)
            pictures = viewer.pictures
            wait_until(lambda: viewer.pictures > pictures + 10, 10, "published pictures")
        assert viewer.sizes == {SIZE}
        assert viewer.worst < GREEN
        it.unharmed()
        ended = it.end()
    notebook.fault(
        "picture", what, seen=f"{said['state']}: {said['reason']}; then RUNNING with the new codec; none green",
        noticed_s=noticed, recovered_s=recovered, ended_s=ended,
    )  # fmt: skip


def test_damaged_pictures_do_not_end_the_stream(tmp_path: Path, clips: Clips, notebook: Notebook) -> None:
    """A tenth of the packets lost for five seconds: nothing green goes out, and the full rate is back right after.

    pain 6: green noise until a restart; pain 7: smear.
    """
    with site(tmp_path, clips, overlay=False) as it, viewing(Colours(it.relay.url("bad-out"))) as viewer:
        it.relay.faults("bad").lose(0.1)
        started = time.monotonic()
        while time.monotonic() - started < 5:
            it.more_events("bad", 1)
        it.relay.faults("bad").resume()
        started = time.monotonic()
        wait_until(lambda: it.stream("bad")["fps"] > 22, 10, "the full rate")
        recovered = time.monotonic() - started
        assert viewer.worst < GREEN
        assert it.stream("bad")["reconnects"] == 0
        viewer.close()
        it.relay.faults("bad").lose(0.1)
        ended = it.end()
    notebook.fault(
        "picture", "a tenth of the packets lost", seen="RUNNING, none green", recovered_s=recovered, ended_s=ended
    )
