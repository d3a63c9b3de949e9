"""What is kept of ffmpeg's stderr."""

from __future__ import annotations

from sentinel_pipeline.infrastructure.video.ffmpeg_log import FFmpegLog

REFUSED = b"""\
Input #0, nut, from 'pipe:0':
[rtsp @ 0x55d0c8a3b2c0] method ANNOUNCE failed: 401 Unauthorized
Could not write header for output file #0 (incorrect codec parameters ?): Server returned 401 Unauthorized
Error initializing output stream 0:0 --\x20
Conversion failed!
"""


def test_the_cause_is_found_among_its_consequences() -> None:
    """The reason of an exit is the server's answer with a remedy, not the last line."""
    log = FFmpegLog()
    log.feed(REFUSED, 0.0)
    assert log.cause() == "method ANNOUNCE failed: 401 Unauthorized (check user and password of the output URL)"


def test_lines_may_come_in_any_pieces() -> None:
    """Reads end anywhere; lines are put together again, with the unfinished last one at the end."""
    whole, pieces = FFmpegLog(), FFmpegLog()
    text = REFUSED + b"last words"
    whole.feed(text, 0.0)
    for i in range(len(text)):
        pieces.feed(text[i : i + 1], 0.0)
    whole.end(0.0)
    pieces.end(0.0)
    assert list(pieces.lines) == list(whole.lines)
    assert pieces.lines[-1] == "last words"


def test_no_password_is_kept_or_reported() -> None:
    """The output's URL, which ffmpeg repeats in its complaints, loses its password, also in a line that is cut."""
    seen: list[str] = []
    log = FFmpegLog(lambda line, _: seen.append(line))
    padding = b"x" * 480
    log.feed(
        b"Output #0, rtsp, to 'rtsp://user:hunter2@host/a':\n" + padding + b" rtsp://user:hunter2@host/b: failed\n", 0.0
    )
    assert log.opened
    assert len(log.lines) == 2
    assert "hunter2" not in " ".join([*log.lines, *seen, log.cause()])
    assert "hunt" not in log.lines[-1]


def test_the_output_counts_as_open_when_ffmpeg_says_so() -> None:
    """Only the line about the output, which comes after its header was accepted, counts as open."""
    log = FFmpegLog()
    log.feed(b"Input #0, nut, from 'pipe:0':\n  Stream #0:0: Video: h264\n", 0.0)
    assert not log.opened
    log.feed(b"Output #0, rtsp, to 'rtsp://host/a':\n", 0.0)
    assert log.opened


def test_reports_are_rate_limited_and_count_what_they_leave_out() -> None:
    """A talkative ffmpeg cannot flood the log: one line, then the next one after the interval with the count."""
    reports: list[tuple[str, int]] = []
    log = FFmpegLog(lambda line, left_out: reports.append((line, left_out)), per_second=2.0)
    for i in range(100):
        log.feed(f"line {i}\n".encode(), i * 0.01)
    assert reports == [("line 0", 0), ("line 50", 49)]
    assert list(log.lines) == [f"line {i}" for i in range(80, 100)]


def test_a_line_without_an_end_is_bounded() -> None:
    """Garbage without line ends does not grow without limit."""
    log = FFmpegLog()
    for _ in range(40):
        log.feed(b"z" * 4096, 0.0)
    assert all(len(line) <= 500 for line in log.lines)
    assert len(log.lines) == 2


def test_statistics_are_no_cause() -> None:
    """FFmpeg's closing statistics say "unknown" in passing; the signal that ended it is the cause."""
    log = FFmpegLog()
    log.feed(b"Exiting normally, received signal 15.\n", 0.0)
    log.feed(b"video:10kB audio:0kB subtitle:0kB other streams:0kB global headers:0kB muxing overhead: unknown\n", 0.1)
    assert log.cause() == "Exiting normally, received signal 15."
    quiet = FFmpegLog()
    quiet.feed(b"frame=  100 fps= 25 q=-1.0 Lsize=N/A time=00:00:04.00 bitrate=N/A error\nvideo:1kB unknown\n", 0.0)
    assert quiet.cause() == ""
