"""When the camera took a picture, as far as that can be known."""

from __future__ import annotations

_PLAUSIBLE = (-0.5, 10.0)  # seconds between capture and receipt that a clock at the camera may claim


def captured_at(pts: float | None, received_at: float, start_time_realtime: int | None) -> float:
    """Return the capture time of a frame, Unix seconds UTC.

    ``pts``: its timestamp in the stream's own time, seconds; ``received_at``: Unix seconds;
    ``start_time_realtime``: FFmpeg's wall time of timestamp 0 in microseconds, which it computes from the first RTCP
    sender report (RFC 3550 section 6.4.1). Cameras with a wrong clock are common: a claim that is not plausible against
    the receive time counts for nothing, and no picture is taken after it was received.
    """
    if pts is None or start_time_realtime is None:
        return received_at
    claimed = start_time_realtime / 1e6 + pts
    shortest, longest = _PLAUSIBLE
    return min(claimed, received_at) if shortest <= received_at - claimed <= longest else received_at
