"""An HTTP endpoint that says who watches the relay's paths, shaped like MediaMTX's ``/v3/paths/get/NAME``."""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sentinel_pipeline.lab.rtsp_relay import RtspRelay

PREFIX = "/v3/paths/get/"


class PathStatus:
    """Answers for a relay. ``fault``: a status to answer with instead; ``asked``: how many requests came."""

    def __init__(self, relay: RtspRelay) -> None:
        self.relay, self.fault, self.asked = relay, 0, 0
        self.authorization: str | None = None  # of the last request
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05})

    def url(self, name: str, who: str = "") -> str:
        """Return the address that tells about a path; ``who``: ``user:password@``."""
        return f"http://{who}127.0.0.1:{self._server.server_port}{PREFIX}{name}"

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """Stop; the port is closed then, and may be opened by nobody in the test's lifetime."""
        if self._thread.is_alive():
            self._server.shutdown()
            self._thread.join()
            self._server.server_close()

    def answer(self, path: str) -> tuple[int, dict[str, Any]]:
        """Return what MediaMTX would: a path without a publisher is not there."""
        self.asked += 1
        info = self.relay.paths().get(path.removeprefix(PREFIX))
        if self.fault:
            return self.fault, {"status": "error"}
        if info is None or not info.publishing:
            return 404, {"status": "error", "error": "path not found"}
        readers = [{"type": "rtspSession", "id": str(number)} for number in range(info.readers)]
        return 200, {"name": path.removeprefix(PREFIX), "ready": True, "readers": readers}

    def _handler(status) -> type[http.server.BaseHTTPRequestHandler]:  # noqa: N805 - the inner one has the self
        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                status.authorization = self.headers.get("Authorization")
                code, document = status.answer(self.path)
                body = json.dumps(document).encode()
                self.send_response(code)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *args: object) -> None:
                pass

        return Handler


@contextmanager
def path_status(relay: RtspRelay) -> Iterator[PathStatus]:
    """Run the endpoint of a relay."""
    status = PathStatus(relay)
    status.start()
    try:
        yield status
    finally:
        status.close()
