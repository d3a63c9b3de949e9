"""What has to be hidden: found by a model of its own, and everything when that fails."""

from __future__ import annotations

import time

import numpy as np
import pytest
from structlog.testing import capture_logs

from sentinel_pipeline.application.pipeline.pipeline import Pipeline
from sentinel_pipeline.application.pipeline.privacy import Privacy
from sentinel_pipeline.application.stream.health import StreamHealth
from sentinel_pipeline.domain.detections import Detections
from sentinel_pipeline.domain.errors import CommandRefused, ModelError, ModelTimeout
from sentinel_pipeline.domain.frame import Frame
from sentinel_pipeline.domain.streams import PrivacySpec, PublishSpec, StreamSpec
from support.pictures import PlanarImage

BOX = (100.0, 100.0, 140.0, 140.0)


class Script:
    """A detector that sees a face in ``BOX`` and a dog elsewhere, or raises what the test says."""

    labels = ("face", "dog")

    def __init__(self) -> None:
        self.raises: Exception | None = None
        self.empty = False

    def detect(self, _: Frame, **__: float) -> tuple[Detections, dict[str, float]]:
        if self.raises is not None:
            raise self.raises
        if self.empty:
            return Detections.empty(), {}
        boxes = np.array([BOX, (300, 200, 340, 240)], np.float32)
        return Detections(boxes, np.array([0.9, 0.9], np.float32), np.array([0, 1])), {}


class Moving:
    """A detector that sees a face 20 pixels further to the right at each look, until it is gone."""

    labels = ("face",)

    def __init__(self) -> None:
        self.looks, self.gone = 0, False

    def detect(self, _: Frame, **__: float) -> tuple[Detections, dict[str, float]]:
        x = 100.0 + 20 * self.looks
        self.looks += 1
        if self.gone:
            return Detections.empty(), {}
        return Detections(np.array([[x, 50, x + 40, 90]], np.float32), np.array([0.9], np.float32), np.array([0])), {}


def _frame(pts: float) -> Frame:
    return Frame(PlanarImage(640, 360), int(pts * 10), pts, pts, time.monotonic())


@pytest.fixture
def stage() -> tuple[Privacy, Script]:
    script = Script()
    return Privacy("gate", PrivacySpec(("face",), "faces"), script, StreamHealth("gate")), script


def test_privacy_hides_the_wanted_classes_only(stage: tuple[Privacy, Script]) -> None:
    """The face is hidden, with its margin, the dog is not."""
    privacy, _ = stage
    privacy._look_at(_frame(1.0))
    privacy._look_at(_frame(1.2))
    hidden = privacy.hidden(_frame(1.1))
    assert (hidden.method, hidden.everything) == ("pixelate", False)
    assert hidden.regions == ((90.0, 90.0, 150.0, 150.0),)


def test_privacy_goes_on_hiding_who_is_missed_for_a_moment(stage: tuple[Privacy, Script]) -> None:
    """A face that the model does not find in one look is hidden there all the same; after a second it is gone."""
    privacy, script = stage
    privacy._look_at(_frame(1.0))
    script.empty = True
    for tenths in range(12, 30, 2):
        privacy._look_at(_frame(tenths / 10))
    assert len(privacy.hidden(_frame(1.3)).regions) == 1
    assert privacy.hidden(_frame(2.7)).regions == ()


@pytest.mark.parametrize("error", [ModelError("NaN"), ModelTimeout("hangs"), ValueError("a bug")], ids=type)
def test_privacy_fails_closed(stage: tuple[Privacy, Script], error: Exception) -> None:
    """While the model fails nothing is known, so that everything is hidden; it is said once, and when it is over."""
    privacy, script = stage
    with capture_logs() as logs:
        privacy._look_at(_frame(1.0))
        script.raises = error
        for tenths in range(12, 20, 2):
            privacy._look_at(_frame(tenths / 10))
        assert privacy.hidden(_frame(1.5)).everything
        script.raises = None
        privacy._look_at(_frame(2.0))
        privacy._look_at(_frame(2.2))
    assert not privacy.hidden(_frame(2.1)).everything
    assert privacy.hidden(_frame(1.5)).everything, "nobody has looked there, whatever came after"
    said = [entry["event"] for entry in logs]
    assert said == ["the whole picture is hidden", "only what is private is hidden again"]
    assert privacy._health.snapshot()["dropped_by"] == {"privacy": 4}


def _pipeline(privacy: PrivacySpec | None, private: Script | None) -> Pipeline:
    publish = PublishSpec("out.mkv", overlay=False, time=True)
    spec = StreamSpec("gate", "test:", privacy=privacy, publish=publish)
    return Pipeline(
        spec, None, lambda _: pytest.fail("not opened"), lambda _: None, StreamHealth("gate"), keep_newest=True,
        private=private,
    )  # fmt: skip


def test_privacy_holds_without_an_overlay_and_in_snapshots() -> None:
    """``overlay: false`` draws nothing and hides all the same; the newest picture is refused."""
    pipeline = _pipeline(PrivacySpec(("face",), "faces"), Script())
    overlay = pipeline._overlay(_frame(1.0))
    assert (overlay.time, overlay.hidden is not None and overlay.hidden.everything) == ("", True)
    pipeline._watch.frame(_frame(1.0))
    with pytest.raises(CommandRefused, match="private"):
        _ = pipeline.newest_frame
    assert pipeline._watch.newest is None, "it is not even kept"


def test_privacy_refuses_a_class_that_its_model_has_not() -> None:
    """A slip in a class that nobody could ever find is an error, not a picture in which nothing is hidden."""
    with pytest.raises(ValueError, match="faces"):
        Privacy("gate", PrivacySpec(("face", "faces"), "faces"), Script(), StreamHealth("gate"))


def test_privacy_hides_who_stops_and_who_goes_on() -> None:
    """Who is not found again is hidden where it was seen last and on the way that it had."""
    moving = Moving()
    privacy = Privacy("gate", PrivacySpec(("face",), "faces"), moving, StreamHealth("gate"))
    for tenths in (10, 12, 14):
        privacy._look_at(_frame(tenths / 10))
    moving.gone = True
    for tenths in (16, 18):
        privacy._look_at(_frame(tenths / 10))
    ((left, _, right, _),) = privacy.hidden(_frame(1.7)).regions
    assert left < 140.0, "last seen at 140..180"
    assert right > 200.0, "and then further to the right"


def test_privacy_needs_its_detector() -> None:
    """A stream whose pictures are private cannot be built without what finds the private, nor the other way round."""
    with pytest.raises(ValueError, match="detector"):
        _pipeline(PrivacySpec(("face",), "faces"), None)
    with pytest.raises(ValueError, match="detector"):
        _pipeline(None, Script())
