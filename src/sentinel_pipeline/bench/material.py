"""Camera footage of any size and rate, made from the built-in clip."""

from __future__ import annotations

from fractions import Fraction
from importlib.resources import as_file, files
from pathlib import Path

import av
from av.video.reformatter import Interpolation

CLIP = "vtest-768x576-10fps.mp4"


def make_material(target: Path, size: tuple[int, int], fps: float, seconds: float) -> None:
    """Write H.264 footage as a camera sends it: constant rate, a key frame every two seconds, no B-frames."""
    rate = Fraction(fps).limit_denominator(1001)
    with (
        as_file(files("sentinel_pipeline.assets") / CLIP) as clip,
        av.open(str(clip)) as source,
        av.open(str(target), "w") as output,
    ):
        stream = output.add_stream("libx264", rate=rate)
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        stream.codec_context.bit_rate = int(size[0] * size[1] * fps * 0.08)
        stream.codec_context.gop_size = round(2 * fps)
        stream.codec_context.max_b_frames = 0
        stream.options = {"preset": "veryfast", "tune": "zerolatency"}
        for number, frame in enumerate(source.decode(video=0)):
            if number >= seconds * fps:
                break
            picture = frame.reformat(*size, "yuv420p", interpolation=Interpolation.BILINEAR)
            picture.pts, picture.time_base = number, 1 / rate
            output.mux(stream.encode(picture))
        output.mux(stream.encode(None))
