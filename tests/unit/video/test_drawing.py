"""Drawing on 4:2:0 planes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from sentinel_pipeline.domain.geometry import Fit
from sentinel_pipeline.domain.overlay import Box, Hidden, Overlay, Trail, Zone
from sentinel_pipeline.infrastructure.video import text
from sentinel_pipeline.infrastructure.video.canvas import Canvas, Planes
from sentinel_pipeline.infrastructure.video.drawing import ALARM, INK, PAPER, QUIET, Painter, class_colour
from sentinel_pipeline.infrastructure.video.text import text_mask
from support.pictures import PlanarImage

SHADE = 90


def _paint(overlay: Overlay, size: tuple[int, int] = (640, 360), source: tuple[int, int] | None = None) -> Planes:
    canvas = Canvas(*size)
    _, planes = canvas.take(PlanarImage(*(source or size), shade=SHADE))
    Painter(canvas.size).paint(planes, overlay, canvas.fit)
    return planes


def _at(planes: Planes, x: int, y: int) -> tuple[int, int, int]:
    return (int(planes.y[y, x]), int(planes.u[y // 2, x // 2]), int(planes.v[y // 2, x // 2]))


def test_box_lines_have_the_class_colour_in_all_planes() -> None:
    """The four lines lie on the box's edges; inside and outside the picture is untouched."""
    planes = _paint(Overlay(boxes=(Box((100, 120, 200, 240), "person"),)))
    colour = class_colour("person")
    for x, y in ((100, 180), (198, 180), (150, 120), (150, 238)):
        assert _at(planes, x, y) == (colour.y, colour.u, colour.v)
    for x, y in ((98, 180), (200, 180), (150, 240), (150, 180), (102, 180)):
        assert _at(planes, x, y) == (SHADE, 128, 128)


def test_alarm_boxes_are_red_and_thicker() -> None:
    """A box for which a rule has fired stands out: red, and lines twice as thick."""
    planes = _paint(Overlay(boxes=(Box((100, 120, 200, 240), "person", alarm=True),)))
    assert _at(planes, 103, 180) == (ALARM.y, ALARM.u, ALARM.v)
    assert ALARM.v > 180, "red"


def test_class_colours_are_stable_and_never_red() -> None:
    """The number behind the name does not change the colour; classes differ; no class looks like an alarm."""
    assert class_colour("person #12 83 %") == class_colour("person 4 %") == class_colour("person")
    names = ["person", "car", "dog", "truck", "bicycle", "bus", "사람", "cat"]
    assert len({class_colour(name) for name in names}) >= 4
    assert all(class_colour(name).v < 170 for name in names)


def test_label_is_readable_above_its_box() -> None:
    """The tag has letters of high contrast on a filled background, directly above the box."""
    planes = _paint(Overlay(boxes=(Box((100, 120, 200, 240), "person 87 %"),)))
    tag = planes.y[104:120, 100:160]
    assert tag.max() == class_colour("person").y
    assert int(tag.max()) - int(tag.min()) > 100


@pytest.mark.parametrize("corner", [(0, 0, 60, 60), (-50, -50, 30, 30), (600, 330, 700, 400), (638, 358, 640, 360)])
def test_labels_and_boxes_at_the_edge_stay_inside(corner: tuple[int, int, int, int]) -> None:
    """At the border the label moves inside the picture, and the box is cut, not lost."""
    planes = _paint(Overlay(boxes=(Box(corner, "person 87 %"),)))
    changed = planes.y != PlanarImage(640, 360, SHADE).yuv420p()[0]
    assert changed.sum() > 300


@pytest.mark.parametrize(
    "corner",
    [
        (float("nan"), 1, 2, 3),
        (float("inf"), float("-inf"), float("inf"), 1),
        (1e30, 1e30, -1e30, -1e30),
        (200, 200, 100, 100),
        (5, 5, 5, 5),
    ],
    ids=["nan", "inf", "huge", "reversed", "empty"],
)
def test_senseless_boxes_do_no_harm(corner: tuple[float, float, float, float]) -> None:
    """Whatever a model returns, the picture is published."""
    with np.errstate(invalid="ignore"):
        _paint(Overlay(boxes=(Box(corner, "x"),)))


