"""Reads the clock in a stream: ``python -m benchmarks.clock_reader URL SECONDS``; prints JSON.

One decoder thread and no probing, the same for every stream that is compared, so that what the reader adds (mostly one
picture that FFmpeg's parser waits for) is in all of them.
"""

from __future__ import annotations

import sys
import time
from statistics import median

import av
import orjson

from benchmarks import clock
from benchmarks.figures import quantile

OPTIONS = {"rtsp_transport": "tcp", "probesize": "32", "analyzeduration": "0"}
_SETTLE = 1.5  # seconds that are not counted: the server's first burst


def main() -> None:
    """Read for some seconds, then say how old the pictures were."""
    url, seconds = sys.argv[1], float(sys.argv[2])
    ages: list[float] = []
    unreadable, seen = 0, set()
    with av.open(url, options=OPTIONS, timeout=(10, 5)) as source:
        source.streams.video[0].codec_context.thread_count = 1
        began = time.monotonic()
        for frame in source.decode(video=0):
            now = time.monotonic()
            if now - began < _SETTLE:
                continue
            if now - began > seconds + _SETTLE:
                break
            taken = clock.read(clock.luma_of(frame))
            if taken is None:
                unreadable += 1
            elif taken not in seen:  # a repeated picture is not a late one: what counts is when it first came
                seen.add(taken)
                ages.append(clock.elapsed_ms(taken, now))
    sys.stdout.buffer.write(
        orjson.dumps(
            {
                "pictures": len(ages),
                "unreadable": unreadable,
                "p50": median(ages) if ages else None,
                "p95": quantile(ages, 0.95),
                "max": max(ages, default=None),
            }
        )
    )


if __name__ == "__main__":
    main()
