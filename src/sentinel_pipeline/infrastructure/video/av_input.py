"""What FFmpeg has to be told to open a source, by the form of its URL.

``rtsp(s)://`` ``rtmp(s)://`` ``http(s)://`` ``srt://`` ``udp://`` ``tcp://``  the network
``/path/to/file`` ``file:relative.mp4`` ``file:///percent%20encoded.mp4``      a file, played as a camera plays
``test:1280x720@25``  ``test:``                                                a moving test pattern
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from urllib.parse import unquote, urlsplit

from sentinel_pipeline.domain.credentials import normalise_url
from sentinel_pipeline.domain.errors import StreamRefused
from sentinel_pipeline.domain.redact import redact

NETWORK_SCHEMES = frozenset({"rtsp", "rtsps", "rtmp", "rtmps", "http", "https", "srt", "udp", "tcp"})
_RTSP = frozenset({"rtsp", "rtsps"})
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.\-]*)://")
_TEST = re.compile(r"test:(?:(?P<width>\d{2,4})x(?P<height>\d{2,4}))?(?:@(?P<fps>\d{1,3}))?")


@dataclass(frozen=True, slots=True)
class AvInput:
    """Arguments for ``av.open``.

    paced: the source has no clock of its own and is played by its timestamps.
    child: PyAV's FFmpeg has no such protocol: a child reads it, and ``format`` is what the child passes on.
    unparsed: packets come as the network brought them (``access_units``).
    """

    url: str = field(repr=False)  # may carry a password
    scheme: str
    format: str | None = None
    options: dict[str, str] = field(default_factory=dict)
    paced: bool = False
    child: bool = False
    unparsed: bool = False


def av_input(url: str, transport: str = "tcp", *, unparsed: bool = False) -> AvInput:
    """Return how to open ``url``, ``unparsed`` if it is RTSP and that is wanted.

    Raises ``StreamRefused`` for a URL that this program does not read.
    """
    scheme = scheme_of(url)
    if scheme == "test":
        return _test_pattern(url)
    if scheme == "file":
        return AvInput(f"file:{_path(url)}", "file", paced=True)
    if scheme not in NETWORK_SCHEMES:
        known = ", ".join(sorted(NETWORK_SCHEMES))
        raise StreamRefused(f"cannot read {redact(url)}: unknown scheme", remedy=f"use one of {known}, file or test")
    if scheme == "srt":
        # The child has probed it already.
        return AvInput(normalise_url(url), scheme, "nut", {"probesize": "32", "analyzeduration": "0"}, child=True)
    options = _options(scheme, transport)
    unparsed = unparsed and scheme in _RTSP
    if unparsed:
        # Neither for the frame rate nor for a timestamp does probing read a packet: FFmpeg's parser, where it turns out
        # to be needed, gets the first one.
        options |= {"fflags": "noparse", "fpsprobesize": "0", "max_ts_probe": "0"}
    return AvInput(normalise_url(url), scheme, options=options, unparsed=unparsed)


def scheme_of(url: str) -> str:
    """Return the scheme of ``url`` in lower case: ``file`` for a path, ``test`` for the test pattern."""
    if url.startswith("test:"):
        return "test"
    found = _SCHEME.match(url)
    return found[1].lower() if found else "file"


def _test_pattern(url: str) -> AvInput:
    found = _TEST.fullmatch(url)
    if not found:
        raise StreamRefused(f"cannot read {url!r} as a test pattern", remedy="write it as test:1280x720@25")
    width, height, fps = found["width"] or "1280", found["height"] or "720", found["fps"] or "25"
    graph = f"testsrc2=size={width}x{height}:rate={max(1, int(fps))},format=yuv420p"
    return AvInput(graph, "test", format="lavfi", paced=True)


def _path(url: str) -> str:
    if not url.startswith("file:"):
        return url
    return unquote(urlsplit(url).path) if url.startswith("file://") else url.removeprefix("file:")


def _options(scheme: str, transport: str) -> dict[str, str]:
    if scheme not in _RTSP:
        # These formats have to be recognised from their data: a second of it is enough.
        return {"probesize": "1000000", "analyzeduration": "1000000"}
    options = {
        "rtsp_transport": transport,
        "allowed_media_types": "video",  # do not even ask for audio and metadata
        # The SDP says what the stream is; probing would only hold the first frame back by 2 to 3 seconds.
        "probesize": "32",
        "analyzeduration": "0",
        # Not fflags=nobuffer: it throws away what probing read, and that is the key frame with which servers begin.
    }
    if transport == "udp":
        options["buffer_size"] = "2097152"  # a key frame comes in one burst; the kernel may grant less
    return options