def test_boxes_follow_the_letterbox() -> None:
    """Boxes are in source pixels: in a scaled and centred picture they are scaled and moved with it, and cut at it."""
    planes = _paint(Overlay(boxes=(Box((0, 0, 180, 180), "", alarm=True),)), size=(640, 360), source=(180, 180))
    assert _at(planes, 140, 180)[0] == ALARM.y
    assert _at(planes, 498, 180)[0] == ALARM.y
    assert _at(planes, 138, 180)[0] == 16


def test_line_padding_of_the_frame_is_no_problem() -> None:
    """Widths that libav pads at the end of each line draw to the same place."""
    planes = _paint(
        Overlay(boxes=(Box((100, 120, 202, 240), "a"),), zones=(Zone(((0.1, 0.9), (0.9, 0.9)), "line"),)),
        size=(650, 362),
    )
    assert planes.y.strides[0] > 650
    assert _at(planes, 100, 180)[0] == class_colour("a").y
    assert _at(planes, 300, round(0.9 * 362))[0] == QUIET.y


def test_quiet_zone_is_an_outline_with_its_name() -> None:
    """A zone's inside stays as it is; its outline and its name are drawn."""
    zone = Zone(((0.25, 0.25), (0.75, 0.25), (0.75, 0.75), (0.25, 0.75)), "gate")
    planes = _paint(Overlay(zones=(zone,)))
    assert _at(planes, 480, 180)[0] == QUIET.y
    assert _at(planes, 260, 250) == (SHADE, 128, 128)
    assert INK.y in planes.y[92:120, 160:220]


def test_active_zone_turns_red() -> None:
    """While something is in it, a zone's outline is red and its inside is tinted, with the picture still sharp."""
    zone = Zone(((0.25, 0.25), (0.75, 0.25), (0.75, 0.75), (0.25, 0.75)), "", active=True)
    planes = _paint(Overlay(zones=(zone,)))
    assert _at(planes, 480, 180)[0] == ALARM.y
    y, _, v = _at(planes, 260, 250)
    assert y == SHADE
    assert v > 135
    assert _at(planes, 100, 100) == (SHADE, 128, 128)


@pytest.mark.parametrize("points", [((0.5, 0.0), (0.5, 1.0)), ((float("nan"), 9.0), (0.5, -3.0)), ((0.5, 0.5),), ()])
def test_zones_of_any_points_are_drawn_or_left_out(points: tuple[tuple[float, float], ...]) -> None:
    """Lines are zones of two points; points outside, or too few of them, do no harm."""
    planes = _paint(Overlay(zones=(Zone(points, "x", active=True),)))
    assert (planes.y[:, 310:330] == ALARM.y).any() == (points[:1] == ((0.5, 0.0),) or len(points) == 2)


def test_trail_is_a_line_in_the_colour_of_its_object() -> None:
    """A trail runs through the foot points of its object, red when a rule has fired; a single point does no harm."""
    trail = Trail(((100.0, 100.0), (300.0, 100.0)), "person 1 90%")
    planes = _paint(Overlay(trails=(trail, Trail(((500.0, 300.0),), "car 2 80%"))))
    assert abs(int(planes.y[100, 200]) - class_colour("person").y) < 12
    assert abs(int(planes.u[50, 100]) - class_colour("person").u) < 12
    alarmed = _paint(Overlay(trails=(replace(trail, alarm=True),)))
    assert abs(int(alarmed.v[50, 100]) - ALARM.v) < 12


def test_trails_of_any_points_do_no_harm() -> None:
    """Points outside of the picture, and such that are no numbers, are drawn at its edge or left out."""
    _paint(Overlay(trails=(Trail(((-50.0, 9999.0), (float("nan"), float("inf"))), "person"),)))


def test_time_stands_in_the_lower_left_corner() -> None:
    """The time is drawn with letters on a filled background, below everything else."""
    planes = _paint(Overlay(time="2026-11-24 09:00:00"))
    corner = planes.y[-14:, :100]
    assert (corner > PAPER.y - 30).sum() > 40, "letters"
    assert (abs(corner.astype(int) - INK.y) < 4).sum() > 200, "their background"
    assert planes.y[0, 0] == planes.y[0, -1], "nothing is drawn elsewhere"


