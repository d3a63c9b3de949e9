"""The shipped models on real pictures: the CCTV clip and a portrait."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib import resources
from pathlib import Path
from typing import Literal

import av
import numpy as np
import pytest

from sentinel_pipeline.domain.errors import ModelError
from sentinel_pipeline.domain.frame import Frame
from sentinel_pipeline.domain.geometry import iou_matrix
from sentinel_pipeline.domain.models import ModelSpec
from sentinel_pipeline.infrastructure.inference.builtin import find_builtin
from sentinel_pipeline.infrastructure.inference.detector import ModelDetector, open_detector
from sentinel_pipeline.infrastructure.inference.runtime import create_runtime
from sentinel_pipeline.infrastructure.video.images import AvImage

CLIP = Path(str(resources.files("sentinel_pipeline.assets") / "vtest-768x576-10fps.mp4"))
PORTRAIT = Path(__file__).parents[1] / "data" / "astronaut.jpg"


def decode(path: Path, every: int = 1, count: int = 1) -> list[Frame]:
    frames = []
    with av.open(str(path)) as container:
        for sequence, picture in enumerate(container.decode(video=0)):
            if sequence % every == 0:
                frames.append(Frame(AvImage(picture), sequence, sequence / 10, 0.0, 0.0))
            if len(frames) == count:
                break
    return frames


@pytest.fixture(scope="module")
def street() -> list[Frame]:
    """Six moments of the clip, 2.5 s apart."""
    return decode(CLIP, every=25, count=6)


@pytest.fixture(scope="module")
def portrait() -> Frame:
    return decode(PORTRAIT)[0]


@pytest.fixture
def people() -> Iterator[ModelDetector]:
    with open_detector(ModelSpec("people", builtin="nanodet-g-416", threads=1)) as detector:
        yield detector


@pytest.fixture
def faces() -> Iterator[ModelDetector]:
    with open_detector(ModelSpec("faces", builtin="centerface", threads=1)) as detector:
        yield detector


def test_nanodet_finds_the_people_of_the_clip(people: ModelDetector, street: list[Frame]) -> None:
    """On real CCTV every sampled moment has several people, upright boxes of plausible size within the picture."""
    for frame in street:
        found, spent = people.detect(frame, confidence=0.4, iou=0.6)
        persons = found.xyxy[found.class_id == people.labels.index("person")]
        assert len(persons) >= 3
        assert (persons >= 0).all()
        assert (persons[:, 2] <= frame.width).all()
        assert (persons[:, 3] <= frame.height).all()
        width, height = (persons[:, 2:] - persons[:, :2]).T
        assert np.median(height / width) > 1.5, "people stand upright"
        assert 50 < np.median(height) < 150
        assert height.max() < 250
        assert spent["infer"] > 0
    assert people.snapshot()["inferences"] == len(street)


@pytest.mark.parametrize("resize", ["letterbox", "stretch"])
def test_both_ways_of_fitting_find_the_parked_van(street: list[Frame], resize: Literal["letterbox", "stretch"]) -> None:
    """The van at the kerb, boxed by hand, is found where it is, however the picture was fitted into the input."""
    van = np.array([[649, 44, 722, 98]], np.float32)
    with open_detector(ModelSpec("m", builtin="nanodet-g-416", resize=resize, threads=1)) as detector:
        for frame in street[:3]:
            found, _ = detector.detect(frame, confidence=0.4, iou=0.6)
            overlap = iou_matrix(van, found.xyxy)[0]
            assert overlap.max() > 0.75
            assert detector.labels[found.class_id[overlap.argmax()]] in ("car", "truck", "bus")


def test_a_batch_gives_each_picture_what_it_gets_alone(street: list[Frame]) -> None:
    """Rows of a batch equal single runs, so that a stream's boxes do not depend on who shares its batch."""
    with create_runtime(find_builtin("nanodet-g-416").path, threads=1) as runtime:
        pictures = [frame.rgb_at(416, 416).transpose(2, 0, 1).astype(np.float32) / 255 for frame in street[:3]]
        together = runtime.infer({"images": np.stack(pictures)})["output0"]
        for picture, row in zip(pictures, together, strict=True):
            alone = runtime.infer({"images": picture[None]})["output0"][0]
            np.testing.assert_allclose(row[:4], alone[:4], atol=1e-2)  # pixels
            np.testing.assert_allclose(row[4:], alone[4:], atol=1e-4)  # scores


def test_streams_that_share_the_detector_get_their_own_boxes(people: ModelDetector, street: list[Frame]) -> None:
    """Six threads at once get exactly the boxes that each of them gets alone."""
    alone = [people.detect(frame, confidence=0.4, iou=0.6)[0] for frame in street]
    with ThreadPoolExecutor(len(street)) as pool:
        together = list(pool.map(lambda frame: people.detect(frame, confidence=0.4, iou=0.6)[0], street))
    for one, other in zip(alone, together, strict=True):
        assert one.class_id.tolist() == other.class_id.tolist()
        np.testing.assert_allclose(one.xyxy, other.xyxy, atol=0.1)


def test_centerface_finds_the_face_of_the_portrait(faces: ModelDetector, portrait: Frame) -> None:
    """One face, where it is: the box spans from the fringe to the chin."""
    found, _ = faces.detect(portrait, confidence=0.4, iou=0.3)
    assert [faces.labels[i] for i in found.class_id] == ["face"]
    assert iou_matrix(found.xyxy, np.array([[80, 62, 166, 178]], np.float32))[0, 0] > 0.6


def test_centerface_takes_other_input_sizes(portrait: Frame) -> None:
    """The size is free in the file: a smaller input finds the same face for less work."""
    spec = ModelSpec("faces", builtin="centerface", input_size=(320, 256), threads=1)
    with open_detector(spec) as detector:
        found, _ = detector.detect(portrait, confidence=0.4, iou=0.3)
    assert len(found) == 1


def test_centerface_sees_no_faces_in_the_clip(faces: ModelDetector, street: list[Frame]) -> None:
    """Faces of ten pixels are below what the model can see: nothing is invented."""
    for frame in street[:2]:
        assert len(faces.detect(frame, confidence=0.5, iou=0.3)[0]) == 0


def test_nanodet_input_size_is_fixed_in_the_file() -> None:
    """Asking for a size that the file does not have is refused with both sizes."""
    with pytest.raises(ModelError, match="input is 416x416, not 640x640"):
        open_detector(ModelSpec("m", builtin="nanodet-g-416", input_size=(640, 640), threads=1))


def test_the_shipped_models_run_on_the_cpu_and_say_so(people: ModelDetector) -> None:
    """The provider and the number of nodes it runs are in the report."""
    report = people.snapshot()
    assert report["provider"] == "CPUExecutionProvider"
    assert sum(report["placement"].values()) == report["placement"].get("CPUExecutionProvider", 0)
