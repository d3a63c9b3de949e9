"""The canvas: pictures of any size are copied in, and nothing is ever drawn on the decoder's own."""

from __future__ import annotations

import importlib.resources
from collections.abc import Iterator

import av
import numpy as np
import pytest

from sentinel_pipeline.domain.overlay import Box, Overlay
from sentinel_pipeline.infrastructure.video.canvas import Canvas, even_fit, letterbox_bgr, planes_of
from sentinel_pipeline.infrastructure.video.drawing import Painter
from sentinel_pipeline.infrastructure.video.images import AvImage
from support.pictures import PlanarImage

CLIP = importlib.resources.files("sentinel_pipeline.assets") / "vtest-768x576-10fps.mp4"


def _decoded(count: int) -> Iterator[av.VideoFrame]:
    with av.open(str(CLIP)) as container:
        for index, frame in enumerate(container.decode(video=0)):
            if index == count:
                return
            yield frame


def test_no_drawn_pixel_reaches_a_later_picture() -> None:
    """Decoding while drawing on every picture gives exactly the pictures of decoding without drawing.

    The decoder predicts later pictures from its own buffers; drawing there would smear into all of them.
    """
    clean = [AvImage(frame).yuv420p()[0].copy() for frame in _decoded(25)]
    canvas, painter = Canvas(768, 576), Painter((768, 576))
    for index, frame in enumerate(_decoded(25)):
        image = AvImage(frame)
        _, planes = canvas.take(image)
        painter.paint(
            planes, Overlay(boxes=(Box((100, 100, 600, 500), "person", True),), notice="NO SIGNAL"), canvas.fit
        )
        assert not np.array_equal(planes.y, clean[index]), "something was drawn"
        assert np.array_equal(image.yuv420p()[0], clean[index]), f"picture {index} was touched"


def test_the_next_picture_shows_nothing_of_the_last_drawing() -> None:
    """The canvas is reused: what was drawn, also on the black bars, is gone with the next picture."""
    canvas, painter = Canvas(640, 360), Painter((640, 360))
    _, planes = canvas.take(PlanarImage(320, 320))
    before = planes.y.copy()
    painter.paint(planes, Overlay(boxes=(Box((0, 0, 320, 320), "a very long label"),), notice="NO SIGNAL"), canvas.fit)
    assert not np.array_equal(planes.y, before)
    _, planes = canvas.take(PlanarImage(320, 320))
    assert np.array_equal(planes.y, before)


def test_same_size_is_copied_exactly() -> None:
    """Nothing is scaled or shifted when the size fits."""
    canvas, image = Canvas(642, 362), PlanarImage(642, 362)
    _, planes = canvas.take(image)
    for copied, original in zip((planes.y, planes.u, planes.v), image.yuv420p(), strict=True):
        assert np.array_equal(copied, original)


def test_odd_sizes_lose_their_last_row_and_column() -> None:
    """An odd picture is cropped by a pixel, not blurred by scaling it."""
    canvas, image = Canvas(641, 361), PlanarImage(641, 361)
    picture, planes = canvas.take(image)
    assert (picture.width, picture.height) == canvas.size == (640, 360)
    assert np.array_equal(planes.y, image.yuv420p()[0][:360, :640])
    assert canvas.fit.to_target(np.array([[10, 20, 641, 361]], np.float32)).tolist() == [[10, 20, 641, 361]]


@pytest.mark.parametrize("source", [(320, 320), (1920, 1080), (100, 360), (97, 31), (2, 2)])
def test_other_sizes_are_letterboxed_with_black(source: tuple[int, int]) -> None:
    """The whole picture is there, centred, in its own aspect ratio; the bars are black in all three planes."""
    canvas = Canvas(640, 360)
    _, planes = canvas.take(PlanarImage(*source, shade=90))
    (left, top), (width, height) = canvas.fit.offset, canvas.fit.content
    inside = np.zeros((360, 640), bool)
    inside[top : top + height, left : left + width] = True
    assert set(np.unique(planes.y[~inside])) <= {16}
    assert planes.y[inside].min() >= 88
    assert set(np.unique(planes.u)) | set(np.unique(planes.v)) == {128}
    assert abs(left - (640 - left - width)) <= 2
    assert abs(top - (360 - top - height)) <= 2


def test_a_change_of_size_moves_the_picture() -> None:
    """When the camera changes its size, the next picture is placed anew and nothing of the old place remains."""
    canvas = Canvas(640, 360)
    canvas.take(PlanarImage(640, 360, shade=200))
    _, planes = canvas.take(PlanarImage(180, 180, shade=90))
    assert set(np.unique(planes.y[:, :130])) == {16}
    assert canvas.fit.content == (360, 360)
    _, planes = canvas.take(PlanarImage(640, 360, shade=90))
    assert planes.y.min() == 90


@pytest.mark.parametrize("source", [(1920, 1080), (1919, 1079), (333, 777), (5, 5), (4000, 3)])
@pytest.mark.parametrize("target", [(640, 360), (1280, 720), (2, 2)])
def test_fit_lies_on_whole_colour_samples(source: tuple[int, int], target: tuple[int, int]) -> None:
    """Place and size are even and inside of the target, whatever the source."""
    fit = even_fit(source, target)
    assert all(value % 2 == 0 for value in (*fit.offset, *fit.content))
    assert all(
        offset >= 0 and offset + side <= room
        for offset, side, room in zip(fit.offset, fit.content, target, strict=True)
    )


def test_a_held_buffer_is_not_written_to() -> None:
    """An encoder that looks ahead may keep a picture: the canvas then takes another buffer instead of changing it."""
    canvas = Canvas(64, 64)
    picture, _ = canvas.take(PlanarImage(64, 64, shade=50))
    held = av.VideoFrame(64, 64, "yuv420p")
    graph = av.filter.Graph()
    source = graph.add_buffer(width=64, height=64, format=picture.format, time_base=1)
    sink = graph.add("buffersink")
    source.link_to(sink)
    graph.configure()
    source.push(picture)
    held = sink.pull()
    canvas.take(PlanarImage(64, 64, shade=150))
    assert planes_of(held).y[0, 0] == 50


@pytest.mark.parametrize("source", [(640, 360), (641, 361), (300, 300), (1000, 100)])
def test_bgr_letterbox(source: tuple[int, int]) -> None:
    """A BGR picture of any size fits in, with black around it."""
    white = np.full((source[1], source[0], 3), 255, np.uint8)
    boxed = letterbox_bgr(white, (640, 360))
    assert boxed.shape == (360, 640, 3)
    assert boxed[180, 320].tolist() == [255, 255, 255]
    if source == (300, 300):
        assert boxed[180, 10].tolist() == [0, 0, 0]
