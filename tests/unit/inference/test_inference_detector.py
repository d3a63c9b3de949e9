"""The detector around small real ONNX models: opening, detecting, reporting, and models that misbehave."""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from copy import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto

from sentinel_pipeline.application.event.outages import Condition, Doing
from sentinel_pipeline.application.pipeline import suspects
from sentinel_pipeline.application.ports import Detector
from sentinel_pipeline.domain.errors import ConfigError, ModelBusy, ModelError, ModelTimeout
from sentinel_pipeline.domain.frame import Frame
from sentinel_pipeline.domain.models import ModelSpec
from sentinel_pipeline.infrastructure.inference.detector import (
    DetectorSettings,
    ModelDetector,
    choose_input_size,
    open_detector,
)
from sentinel_pipeline.infrastructure.inference.families import FAMILIES
from sentinel_pipeline.infrastructure.inference.ort import load_onnxruntime
from sentinel_pipeline.infrastructure.inference.providers import CUDA
from sentinel_pipeline.infrastructure.inference.runtime import InferenceRuntime, TensorInfo, TensorType

ModelMaker = Callable[..., Path]
DEADLINE = 5.0
LABELS = ("cat", "dog", "owl")


def rows(score: float = 0.9) -> np.ndarray:
    """A YOLOv8 output of three classes: one dog, 16x8 around the centre of a 32x32 input."""
    output = np.zeros((7, 20), np.float32)
    output[:4, 3] = 16, 16, 16, 8
    output[5, 3] = score
    return output


def spec(file: Path, **changes: object) -> ModelSpec:
    base = ModelSpec("m", path=str(file), family="yolov8", labels=LABELS, threads=1)
    return replace(base, **changes)  # type: ignore[arg-type]


class GatedRuntime(InferenceRuntime):
    """A model that hangs from its second inference on until ``gate`` opens."""

    def __init__(self, answer: np.ndarray) -> None:
        super().__init__()
        self.gate, self.calls, self.closed, self.answer = threading.Event(), 0, False, answer
        self._inputs = (TensorInfo("images", (None, 3, 32, 32)),)
        self._provider = "cpu"

    def load_model(self, model_path: str | Path) -> None:
        raise NotImplementedError

    def infer(self, inputs: dict[str, TensorType]) -> dict[str, TensorType]:
        self.calls += 1
        if self.calls > 1:
            assert self.gate.wait(DEADLINE)
        return {"output0": np.stack([self.answer] * len(inputs["images"]))}

    def close(self) -> None:
        self.closed = True


@pytest.mark.parametrize("batch", ["batch", 1, 4], ids=["any batch", "batch 1", "batch 4"])
@pytest.mark.parametrize("dtype", [TensorProto.FLOAT, TensorProto.FLOAT16], ids=["fp32", "fp16"])
def test_detect_finds_the_box_in_source_pixels(
    constant_model: ModelMaker, frame: Frame, batch: int | str, dtype: int
) -> None:
    """Whatever batch size and precision the file has, the box comes out in source pixels with its label and times."""
    with open_detector(spec(constant_model(rows(), batch=batch, dtype=dtype))) as detector:
        port: Detector = detector
        found, spent = port.detect(frame, confidence=0.4, iou=0.6)
        # 64x48 lies as 32x24 at y 4 in the 32x32 input
        np.testing.assert_allclose(found.xyxy, [[16, 16, 48, 32]], atol=0.05)
        assert [port.labels[i] for i in found.class_id] == ["dog"]
        assert found.score[0] == pytest.approx(0.9, abs=1e-3)
        assert set(spent) == {"prep", "wait", "infer", "post"}
        assert min(spent.values()) >= 0


def test_stretch_maps_back_without_bars(constant_model: ModelMaker, frame: Frame) -> None:
    """``resize: stretch`` uses the whole input, so the same output means another box."""
    with open_detector(spec(constant_model(rows()), resize="stretch")) as detector:
        found, _ = detector.detect(frame, confidence=0.4, iou=0.6)
    np.testing.assert_allclose(found.xyxy, [[16, 18, 48, 30]], atol=0.05)


def test_snapshot_reports_what_was_served(constant_model: ModelMaker, frame: Frame) -> None:
    """The report counts pictures, not warm-up runs, and has the keys that the status command prints."""
    with open_detector(spec(constant_model(rows()))) as detector:
        before = detector.snapshot()
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda _: detector.detect(frame, confidence=0.4, iou=0.6), range(12)))
        after = detector.snapshot()
    assert (before["inferences"], before["latency_ms"]["mean"]) == (0, 0.0)
    assert (after["inferences"], after["state"], after["provider"]) == (12, "ready", "CPUExecutionProvider")
    assert set(after["latency_ms"]) == {"mean", "p50", "p95", "p99"}
    assert after["latency_ms"]["mean"] > 0
    assert (after["batch_max"], after["batch_mean"], after["expired"]) == (1, 1, 0), "a CPU runs one by one"
    assert detector.snapshot()["state"] == "closed"


