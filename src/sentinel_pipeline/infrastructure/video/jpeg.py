"""One picture as a JPEG."""

from __future__ import annotations

import cv2

from sentinel_pipeline.domain.errors import PublishError
from sentinel_pipeline.domain.frame import Frame

LONGEST = 1280  # pixels: keeps a picture, in base64, well below the 1 MiB that WebSocket servers usually take
QUALITY = 85


def encode_jpeg(frame: Frame, *, longest: int = LONGEST) -> bytes:
    """Return ``frame`` as a JPEG whose longer side has at most ``longest`` pixels. Raises ``PublishError``."""
    shrink = min(1.0, longest / max(frame.size))
    width, height = (max(1, round(side * shrink)) for side in frame.size)
    pixels = cv2.cvtColor(frame.image.rgb(width, height), cv2.COLOR_RGB2BGR)
    done, encoded = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
    if not done:
        raise PublishError("the picture could not be encoded as a JPEG")
    return encoded.tobytes()
