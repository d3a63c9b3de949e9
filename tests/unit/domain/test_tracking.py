"""The tracker."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sentinel_pipeline.domain.detections import Detections
from sentinel_pipeline.domain.streams import TrackSpec
from sentinel_pipeline.domain.tracking import Tracker

LABELS = ("person", "car")


def found(*boxes: tuple[float, float, float, float], scores: list[float] | None = None, classes=None) -> Detections:
    n = len(boxes)
    return Detections(
        np.array(boxes, np.float32).reshape(n, 4),
        np.array(scores if scores else [0.9] * n, np.float32),
        np.array(classes if classes else [0] * n, np.int64),
    )


def walker(x: float, y: float = 50) -> tuple[float, float, float, float]:
    return (x, y, x + 20, y + 60)


def test_tracking_keeps_the_ids_of_two_walkers() -> None:
    """Two people walking side by side keep their ids over many pictures, whatever the order of the boxes."""
    tracker = Tracker(TrackSpec())
    for i in range(30):
        boxes = [walker(10 + 4 * i), walker(200 - 4 * i, y=150)]
        order = [0, 1] if i % 2 else [1, 0]
        tracks = tracker.update(found(*(boxes[k] for k in order)), LABELS, i * 0.2)
        assert [t.track_id for t in tracks] in ([1, 2], [2, 1])
        ids = {round(t.xyxy[1]): t.track_id for t in tracks}
        if i == 0:
            first = ids
        assert ids == first


def test_tracking_follows_through_missed_pictures() -> None:
    """Somebody who is missed for less than lost_after is the same person afterwards, one later is a new one."""
    tracker = Tracker(TrackSpec(lost_after=1.0))
    for i in range(5):
        (track,) = tracker.update(found(walker(10 + 2 * i)), LABELS, i * 0.2)
    tracker.update(found(), LABELS, 1.2)
    (again,) = tracker.update(found(walker(28)), LABELS, 1.6)
    assert again.track_id == track.track_id
    (late,) = tracker.update(found(walker(28)), LABELS, 3.0)
    assert late.track_id != track.track_id


def test_tracking_never_changes_the_label_of_a_track() -> None:
    """A car in the place of a person is another object."""
    tracker = Tracker(TrackSpec())
    (a,) = tracker.update(found(walker(10)), LABELS, 0.0)
    (b,) = tracker.update(found(walker(10), classes=[1]), LABELS, 0.2)
    assert (a.label, b.label) == ("person", "car")
    assert a.track_id != b.track_id


def test_tracking_prefers_sure_boxes_to_doubtful_ones() -> None:
    """A doubtful box at a known place does not take the id from a sure box that fits as well."""
    tracker = Tracker(TrackSpec())
    tracker.update(found(walker(10)), LABELS, 0.0)
    tracks = tracker.update(found(walker(11), walker(13), scores=[0.42, 0.9]), LABELS, 0.2)
    assert [t.track_id for t in tracks] == [2, 1]


@pytest.mark.parametrize("enabled", [True, False])
def test_tracking_knows_who_is_present_after_a_miss(enabled: bool) -> None:
    """Who was seen a moment before the last picture is present, who was not seen for longer is not."""
    tracker = Tracker(TrackSpec(enabled=enabled, lost_after=5.0))
    tracker.update(found(walker(10)), LABELS, 1.0)
    tracker.update(found(), LABELS, 2.0)
    assert [track.xyxy for track in tracker.present(1.0)] == [walker(10)]
    assert tracker.present(0.5) == ()
    tracker.update(found(walker(300)), LABELS, 3.0)
    assert [track.xyxy for track in tracker.present(0.0)] == [walker(300)]


def test_tracking_off_gives_no_ids() -> None:
    """Without tracking every object is there, without an id."""
    tracker = Tracker(TrackSpec(enabled=False))
    tracks = tracker.update(found(walker(10), walker(90)), LABELS, 0.0)
    assert [t.track_id for t in tracks] == [None, None]


@given(
    st.lists(
        st.lists(
            st.tuples(st.integers(0, 300), st.integers(0, 300), st.integers(1, 90), st.integers(1, 90)), max_size=8
        ),
        max_size=12,
    )
)
def test_tracking_invariants(pictures: list[list[tuple[int, int, int, int]]]) -> None:
    """Whatever comes: one track per box, in the order of the boxes, no id twice in a picture."""
    tracker = Tracker(TrackSpec())
    for i, boxes in enumerate(pictures):
        detections = found(*((x, y, x + w, y + h) for x, y, w, h in boxes))
        tracks = tracker.update(detections, LABELS, i * 0.2)
        assert [t.xyxy for t in tracks] == [tuple(map(float, box)) for box in detections.xyxy]
        assert len({t.track_id for t in tracks}) == len(tracks)
