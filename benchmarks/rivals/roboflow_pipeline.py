"""Roboflow's InferencePipeline with a custom function: ``roboflow_pipeline.py MODEL FPS ANALYSED_FPS SOURCE``."""

import os
import sys

os.environ.setdefault("METRICS_ENABLED", "False")
os.environ.setdefault("TELEMETRY_OPT_OUT", "True")

from torchvision_stubs import stub_torchvision

STUBS = stub_torchvision()

from inference import InferencePipeline  # noqa: E402 - after the stubs
from model_step import Detector, analysed  # noqa: E402


def main():
    """Run until terminated."""
    model, _, wanted, source = sys.argv[1:5]
    detector = Detector(model)

    def on_frames(frames):
        results = [detector(frame.image) for frame in frames]
        for _ in results:
            analysed()
        return results

    pipeline = InferencePipeline.init_with_custom_logic(
        video_reference=[source], on_video_frame=on_frames, on_prediction=lambda *_: None, max_fps=float(wanted)
    )
    pipeline.start()
    pipeline.join()


if __name__ == "__main__":
    main()
