"""GStreamer's RTSP server as a child process: a camera (``play``) or a recorder (``record``).

Run by the system's own interpreter, because Debian's GObject bindings live outside of virtual environments:

    gst_rtsp_server.py play    with {"launch": "( … name=pay0 )", "user": …, "password": …, "method": …}
    gst_rtsp_server.py record  with {"file": "/where/to/keep/what/arrives.h264"}

The settings are one line of JSON on stdin, so that a password is in no process title; all but ``launch`` are optional.
Listens on a free port of 127.0.0.1, path ``/stream``. Speaks JSON lines on stdout, ``{"event": "ready", "port": …}``
first, then whatever happens. Ends when its stdin is closed, so that it cannot outlive the test that started it.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import gi

gi.require_version("Gst", "1.0")
gi.require_version("GstRtsp", "1.0")
gi.require_version("GstRtspServer", "1.0")
from gi.repository import GLib, Gst, GstRtsp, GstRtspServer  # noqa: E402 - the versions must be chosen first

PATH = "/stream"
ROLE = "viewer"
# One buffer per access unit: the parser finds out where a picture ends, whatever the packets look like.
RECORD = "( rtph264depay name=depay0 ! h264parse ! video/x-h264,stream-format=byte-stream,alignment=au ! {sink} )"


def say(event: str, **more: Any) -> None:
    print(json.dumps({"event": event, **more}), flush=True)


def protect(
    server: GstRtspServer.RTSPServer, factory: GstRtspServer.RTSPMediaFactory, settings: dict[str, str]
) -> None:
    """Let only the given user in, by the given method (``basic`` or ``digest``)."""
    token = GstRtspServer.RTSPToken()
    token.set_string("media.factory.role", ROLE)
    auth = GstRtspServer.RTSPAuth()
    if settings["method"] == "digest":
        auth.set_supported_methods(GstRtsp.RTSPAuthMethod.DIGEST)
        auth.add_digest(settings["user"], settings["password"], token)
    else:
        auth.set_supported_methods(GstRtsp.RTSPAuthMethod.BASIC)
        auth.add_basic(GstRtspServer.RTSPAuth.make_basic(settings["user"], settings["password"]), token)
    server.set_auth(auth)
    permissions = GstRtspServer.RTSPPermissions()
    permissions.add_permission_for_role(ROLE, "media.factory.access", True)
    permissions.add_permission_for_role(ROLE, "media.factory.construct", True)
    factory.set_permissions(permissions)


def camera(settings: dict[str, str]) -> GstRtspServer.RTSPMediaFactory:
    factory = GstRtspServer.RTSPMediaFactory()
    factory.set_launch(settings["launch"])
    factory.set_shared(True)
    return factory


class Counter:
    """Counts what one publisher sends: pictures, bytes, size, and how many of the pictures are key frames."""

    def __init__(self) -> None:
        self._frames = self._keyframes = self._bytes = 0
        self._size = (0, 0)
        self._first = self._last = 0.0

    def probe(self, pad: Gst.Pad, info: Gst.PadProbeInfo) -> Gst.PadProbeReturn:
        """Run in GStreamer's streaming thread, for each access unit."""
        buffer = info.get_buffer()
        now = time.monotonic()
        self._first = self._first or now
        self._last = now
        self._frames += 1
        self._keyframes += not buffer.has_flags(Gst.BufferFlags.DELTA_UNIT)
        self._bytes += buffer.get_size()
        caps = pad.get_current_caps()
        if caps is not None:
            structure = caps.get_structure(0)
            self._size = (structure.get_value("width") or 0, structure.get_value("height") or 0)
        self.report("frames")
        return Gst.PadProbeReturn.OK

    def report(self, event: str) -> None:
        say(
            event,
            frames=self._frames,
            keyframes=self._keyframes,
            bytes=self._bytes,
            width=self._size[0],
            height=self._size[1],
            seconds=round(self._last - self._first, 3),
        )


def recorder(settings: dict[str, str]) -> GstRtspServer.RTSPMediaFactory:
    factory = GstRtspServer.RTSPMediaFactory()
    kept = settings.get("file")
    sink = f"filesink location={json.dumps(kept)} buffer-mode=unbuffered" if kept else "fakesink"
    factory.set_launch(RECORD.format(sink=f"{sink} name=counter sync=false"))
    factory.set_transport_mode(GstRtspServer.RTSPTransportMode.RECORD)
    factory.set_latency(50)

    def configure(_: GstRtspServer.RTSPMediaFactory, media: GstRtspServer.RTSPMedia) -> None:
        counter = Counter()
        sink = media.get_element().get_by_name("counter")
        sink.get_static_pad("sink").add_probe(Gst.PadProbeType.BUFFER, counter.probe)
        say("publishing")
        media.connect("unprepared", lambda _: counter.report("ended"))

    factory.connect("media-configure", configure)
    return factory


def serve(mode: str, settings: dict[str, str]) -> None:
    loop = GLib.MainLoop()
    server = GstRtspServer.RTSPServer()
    server.set_address("127.0.0.1")
    server.set_service("0")
    factory = camera(settings) if mode == "play" else recorder(settings)
    if settings.get("user"):
        protect(server, factory, settings)
    server.get_mount_points().add_factory(PATH, factory)
    if server.attach(None) == 0:
        raise SystemExit("GStreamer's RTSP server cannot listen on 127.0.0.1")
    # Closing stdin is the request to end; a parent that is killed closes it as well.
    GLib.io_add_watch(sys.stdin.fileno(), GLib.PRIORITY_DEFAULT, GLib.IO_HUP | GLib.IO_IN, lambda *_: loop.quit())
    say("ready", port=server.get_bound_port())
    loop.run()


if __name__ == "__main__":
    Gst.init(None)
    serve(sys.argv[1], json.loads(sys.stdin.readline()))
