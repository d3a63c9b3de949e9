"""What a child ffmpeg says on stderr, kept short and clean: the only place where it explains its end."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable

from sentinel_pipeline.domain.redact import redact

_LINES_KEPT = 20
_LINE_LIMIT = 500  # characters
_BUFFER_LIMIT = 64 * 1024  # bytes of a line that never ends
_PREFIX = re.compile(r"^\[[^\]]* @ 0x[0-9a-f]+\]\s*")
_STATISTICS = re.compile(r"^(video:|frame= *\d)")  # at its end, with "muxing overhead: unknown"
_OPENED = re.compile(r"^Output #0,")
# The first line that matches the earliest pattern is the cause; the lines after it are its consequences.
_CAUSES = (
    re.compile(r"\b[45]\d\d [A-Z]\w+|Server returned|authoriz|rejected|denied", re.IGNORECASE),
    re.compile(r"refused|timed out|reset by peer|broken pipe|unreachable|no route|not found|no such", re.IGNORECASE),
    re.compile(r"received signal"),  # somebody ended it: then nothing is wrong, and nothing else is said
    re.compile(r"unknown|unrecognized|not supported|cannot|invalid|error|failed", re.IGNORECASE),
)
_REMEDIES = (
    (re.compile(r"\b40[13]\b|authoriz|denied", re.IGNORECASE), "check user and password of the output URL"),
    (re.compile(r"\b404\b", re.IGNORECASE), "check the path of the output URL"),
    (re.compile(r"refused|unreachable|no route", re.IGNORECASE), "check that the media server is running"),
)


class FFmpegLog:
    """The last lines of stderr, redacted. Bytes come in, in any pieces; one thread only.

    report: called with a clean line and the number of lines left out before it, at most ``per_second`` times a second.
    """

    def __init__(self, report: Callable[[str, int], None] | None = None, per_second: float = 2.0) -> None:
        self.lines: deque[str] = deque(maxlen=_LINES_KEPT)
        self.opened = False  # the server has accepted the stream
        self._report = report
        self._interval = 1 / per_second
        self._next_report = float("-inf")
        self._left_out = 0
        self._rest = b""

    def feed(self, data: bytes, now: float) -> None:
        """Take what was read. ``now``: monotonic seconds, for the rate of reports only."""
        *lines, self._rest = re.split(rb"[\r\n]+", self._rest + data)
        if len(self._rest) > _BUFFER_LIMIT:
            lines, self._rest = [*lines, self._rest], b""
        for line in lines:
            self._add(line, now)

    def end(self, now: float) -> None:
        """Take the last line even when it has no line end."""
        rest, self._rest = self._rest, b""
        self._add(rest, now)

    def _add(self, raw: bytes, now: float) -> None:
        # Redacted before it is cut: half of a URL would not be recognised as one.
        text = redact(raw.decode("utf-8", "replace")).strip()
        if not text:
            return
        # FFmpeg dumps the output ("Output #0, rtsp, to …") only after its header was written, for RTSP after RECORD.
        self.opened = self.opened or _OPENED.match(text) is not None
        line = _PREFIX.sub("", text)[:_LINE_LIMIT]
        self.lines.append(line)
        if self._report is None:
            return
        if now < self._next_report:
            self._left_out += 1
            return
        self._report(line, self._left_out)
        self._left_out, self._next_report = 0, now + self._interval

    def cause(self) -> str:
        """Return the line that best explains a failure, with a remedy where one is known; empty when nothing does."""
        for pattern in _CAUSES:
            for line in self.lines:
                if pattern.search(line) and not _STATISTICS.match(line):
                    return _with_remedy(line)
        return ""


def _with_remedy(line: str) -> str:
    for pattern, remedy in _REMEDIES:
        if pattern.search(line):
            return f"{line} ({remedy})"
    return line
