"""The path of the user's document as written: ``opencv_loop.py MODEL FPS ANALYSED_FPS SOURCE [TARGET]``.

cv2.VideoCapture delivers BGR, the model sees every n-th picture, boxes are drawn with OpenCV, ``tobytes`` goes into the
stdin of an FFmpeg that encodes and publishes. Without TARGET nothing is drawn or published.
"""

import subprocess
import sys

import cv2
from model_step import Detector, analysed, draw


def publisher(width, height, fps, target):
    """Start the document's FFmpeg."""
    size = f"{width}x{height}"
    command = ["ffmpeg", "-y", "-loglevel", "error", "-f", "rawvideo", "-vcodec", "rawvideo", "-pix_fmt", "bgr24"]
    command += ["-s", size, "-r", str(fps), "-i", "-", "-c:v", "libx264", "-pix_fmt", "yuv420p"]
    command += ["-preset", "ultrafast", "-tune", "zerolatency", "-b:v", "4M", "-maxrate", "4M", "-bufsize", "2M"]
    command += ["-g", str(2 * fps), "-bf", "0", "-f", "rtsp", "-rtsp_transport", "tcp", target]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)


def main():
    """Run until terminated."""
    model, fps, wanted, source, *target = sys.argv[1:]
    detector, every, found = Detector(model), round(int(fps) / float(wanted)), []
    capture = cv2.VideoCapture(source, cv2.CAP_FFMPEG)
    sink, number = None, 0
    while True:
        ok, picture = capture.read()
        if not ok:
            sys.exit("the source ended")
        if number % every == 0:
            found = detector(picture)
            analysed()
        number += 1
        if target:
            sink = sink or publisher(picture.shape[1], picture.shape[0], int(fps), target[0])
            draw(picture, found)
            sink.stdin.write(picture.tobytes())


if __name__ == "__main__":
    main()
