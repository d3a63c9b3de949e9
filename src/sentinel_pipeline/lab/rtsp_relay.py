"""An RTSP relay for demos, tests and benchmarks: publishers push streams in, players pull them out; it can misbehave.

It is no media server for production (MediaMTX is one): no TLS, no recording, one session per connection.
"""

from __future__ import annotations

import functools
import os
import threading
from collections.abc import Callable, Collection, Mapping
from types import TracebackType
from urllib.parse import quote

from sentinel_pipeline.domain.errors import SentinelError
from sentinel_pipeline.lab.loop_thread import CLOSE_DEADLINE_S, LoopThread
from sentinel_pipeline.lab.rtsp_auth import Auth, Guard
from sentinel_pipeline.lab.rtsp_context import RelaySettings, Transport
from sentinel_pipeline.lab.rtsp_faults import PathFaults
from sentinel_pipeline.lab.rtsp_path import PathInfo, RelayPath
from sentinel_pipeline.lab.rtsp_server import RtspServer

_NOTHING = PathInfo(publishing=False, readers=0, packets_in=0, bytes_in=0, packets_out=0, dropped=0)
_WILDCARDS = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - clients need a real address


class RtspRelay:
    """A relay with an event loop in a thread of its own, from ``start`` (or ``with``) to ``close``.

    The same URL takes ANNOUNCE/RECORD from one publisher and DESCRIBE/PLAY from many players, each over interleaved
    TCP or UDP. A player that is too slow loses packets and delays nobody. When a publisher ends, its players'
    connections are closed. See ``RelaySettings`` for the parameters. All methods may be called from any thread.
    """

    def __init__(
        self,
        host: str = "127.0.0.1",
        port: int = 0,
        *,
        credentials: Mapping[str, str] | None = None,
        auth: Auth = "digest",
        guard: Guard = "both",
        allow_takeover: bool = False,
        transports: Collection[Transport] = ("tcp", "udp"),
        session_timeout_s: float = 60.0,
        write_buffer_bytes: int = 4 * 1024 * 1024,
    ) -> None:
        self._settings = RelaySettings(
            host=host,
            port=port,
            credentials=credentials,
            auth=auth,
            guard=guard,
            allow_takeover=allow_takeover,
            transports=frozenset(transports),
            session_timeout_s=session_timeout_s,
            write_buffer_bytes=write_buffer_bytes,
        )
        self._thread = LoopThread("rtsp-relay")
        self._changed = threading.Condition()
        self._server = RtspServer(self._settings, self._notify)

    def __enter__(self) -> RtspRelay:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def start(self) -> None:
        """Listen. Raises ``SentinelError`` when the port is taken or the address is not ours."""
        self._thread.start()
        try:
            self._thread.run(self._server.start)
        except OSError as exc:
            self._thread.close()
            where, reason = f"{self._settings.host}:{self._settings.port}", os.strerror(exc.errno or 0)
            raise SentinelError(
                f"the RTSP relay cannot listen on {where}: {reason}",
                remedy="stop the program that uses the port, or choose another (0 takes a free one)",
            ) from exc
        except BaseException:
            self._thread.close()
            raise

    def close(self) -> None:
        """Close all connections and end the thread, within 2 s; may be called more than once."""
        try:
            self._thread.run(self._server.close, deadline_s=CLOSE_DEADLINE_S)
        except SentinelError:
            return  # it does not run: never started, or closed already
        finally:
            self._thread.close()

    @property
    def port(self) -> int:
        """The port that the relay listens on, 0 before it does."""
        return self._server.port

    def url(self, name: str, *, user: str = "", password: str = "") -> str:
        """Return the URL of a path for publishers and players, with percent-encoded credentials when given."""
        host = _WILDCARDS.get(self._settings.host, self._settings.host)
        address = f"[{host}]" if ":" in host else host
        login = f"{quote(user, safe='')}:{quote(password, safe='')}@" if user else ""
        return f"rtsp://{login}{address}:{self.port}/{quote(name.strip('/'))}"

    def paths(self) -> dict[str, PathInfo]:
        """Return every path that has had a publisher or a fault, as it is now."""
        return self._thread.call(lambda: {name: path.info() for name, path in self._server.context.paths.items()})

    def wait_for_publisher(self, name: str, timeout: float) -> PathInfo:
        """Wait until the path can be played. Raises ``TimeoutError`` after ``timeout`` seconds."""
        return self._wait(name, timeout, "a publisher", lambda info: info.publishing)

    def wait_for_reader(self, name: str, timeout: float, *, readers: int = 1) -> PathInfo:
        """Wait until at least ``readers`` players play. Raises ``TimeoutError`` after ``timeout`` seconds."""
        return self._wait(name, timeout, f"{readers} reader(s)", lambda info: info.readers >= readers)

    def wait_until_idle(self, name: str, timeout: float) -> PathInfo:
        """Wait until the path has neither publisher nor players. Raises ``TimeoutError`` after ``timeout`` seconds."""
        return self._wait(name, timeout, "nobody", lambda info: not info.publishing and not info.readers)

    def faults(self, name: str) -> PathFaults:
        """Return the commands that make a path misbehave."""
        return PathFaults(functools.partial(self._on_path, name.strip("/")), self._server.context.path)

    def mute_all(self) -> None:
        """Accept TCP connections and answer no request at all, whatever the path; what plays already goes on."""
        self._thread.call(functools.partial(self._mute, muted=True))

    def resume_all(self) -> None:
        """Undo ``mute_all``."""
        self._thread.call(functools.partial(self._mute, muted=False))

    def _mute(self, *, muted: bool) -> None:
        self._server.context.muted = muted

    def _on_path(self, name: str, work: Callable[[RelayPath], None]) -> None:
        self._thread.call(lambda: work(self._server.context.path(name)))

    def _notify(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def _wait(self, name: str, timeout: float, what: str, reached: Callable[[PathInfo], bool]) -> PathInfo:
        def info() -> PathInfo:
            path = self._server.context.paths.get(name.strip("/"))  # one look-up, and counters of one writer each
            return path.info() if path is not None else _NOTHING

        self._thread.check_running()
        with self._changed:
            if not self._changed.wait_for(lambda: reached(info()), timeout):
                raise TimeoutError(f"path {name!r} did not get {what} within {timeout} s: {info()}")
            return info()
