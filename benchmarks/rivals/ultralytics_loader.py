"""Ultralytics' stream loader in front of the model: ``ultralytics_loader.py MODEL FPS ANALYSED_FPS SOURCE``.

``vid_stride`` makes its reader thread decode every picture and convert every n-th, which is its cheapest way.
"""

import sys
import tempfile
from pathlib import Path

from torchvision_stubs import stub_torchvision

STUBS = stub_torchvision()

from model_step import Detector, analysed  # noqa: E402
from ultralytics.data.loaders import LoadStreams  # noqa: E402 - after the stubs


def main():
    """Run until terminated."""
    model, fps, wanted, source = sys.argv[1:5]
    detector = Detector(model)
    with tempfile.TemporaryDirectory() as folder:
        listed = Path(folder) / "list.streams"
        listed.write_text(source + "\n")
        for _, pictures, _ in LoadStreams(str(listed), vid_stride=round(int(fps) / float(wanted)), buffer=False):
            for picture in pictures:
                detector(picture)
                analysed()


if __name__ == "__main__":
    main()
