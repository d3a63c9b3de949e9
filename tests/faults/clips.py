"""What the laboratory's cameras show: pictures small enough that a dozen cameras cost nothing, each with a meaning.

``blink`` is grey with somebody in it for 0.4 s and black for 0.4 s: the laboratory's model (``faults.models``) sees a
person in grey, nobody in black, and does what the test wants it to do wrong in white. The others are the same pictures
as a camera sends them whose settings were changed.
"""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path

SIZE = (320, 180)
FPS = 25
BLINK_S = 0.4  # grey, and black, so long each


@dataclass(frozen=True, slots=True)
class Clips:
    """Paths of MPEG-TS files, every key frame with its parameter sets, a key frame every 0.4 s."""

    blink: Path
    white: Path
    larger: Path
    odd: Path
    yuv422: Path
    yuv444: Path
    hevc: Path
    mjpeg: Path


def make_clips(folder: Path) -> Clips:
    """Encode all of them, two to four seconds each."""
    blink = f"eq=brightness='if(lt(mod(t,{2 * BLINK_S}),{BLINK_S}),0,-1)':eval=frame"
    mjpeg = ("mjpeg", "-huffman", "default")  # RFC 2435 knows the standard tables only
    hevc = ("libx265", "-preset", "ultrafast", "-x265-params", "log-level=none")
    h264 = ("libx264", "-preset", "ultrafast", "-tune", "zerolatency")
    return Clips(
        blink=encode(folder / "blink.ts", SIZE, blink, *h264),
        white=encode(folder / "white.ts", SIZE, "eq=brightness=1", *h264),
        larger=encode(folder / "larger.ts", (640, 360), blink, *h264),
        odd=encode(folder / "odd.ts", (176, 144), blink, *h264),
        yuv422=encode(folder / "yuv422.ts", SIZE, blink, *h264, pixels="yuv422p"),
        yuv444=encode(folder / "yuv444.ts", SIZE, blink, *h264, pixels="yuv444p"),
        hevc=encode(folder / "hevc.ts", SIZE, blink, *hevc),
        mjpeg=encode(folder / "mjpeg.avi", SIZE, blink, *mjpeg, pixels="yuvj420p"),
    )


def encode(path: Path, size: tuple[int, int], change: str, *codec: str, pixels: str = "yuv420p") -> Path:
    # A grey field with a moving brighter square: something to see, and something that a smear would show.
    source = f"color=c=0x808080:s={size[0]}x{size[1]}:r={FPS}:d=4"
    square = f"drawbox=x='mod(t*40,{size[0] - 40})':y={size[1] // 2 - 20}:w=40:h=40:color=0xa0a0a0:t=fill"
    command = ["ffmpeg", "-hide_banner", "-nostdin", "-loglevel", "error", "-y", "-f", "lavfi", "-i", source]
    command += ["-vf", f"{square},{change},format={pixels}", "-g", str(int(FPS * BLINK_S)), "-bf", "0", "-c:v", *codec]
    subprocess.run([*command, str(path)], check=True, timeout=60, stdin=subprocess.DEVNULL)
    return path
