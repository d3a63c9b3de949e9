"""``python -m sentinel_pipeline.lab``: the RTSP relay by itself, a tool for demos and tests.

For production use a media server such as MediaMTX.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
from collections.abc import Sequence

from sentinel_pipeline.domain.errors import SentinelError
from sentinel_pipeline.lab.rtsp_relay import RtspRelay

PASSWORD_VARIABLE = "SENTINEL_LAB_PASSWORD"  # noqa: S105 - the name of a variable


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the relay until SIGINT or SIGTERM; return the exit code: 0, 1 when it cannot listen, 2 for bad usage."""
    parser = _parser()
    options = parser.parse_args(arguments)
    credentials = None
    if options.user:
        if not os.environ.get(PASSWORD_VARIABLE):
            parser.error(f"--user needs a password in the environment variable {PASSWORD_VARIABLE}")
        credentials = {options.user: os.environ[PASSWORD_VARIABLE]}
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    relay = RtspRelay(
        options.host,
        options.port,
        credentials=credentials,
        auth=options.auth,
        guard=options.guard,
        allow_takeover=options.takeover,
    )
    try:
        with relay:
            sys.stdout.write(f"publish and play: {relay.url('NAME')} (stop: Ctrl-C)\n")
            sys.stdout.flush()
            stop.wait()
    except SentinelError as exc:
        sys.stderr.write(f"{exc}\n")
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m sentinel_pipeline.lab", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    parser.add_argument("--port", type=int, default=8554, help="TCP port, 0 for a free one (default: %(default)s)")
    parser.add_argument("--user", default="", help=f"user that clients need; the password is in ${PASSWORD_VARIABLE}")
    parser.add_argument("--auth", choices=("digest", "basic"), default="digest", help="default: %(default)s")
    parser.add_argument("--guard", choices=("both", "players", "publishers"), default="both", help="who needs it")
    parser.add_argument("--takeover", action="store_true", help="a second publisher replaces the first")
    return parser


if __name__ == "__main__":
    sys.exit(main())
