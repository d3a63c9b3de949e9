"""A program that emits as fast as it can and delivers to two receivers, to be killed: ``python event_child.py …``.

Prints ``id stream`` of each event, and only after ``emit`` has returned: what is printed is accepted.
"""

from __future__ import annotations

import random
import sys
import threading

import structlog

from sentinel_pipeline.application.event.delivery import DeliverySettings
from sentinel_pipeline.application.event.emitter import EventEmitter
from sentinel_pipeline.domain.events import Event, EventStage
from sentinel_pipeline.infrastructure.storage.outbox import SqliteOutbox
from sentinel_pipeline.infrastructure.transport.http_sink import HttpSink
from sentinel_pipeline.infrastructure.transport.ws_sink import WebSocketSink

SETTINGS = DeliverySettings(max_events=250, max_wait=0.01, base_delay=0.02, max_delay=0.1)
STREAMS = 4


def main(path: str, http: str, websocket: str, life: str, events: int) -> None:
    """Emit ``events`` events, deliver until killed, or until all is delivered when ``events`` is 0."""
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    transports = {
        "http": HttpSink(http, timeout=1.0),
        "live": WebSocketSink(websocket, reconnect_interval=0.05, ack_timeout=1.0, hello_wait=0.3, healthy_after=0.1),
    }
    speaking = threading.Lock()
    with (
        SqliteOutbox(path, keep=0) as outbox,
        EventEmitter(outbox, transports, dict.fromkeys(transports, SETTINGS)) as emitter,
    ):

        def produce(stream: str, chance: random.Random) -> None:
            number = 0
            while number < events // STREAMS:
                count = chance.choice((1, 3, 10, 30))
                batch = [
                    Event(
                        "X", EventStage.DETECTED, stream, "rule", ts=float(number + offset), details={"pad": "x" * 50}
                    )
                    for offset in range(count)
                ]
                number += count
                emitter.emit(batch)
                with speaking:
                    sys.stdout.write("".join(f"{event.event_id} {stream}\n" for event in batch))
                    sys.stdout.flush()

        threads = [
            threading.Thread(target=produce, args=(f"{life}-{n}", random.Random(f"{life}-{n}"))) for n in range(STREAMS)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if not emitter.flush(120 if not events else 600):
            raise SystemExit(f"not delivered: {emitter.snapshot()}")


if __name__ == "__main__":
    main(*sys.argv[1:5], int(sys.argv[5]))
