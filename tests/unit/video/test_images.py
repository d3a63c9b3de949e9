"""Pictures of both decoders convert as swscale and OpenCV themselves do, in any size and format."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import av
import cv2
import numpy as np
import pytest
from av.video.reformatter import ColorRange, Colorspace, ColorTrc

from sentinel_pipeline.domain.frame import Frame, Image, Pixels
from sentinel_pipeline.infrastructure.video.images import AvImage, BgrImage

SIZES = [(64, 48), (35, 33), (37, 18), (1, 1), (1919, 3)]


def smooth_bgr(size: tuple[int, int]) -> Pixels:
    """Return a picture without sharp edges, in which chroma siting and rounding hardly matter."""
    width, height = size
    x, y = np.meshgrid(np.linspace(0, 1, width), np.linspace(0, 1, height))
    return np.stack([x * 200 + 20, y * 200 + 20, (x + y) * 100 + 20], axis=-1).astype(np.uint8)


def av_frame(size: tuple[int, int], pixel_format: str, color_range: ColorRange = ColorRange.MPEG) -> av.VideoFrame:
    frame = av.VideoFrame.from_ndarray(smooth_bgr(size), format="bgr24")
    # With several threads swscale now and then spoils the row between two slices of a picture of odd size.
    return frame.reformat(format=pixel_format, dst_color_range=color_range, threads=1)


def filled(size: tuple[int, int], pixel_format: str, values: tuple[int, ...]) -> av.VideoFrame:
    frame = av.VideoFrame(*size, pixel_format)
    for plane, value in zip(frame.planes, values, strict=True):
        np.frombuffer(plane, np.uint8)[:] = value
    return frame


def plane_shapes(image: Image) -> list[tuple[int, ...]]:
    return [plane.shape for plane in image.yuv420p()]


def expected_shapes(size: tuple[int, int]) -> list[tuple[int, ...]]:
    width, height = size
    chroma = ((height + 1) // 2, (width + 1) // 2)
    return [(height, width), chroma, chroma]


@pytest.mark.parametrize("size", SIZES)
def test_yuv420p_views_the_decoders_own_planes(size: tuple[int, int]) -> None:
    """A limited-range yuv420p frame is not copied: the views have its shape, follow it, and cannot be written to."""
    frame = filled(size, "yuv420p", (50, 60, 70))
    image = AvImage(frame)
    assert plane_shapes(image) == expected_shapes(size)
    assert [int(plane[-1, -1]) for plane in image.yuv420p()] == [50, 60, 70]
    for plane in image.yuv420p():
        with pytest.raises(ValueError, match="read-only"):
            plane[0, 0] = 0
    np.frombuffer(frame.planes[0], np.uint8)[:] = 99
    assert (image.yuv420p()[0] == 99).all()


@pytest.mark.parametrize("size", [(64, 48), (35, 33)])
@pytest.mark.parametrize(
    "pixel_format",
    ["yuvj420p", "nv12", "yuv422p", "yuv444p", "yuv420p10le", "gray", "yuv411p", "rgb24", "bgr24", "gbrp"],
)  # fmt: skip
def test_yuv420p_converts_other_formats_as_swscale_does(pixel_format: str, size: tuple[int, int]) -> None:
    """Every other format comes out within rounding of swscale's own limited-range yuv420p of that picture."""
    full = ColorRange.JPEG if pixel_format.startswith("yuvj") else ColorRange.MPEG
    image = AvImage(av_frame(size, pixel_format, full))
    assert plane_shapes(image) == expected_shapes(size)
    reference = AvImage(av_frame(size, "yuv420p")).yuv420p()
    planes = image.yuv420p()
    if pixel_format == "gray":
        reference = (reference[0], np.full_like(reference[1], 128), np.full_like(reference[2], 128))
    for plane, wanted in zip(planes, reference, strict=True):
        difference = np.abs(plane.astype(int) - wanted.astype(int))
        assert difference.mean() < 1.5
        assert difference.max() <= 12  # the last column and row of odd sizes are extrapolated
    assert image.yuv420p()[0] is not planes[0]
    assert image.yuv420p()[0].ctypes.data == planes[0].ctypes.data, "converted once"


@pytest.mark.parametrize(
    ("pixel_format", "color_range"), [("yuvj420p", ColorRange.UNSPECIFIED), ("yuv420p", ColorRange.JPEG)]
)
def test_yuv420p_brings_full_range_down_to_limited(pixel_format: str, color_range: ColorRange) -> None:
    """White and black of a full-range camera become 235 and 16, whether the format or the stream's tag says full."""
    for value, wanted in ((255, 235), (0, 16)):
        frame = filled((16, 16), pixel_format, (value, 128, 128))
        frame.color_range = color_range
        assert (AvImage(frame).yuv420p()[0] == wanted).all()


@pytest.mark.parametrize(("value", "wanted"), [(235, 255), (16, 0)])
def test_bgr_and_rgb_expand_limited_range(value: int, wanted: int) -> None:
    """Limited-range white is 255 in RGB, limited-range black is 0, within the rounding of swscale's scaler."""
    image = AvImage(filled((32, 16), "yuv420p", (value, 128, 128)))
    assert (image.bgr() == wanted).all()
    assert np.abs(image.rgb(8, 8).astype(int) - wanted).max() <= 2