def test_condition_counts_only_answers_that_can_be_used(constant_model: ModelMaker, frame: Frame) -> None:
    """Not asked yet is doing nothing, an answer is doing well, NaN is no progress, and closed is not down."""
    with open_detector(spec(constant_model(rows()))) as detector:
        assert detector.condition().doing is Doing.NOTHING
        detector.detect(frame, confidence=0.4, iou=0.6)
        assert detector.condition() == Condition(Doing.WELL, "", 1)
    assert detector.condition().doing is Doing.NOTHING, "closed is not down"
    with open_detector(spec(constant_model(rows(score=np.nan)))) as broken:
        for _ in range(2):
            with pytest.raises(ModelError):
                broken.detect(frame, confidence=0.4, iou=0.6)
        assert (broken.condition().doing, broken.condition().done) == (Doing.FAILING, 0)
        assert "NaN" in broken.condition().reason


class BrokenRuntime(GatedRuntime):
    """A model that raises while it is ``broken``."""

    broken = False

    def infer(self, inputs: dict[str, TensorType]) -> dict[str, TensorType]:
        if self.broken:
            raise RuntimeError("boom")
        return {"output0": np.stack([self.answer] * len(inputs["images"]))}


def test_condition_stays_bad_until_an_answer(frame: Frame, monkeypatch: pytest.MonkeyPatch) -> None:
    """A broken model that nobody asks for a while is not well again: its next answer says that."""
    runtime = BrokenRuntime(rows())
    settings = DetectorSettings((32, 32), letterbox=True)
    detector = ModelDetector("m", runtime, FAMILIES["yolov8"], LABELS, settings)
    detector.start()
    with detector:
        detector.detect(frame, confidence=0.4, iou=0.6)
        runtime.broken = True
        with pytest.raises(ModelError, match="boom"):
            detector.detect(frame, confidence=0.4, iou=0.6)
        assert detector.condition().doing is Doing.FAILING
        monkeypatch.setattr(suspects, "FRESH_S", 0.0)  # as if the camera had not asked for so long
        assert detector.snapshot()["state"] == "ready"
        for _ in range(2):
            condition = detector.condition()
            assert (condition.doing, condition.done) == (Doing.FAILING, 1)
            assert "boom" in condition.reason
        runtime.broken = False
        detector.detect(frame, confidence=0.4, iou=0.6)
        assert detector.condition() == Condition(Doing.WELL, "", 2)


def test_a_picture_that_is_too_old_is_not_looked_at(constant_model: ModelMaker, frame: Frame) -> None:
    """``expires_at`` reaches the queue: past it the picture is refused as too old and counted, before it is served."""
    with open_detector(spec(constant_model(rows()))) as detector:
        now = time.monotonic()
        with pytest.raises(ModelBusy, match="model m has more to do than it can"):
            detector.detect(frame, confidence=0.4, iou=0.6, expires_at=now - 0.001)
        found, _ = detector.detect(frame, confidence=0.4, iou=0.6, expires_at=now + DEADLINE)
        assert len(found) == 1
        report = detector.snapshot()
    assert (report["inferences"], report["expired"], report["state"]) == (1, 1, "ready")


def test_a_picture_leaves_the_memory_before_the_model_runs(frame: Frame) -> None:
    """Only the tensor is in memory while the model is waited for; the picture has megabytes."""

    class Runtime(GatedRuntime):
        picture: Callable[[], object | None] | None = None
        kept = True

        def infer(self, inputs: dict[str, TensorType]) -> dict[str, TensorType]:
            self.kept = self.picture is not None and self.picture() is not None
            return super().infer(inputs)

    def fresh() -> Frame:
        made = replace(frame, image=copy(frame.image))
        runtime.picture = weakref.ref(made.image)
        return made

    runtime = Runtime(rows())
    runtime.gate.set()
    with ModelDetector("m", runtime, FAMILIES["yolov8"], LABELS, DetectorSettings((32, 32), True)) as detector:
        detector.start()
        found, _ = detector.detect(fresh(), confidence=0.4, iou=0.6)
    assert len(found) == 1
    assert not runtime.kept


