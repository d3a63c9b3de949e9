"""What every rival does with an analysed picture: the same model, read in the usual way. Needs cv2, numpy, onnxruntime.

The rivals run in environments of their own, so nothing here may import Sentinel Pipeline.
"""

import sys

import cv2
import numpy as np
import onnxruntime as ort

SIDE = 416
CONFIDENCE, IOU = 0.4, 0.6
WANTED = (0, 2)  # person, car


class Detector:
    """NanoDet with the output layout of YOLOv8, on one thread that does not spin, as Sentinel Pipeline runs it."""

    def __init__(self, path):
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        self._input = self._session.get_inputs()[0].name

    def __call__(self, bgr):
        """Return [(x1, y1, x2, y2, score, class)] in pixels of the (H, W, 3) BGR picture."""
        height, width = bgr.shape[:2]
        scale = min(SIDE / width, SIDE / height)
        w, h = round(width * scale), round(height * scale)
        left, top = (SIDE - w) // 2, (SIDE - h) // 2
        canvas = np.full((SIDE, SIDE, 3), 114, np.uint8)
        canvas[top : top + h, left : left + w] = cv2.resize(bgr, (w, h), interpolation=cv2.INTER_AREA)
        tensor = cv2.dnn.blobFromImage(canvas, 1 / 255, swapRB=True)
        rows = self._session.run(None, {self._input: tensor})[0][0].T
        classes = rows[:, 4:].argmax(1)
        scores = rows[np.arange(len(rows)), 4 + classes]
        keep = (scores >= CONFIDENCE) & np.isin(classes, WANTED)
        boxes, scores, classes = rows[keep, :4], scores[keep], classes[keep]
        corners = np.concatenate([boxes[:, :2] - boxes[:, 2:] / 2, boxes[:, 2:]], 1)
        chosen = cv2.dnn.NMSBoxes(corners.tolist(), scores.tolist(), CONFIDENCE, IOU) if len(corners) else []
        found = []
        for i in chosen:
            x, y, bw, bh = corners[i]
            box = [(x - left) / scale, (y - top) / scale, (x + bw - left) / scale, (y + bh - top) / scale]
            found.append((*box, float(scores[i]), int(classes[i])))
        return found


def draw(bgr, found):
    """Draw boxes and labels into the picture, in place."""
    for x1, y1, x2, y2, score, kind in found:
        corner = (int(x1), int(y1))
        cv2.rectangle(bgr, corner, (int(x2), int(y2)), (64, 196, 255), 2)
        cv2.putText(
            bgr, f"{kind} {score:.0%}", (corner[0], corner[1] - 6), cv2.FONT_HERSHEY_SIMPLEX, 0.8, (64, 196, 255), 2
        )


def analysed():
    """Tell the benchmark that one picture has been analysed."""
    sys.stdout.write("a\n")
    sys.stdout.flush()