def test_colour_space_of_the_stream_is_respected() -> None:
    """The same planes give another green in BT.709 than in BT.601, and the frame's own tags are left as they were."""
    frame = filled((16, 16), "yuv420p", (120, 90, 90))
    untagged = AvImage(frame).bgr()[0, 0].astype(int)
    frame.colorspace = Colorspace.ITU709
    tagged = AvImage(frame).bgr()[0, 0].astype(int)
    assert abs(untagged - tagged).max() > 5
    assert frame.colorspace == Colorspace.ITU709


@pytest.mark.parametrize("size", [(64, 48), (35, 33), (1, 1)])
@pytest.mark.parametrize("pixel_format", ["yuv420p", "yuv444p", "nv12", "bgr24"])
def test_bgr_equals_pyavs_own_conversion(pixel_format: str, size: tuple[int, int]) -> None:
    """The array is PyAV's to within rounding, contiguous, and the caller's to write to."""
    frame = av_frame(size, pixel_format)
    array = AvImage(frame).bgr()
    assert array.shape == (size[1], size[0], 3)
    assert array.flags.c_contiguous
    assert np.abs(array.astype(int) - frame.to_ndarray(format="bgr24").astype(int)).max() <= 1
    before = frame.to_ndarray(format="bgr24")
    array[:] = 0
    assert (frame.to_ndarray(format="bgr24") == before).all()


@pytest.mark.parametrize("make", [lambda bgr: AvImage(av.VideoFrame.from_ndarray(bgr, format="bgr24")), BgrImage])
def test_rgb_averages_areas_when_it_shrinks(make: type[BgrImage]) -> None:
    """A fine chequerboard becomes an even grey instead of aliasing."""
    board = np.indices((120, 160)).sum(axis=0) % 2 * 255
    image = make(np.repeat(board[..., None], 3, axis=2).astype(np.uint8))
    small = image.rgb(40, 30)
    assert small.shape == (30, 40, 3)
    assert np.abs(small.astype(int) - 128).max() <= 4


@pytest.mark.parametrize("target", [(20, 10), (64, 48), (100, 90), (333, 7)])
def test_both_images_agree_on_rgb(target: tuple[int, int]) -> None:
    """The model sees the same picture from either decoder."""
    bgr = smooth_bgr((64, 48))
    ours, opencvs = AvImage(av.VideoFrame.from_ndarray(bgr, format="bgr24")).rgb(*target), BgrImage(bgr).rgb(*target)
    assert ours.shape == opencvs.shape == (target[1], target[0], 3)
    assert np.abs(ours.astype(int) - opencvs.astype(int)).mean() < 2


@pytest.mark.parametrize("size", [*SIZES, (2, 2)])
def test_bgr_image_converts_to_planes_as_opencv_does(size: tuple[int, int]) -> None:
    """Planes of an OpenCV frame have the right shape for odd sizes too, and turn back into the picture."""
    bgr = smooth_bgr(size)
    image = BgrImage(bgr)
    y, u, v = image.yuv420p()
    assert plane_shapes(image) == expected_shapes(size)
    assert (image.width, image.height) == size
    if size == (64, 48):
        packed = np.concatenate([y.ravel(), u.ravel(), v.ravel()]).reshape(size[1] * 3 // 2, size[0])
        back = cv2.cvtColor(packed, cv2.COLOR_YUV2BGR_I420)
        assert np.abs(back.astype(int) - bgr.astype(int)).mean() < 4
    reference = AvImage(av.VideoFrame.from_ndarray(bgr, format="bgr24")).yuv420p()
    assert np.abs(y.astype(int) - reference[0].astype(int)).max() <= 2


def test_bgr_image_hands_out_copies() -> None:
    """Writing to what ``bgr`` returned does not change the picture that others see."""
    image = BgrImage(smooth_bgr((8, 8)))
    image.bgr()[:] = 0
    assert image.bgr().any()


def test_bgr_image_refuses_other_arrays() -> None:
    """A grey or floating-point array is refused where it enters."""
    for wrong in (np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3), np.float32)):
        with pytest.raises(ValueError, match="uint8"):
            BgrImage(wrong)


def test_letterboxed_frame_from_planes() -> None:
    """``Frame.rgb_at`` pads with grey and puts the picture in the middle."""
    frame = Frame(AvImage(filled((64, 32), "yuv420p", (235, 128, 128))), 0, 0.0, 0.0, 0.0)
    out = frame.rgb_at(32, 32)
    assert (out[8:24] >= 253).all()
    assert (out[:8] == 114).all()
    assert (out[24:] == 114).all()


def test_conversions_from_several_threads_agree() -> None:
    """Eight threads convert one frame in different ways at once: all get what one thread gets, and its tags stay."""
    frame = av_frame((320, 180), "yuv444p")
    frame.colorspace, frame.color_trc = Colorspace.ITU709, ColorTrc.BT709
    image, alone = AvImage(frame), AvImage(frame)
    wanted = (alone.bgr(), alone.rgb(64, 36), alone.yuv420p()[1])
    barrier = threading.Barrier(8)

    def convert(_: int) -> bool:
        barrier.wait(5)
        got = [(image.bgr(), image.rgb(64, 36), image.yuv420p()[1]) for _ in range(10)]
        return all((a == b).all() for triple in got for a, b in zip(triple, wanted, strict=True))

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(convert, range(8)))
    assert (frame.colorspace, frame.color_trc) == (Colorspace.ITU709, ColorTrc.BT709)


def test_opencv_wakes_no_threads_of_its_own() -> None:
    """OpenCV works in the calling thread: each stream has one, and a pool would cost more than it saves."""
    assert cv2.getNumThreads() == 1