def test_what_is_hidden_is_hidden_below_what_is_drawn() -> None:
    """Hiding comes first: the box of a hidden face keeps its sharp outline."""
    box = (100.0, 100.0, 300.0, 300.0)
    planes = _paint(Overlay(boxes=(Box(box, ""),), hidden=Hidden("fill", (box,))))
    assert planes.y[200, 200] == 16
    assert abs(int(planes.y[100, 200]) - class_colour("").y) < 4


def test_notice_is_a_band_with_large_text() -> None:
    """The notice is white on a darkened band across the middle; above and below the picture is untouched."""
    planes = _paint(Overlay(notice="NO SIGNAL"))
    band = planes.y[170:190]
    assert band[:, :50].max() < SHADE / 2
    assert (planes.y[150:210] == PAPER.y).sum() > 400
    assert (planes.y[:100, :300] == SHADE).all()


@pytest.mark.parametrize("size", [(64, 36), (2, 2), (640, 16)])
def test_small_pictures_take_every_overlay(size: tuple[int, int]) -> None:
    """Labels and notices that are larger than the picture are cut."""
    everything = Overlay(
        boxes=(Box((0, 0, 10, 10), "a rather long label 87 %", alarm=True),),
        zones=(Zone(((0, 0), (1, 0), (1, 1)), "zone with a name", active=True),),
        notice="a notice that does not fit " * 5,
    )
    assert _paint(everything, size=size).size == size


def test_text_has_the_height_that_was_asked_for_and_is_bounded() -> None:
    """Labels of one size line up, control characters do no harm, and nobody can ask for a mile of text."""
    heights = {text_mask(text, 20).shape[0] for text in ("a", "g", "ÄÉ", "", "a\nb\x00c", "x" * 10_000)}
    assert heights == {28}
    assert text_mask("x" * 10_000, 20).shape[1] < 80 * 20


@pytest.mark.korean
def test_korean_is_drawn_with_its_own_letters() -> None:
    """Korean text is not a row of the same placeholder."""
    masks = [text_mask(letter, 24) for letter in "가나침입"]
    assert len({mask.tobytes() for mask in masks}) == 4
    planes = _paint(Overlay(boxes=(Box((100, 120, 200, 240), "침입자 감지", alarm=True),)))
    assert (planes.y[104:120, 100:180] > 200).sum() > 60


@pytest.mark.parametrize("installed", [True, False], ids=["fontconfig", "slim"])
def test_each_script_is_looked_for_once(monkeypatch: pytest.MonkeyPatch, installed: bool) -> None:
    """A hundred Korean words ask for a font once, also where fontconfig is missing."""
    asked: list[str] = []
    caches = (text.text_mask, text._word, text._font_for, text._system_font)
    for cache in caches:
        cache.cache_clear()
    monkeypatch.setattr("shutil.which", lambda _: "/usr/bin/fc-list" if installed else None)
    monkeypatch.setattr(text, "_by_fontconfig", lambda letters: asked.append(letters) or [])
    monkeypatch.setattr(text, "_by_name", lambda: asked.append("by name") or [])
    for code in range(0xAC00, 0xAC00 + 100):
        assert text_mask(chr(code) + " 83 %", 20).max() > 0
    for cache in caches:
        cache.cache_clear()
    assert asked == (["가힣"] if installed else ["by name"])


def test_letters_without_a_font_do_no_harm() -> None:
    """A script for which no machine has a font still gives a label."""
    assert text_mask("\U0001054f\U00010550", 20).max() > 0


def test_fit_of_another_source_is_respected() -> None:
    """The painter itself keeps nothing: the same boxes land where each fit says."""
    canvas = Canvas(640, 360)
    painter = Painter((640, 360))
    for scale in (1, 2):
        _, planes = canvas.take(PlanarImage(640, 360, SHADE))
        painter.paint(
            planes,
            Overlay(boxes=(Box((100 * scale, 120 * scale, 200 * scale, 240 * scale), ""),)),
            Fit((640 * scale, 360 * scale), (640, 360), (640, 360), (0, 0)),
        )
        assert _at(planes, 100, 180)[0] == class_colour("").y