def test_labels_can_come_from_the_file(constant_model: ModelMaker) -> None:
    """Without ``labels:``, the names that the exporter left in the file are used."""
    path = constant_model(rows(), metadata={"names": "{0: 'a', 1: 'b', 2: 'c'}"})
    with open_detector(spec(path, labels=None)) as detector:
        assert detector.labels == ("a", "b", "c")


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        pytest.param({"labels": ("cat", "dog")}, ModelError, "has 3 classes but 2 labels", id="too few labels"),
        pytest.param({"labels": "coco"}, ModelError, "has 3 classes but 80 labels", id="other labels"),
        pytest.param({"labels": None}, ConfigError, "has no labels", id="no labels"),
        pytest.param({"family": None}, ConfigError, "has no family.*yolov8, centerface", id="no family"),
        pytest.param({"family": "yolo"}, ConfigError, "unknown model family", id="unknown family"),
        pytest.param({"family": "centerface", "labels": ("face",)}, ModelError, "not CenterFace", id="wrong family"),
        pytest.param({"input_size": (64, 64)}, ModelError, "input is 32x32, not 64x64", id="other size"),
        pytest.param({"sha256": "0" * 64}, ModelError, "not the pinned 000", id="changed file"),
        pytest.param({"device": "cuda"}, ModelError, "cuda", id="no GPU"),
        pytest.param({"builtin": "centerface"}, ConfigError, "either a path or a built-in", id="two models"),
        pytest.param({"path": None}, ConfigError, "either a path or a built-in", id="no model"),
    ],
)
def test_open_detector_refuses_what_does_not_fit(
    constant_model: ModelMaker, changes: dict[str, object], error: type[Exception], message: str
) -> None:
    """A wrong combination is found when the model is opened, before any stream runs, and is named."""
    if changes.get("device") == "cuda" and CUDA in load_onnxruntime().get_available_providers():
        pytest.skip("this build has CUDA")
    with pytest.raises(error, match=message):
        open_detector(spec(constant_model(rows()), **changes))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        pytest.param({"dtype": TensorProto.DOUBLE}, "input is float64, not float32", id="doubles"),
        pytest.param({"size": ("h", "w")}, "multiple of 32.*use 320x224", id="free size, odd request"),
    ],
)
def test_open_detector_refuses_inputs_it_cannot_feed(
    constant_model: ModelMaker, options: dict[str, object], message: str
) -> None:
    """A model that wants something else than a batch of float RGB pictures is refused with what it wants."""
    with pytest.raises(ModelError, match=message):
        open_detector(spec(constant_model(rows(), **options), input_size=(300, 200)))


@pytest.mark.parametrize(
    ("shape", "asked", "expected"),
    [
        ((1, 3, 416, 640), None, (640, 416)),
        ((None, 3, None, None), None, (320, 160)),
        ((None, 3, None, None), (96, 64), (96, 64)),
        ((None, 3, 64, None), (96, 64), (96, 64)),
        ((), (96, 64), (96, 64)),
        ((), None, (320, 160)),
    ],
)
def test_choose_input_size_table(
    shape: tuple[int | None, ...], asked: tuple[int, int] | None, expected: tuple[int, int]
) -> None:
    """The file's size wins, then the configuration's, then the default; width comes before height."""
    assert choose_input_size(shape, asked, (320, 160), 32) == expected


def test_nan_is_an_error_and_shows_in_the_state(constant_model: ModelMaker, frame: Frame) -> None:
    """A model that returns NaN fails every picture and reports itself as failing."""
    bad = rows()
    bad[6, 0] = np.nan
    with open_detector(spec(constant_model(bad))) as detector:
        with pytest.raises(ModelError, match="returned NaN"):
            detector.detect(frame, confidence=0.4, iou=0.6)
        assert detector.snapshot()["state"] == "failing"
        assert "NaN" in detector.snapshot()["reason"]


def test_a_hung_model_is_reported_and_left_behind(frame: Frame) -> None:
    """``detect`` keeps its deadline, the state says stalled, and ``close`` returns False without freeing the model."""
    runtime = GatedRuntime(rows())
    settings = DetectorSettings((32, 32), letterbox=True, timeout=0.1)
    detector = ModelDetector("m", runtime, FAMILIES["yolov8"], LABELS, settings)
    detector.start()
    for message in ("did not answer within", "is stuck"):
        with pytest.raises(ModelTimeout, match=message):
            detector.detect(frame, confidence=0.4, iou=0.6)
    assert detector.snapshot()["state"] == "stalled"
    assert detector.close(timeout=0.1) is False
    assert not runtime.closed
    runtime.gate.set()
    assert detector.close() is True
    assert runtime.closed
