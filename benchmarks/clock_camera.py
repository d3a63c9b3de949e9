"""A camera whose pictures show when they were taken: ``python -m benchmarks.clock_camera CLIP URL FPS BITRATE``.

Takes the pictures of a clip, stamps the clock, encodes with x264 zerolatency and publishes over RTSP, all in this
process. Each keyframe is told on stdout with the monotonic time just before it goes out. SIGUSR1 makes the next picture
one, as cameras do that begin with a keyframe for everybody who comes.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import av
import numpy as np
from av.video.frame import PictureType
from numpy.typing import NDArray

from benchmarks import clock
from sentinel_pipeline.infrastructure.video.child_sockets import send_at_once


def main() -> None:
    """Publish until terminated."""
    path, url, fps, bitrate = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    wanted = threading.Event()
    signal.signal(signal.SIGUSR1, lambda *_: wanted.set())
    pictures = _pictures(path)
    first = next(pictures)
    with av.open(url, "w", format="rtsp", options={"rtsp_transport": "tcp"}) as output:
        stream = output.add_stream("libx264", rate=fps)
        stream.width, stream.height, stream.pix_fmt = first.width, first.height, "yuv420p"
        stream.bit_rate = bitrate
        stream.codec_context.gop_size = 2 * fps
        stream.codec_context.max_b_frames = 0
        stream.codec_context.thread_count = 1
        stream.options = {"preset": "ultrafast", "tune": "zerolatency", "maxrate": str(bitrate),
                          "bufsize": str(bitrate // 4), "sc_threshold": "0", "forced-idr": "1"}  # fmt: skip
        began, wake = time.monotonic(), threading.Event()
        for number, picture in enumerate(pictures):
            wake.wait(max(0.0, began + number / fps - time.monotonic()))
            taken = time.monotonic()
            clock.stamp(clock.luma_of(picture), taken)
            picture.pts, picture.time_base = number, 1 / stream.codec_context.framerate
            picture.pict_type = PictureType.I if wanted.is_set() else PictureType.NONE
            wanted.clear()
            for packet in stream.encode(picture):
                if packet.is_keyframe:
                    sys.stdout.write(f"{time.monotonic()}\n")
                    sys.stdout.flush()
                output.mux(packet)
            if number == 0:  # connected by now; a picture that Nagle's algorithm holds up for 40 ms blurs every figure
                send_at_once(os.getpid())


def _pictures(path: str) -> Iterator[av.VideoFrame]:
    """Yield writable pictures of a clip for ever; decoded once, so that decoding does not delay the clock."""
    with av.open(path) as clip:
        stored = [frame for frame, _ in zip(clip.decode(video=0), range(200), strict=False)]
    for stored_frame in _for_ever(stored):
        copy = av.VideoFrame(stored_frame.width, stored_frame.height, "yuv420p")
        for source, target in zip(stored_frame.planes, copy.planes, strict=True):
            _view(target)[:] = _view(source)
        yield copy


def _for_ever(stored: list[av.VideoFrame]) -> Iterator[av.VideoFrame]:
    while True:
        yield from stored
        yield from reversed(stored)  # no jump, which would cost bits and look like a cut


def _view(plane: Any) -> NDArray[np.uint8]:
    rows: NDArray[np.uint8] = np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)
    return rows[: plane.height, : plane.width]


if __name__ == "__main__":
    main()
