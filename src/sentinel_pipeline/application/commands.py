"""What a server may ask for over the connection that events go out on."""

from __future__ import annotations

import base64
import time
from collections.abc import Callable
from typing import Any, Protocol

from sentinel_pipeline.domain.errors import CommandRefused
from sentinel_pipeline.domain.events import iso
from sentinel_pipeline.domain.frame import Frame
from sentinel_pipeline.domain.settings import COMMANDS


class StreamControl(Protocol):
    """What commands need of the streams. Both raise ``KeyError`` for an unknown id."""

    def restart(self, stream_id: str) -> None:
        """Stop a stream and start it afresh; takes seconds."""
        ...

    def newest_frame(self, stream_id: str) -> Frame | None:
        """Return the newest frame, None before the first."""
        ...


class Commands:
    """Carries commands out, in the caller's thread. Safe to call from several threads.

    ``jpeg`` encodes a picture. Answers that the program is starting until ``open`` names the streams.
    """

    def __init__(self, jpeg: Callable[[Frame], bytes]) -> None:
        self._jpeg = jpeg
        self._streams: StreamControl | None = None

    def open(self, streams: StreamControl) -> None:
        """Begin to carry out."""
        self._streams = streams

    def run(self, command: str, stream_id: str | None) -> dict[str, Any]:
        """Return the answer's own keys, JSON values only. Raises ``CommandRefused`` and what encoding raises."""
        if command == "ping":
            return {"ts": round(time.time(), 3)}
        if command not in COMMANDS:
            raise CommandRefused(f"there is no command {command!r}")
        if stream_id is None:
            raise CommandRefused(f"{command} needs a stream")
        if self._streams is None:
            raise CommandRefused("the program is starting", remedy="ask again in a few seconds")
        try:
            if command == "snapshot":
                return self._snapshot(stream_id, self._streams.newest_frame(stream_id))
            self._streams.restart(stream_id)
        except KeyError as exc:
            raise CommandRefused(f"there is no stream {stream_id!r}") from exc
        return {"stream": stream_id}

    def _snapshot(self, stream_id: str, frame: Frame | None) -> dict[str, Any]:
        if frame is None:
            raise CommandRefused(f"{stream_id} has not delivered a picture yet")
        return {
            "stream": stream_id,
            "captured_at": iso(frame.captured_at),
            "age_s": round(time.monotonic() - frame.received_at, 3),
            "frame_size": list(frame.size),
            "content_type": "image/jpeg",
            "data": base64.b64encode(self._jpeg(frame)).decode(),
        }
