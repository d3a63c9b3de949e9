"""What FFmpeg's errors mean for a stream, in words for the operator.

PyAV's exceptions carry the whole URL, password included. So nothing of them is passed on but the error's own text,
and the errors made here are raised outside the ``except`` block: as a cause or a context FFmpeg's would still reach a
traceback.
"""

from __future__ import annotations

from av import error

from sentinel_pipeline.domain.errors import StreamEnded, StreamError, StreamRefused
from sentinel_pipeline.domain.redact import redact

# The first class that fits decides. The number is the status that the answer had, where it had one.
_REFUSALS: tuple[tuple[type[error.FFmpegError], int | None, str], ...] = (
    (error.HTTPUnauthorizedError, 401, "check the user name and the password in the source URL"),
    (error.HTTPForbiddenError, 403, "the account may not watch this stream: check its rights at the camera"),
    (error.HTTPNotFoundError, 404, "check the path in the source URL; the camera's manual or ONVIF names it"),
    (error.HTTPOtherClientError, None, "the camera does not take this request: try decode.transport tcp or udp"),
    (error.HTTPBadRequestError, 400, "the camera does not take this request: check the source URL"),
    (error.ProtocolNotFoundError, None, "this build of FFmpeg does not read such URLs"),
    (error.FileNotFoundError, None, "check the path"),
    (error.PermissionError, None, "check who may read the file"),
    (error.IsADirectoryError, None, "name a file"),
    (error.DecoderNotFoundError, None, "set the camera to H.264 or H.265"),
)
_FAILURES: tuple[tuple[type[error.FFmpegError], str], ...] = (
    (error.HTTPError, "the camera or the server in front of it has a problem; restart it if this stays"),
    (error.ConnectionRefusedError, "check the address and the port, and that the camera is up"),
    (error.ConnectionResetError, "the camera hung up; it may allow fewer viewers than it has"),
    (error.BrokenPipeError, "the camera hung up; it may allow fewer viewers than it has"),
    (error.TimeoutError, "check the address, the network and that the camera is on"),
    (error.InvalidDataError, "what answers is no video stream that FFmpeg knows: check the URL"),
    (error.OSError, "check that the host name resolves and that the network reaches it"),
)


def explain(exc: Exception, doing: str) -> StreamError:
    """Return the error to raise in place of FFmpeg's; ``doing`` completes "cannot …", free of credentials."""
    answer = redact(getattr(exc, "strerror", None) or type(exc).__name__)
    for kind, status, remedy in _REFUSALS:
        if isinstance(exc, kind):
            return StreamRefused(f"cannot {doing}: {answer}", remedy=remedy, status=status)
    if isinstance(exc, error.EOFError):
        return StreamEnded(f"cannot {doing}: the stream ended")
    for kind, remedy in _FAILURES:
        if isinstance(exc, kind):
            return StreamError(f"cannot {doing}: {answer}", remedy=remedy)
    return StreamError(f"cannot {doing}: {answer}")
