"""The one place that imports ONNX Runtime: without its telemetry."""

from __future__ import annotations

import os
from typing import Any


def load_onnxruntime() -> Any:
    """Return the ``onnxruntime`` module, imported such that it sends nothing.

    Since 1.29 the official Linux builds report sessions and models to Microsoft by default, and keep a device
    identifier and a queue of events in the cache directory; the variable is read once, when the library is first loaded
    (microsoft/onnxruntime#27379). An operator who wants to send can set it to 0.
    """
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    import onnxruntime

    return onnxruntime
