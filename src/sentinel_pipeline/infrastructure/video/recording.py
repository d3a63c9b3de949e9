"""Names of recordings: what an earlier ffmpeg, of this or another run of the program, has written is kept."""

from __future__ import annotations

from itertools import chain, count
from pathlib import Path

from sentinel_pipeline.domain.errors import PublishError
from sentinel_pipeline.infrastructure.video.ffmpeg_command import file_path, is_file


def next_target(url: str) -> str:
    """Return where the next ffmpeg writes that publishes to ``url``: there, if it is no file.

    The path of a file output is taken when nothing has been recorded in it yet; else ``rec-1.mp4``, ``rec-2.mp4``, …
    beside ``rec.mp4``. Nothing is created: names of outputs must not differ by such a number alone (the configuration
    sees to it).
    Raises ``PublishError`` when the folder cannot be searched.
    """
    if not is_file(url):
        return url
    path = Path(file_path(url))
    names = chain([path], (path.with_name(f"{path.stem}-{number}{path.suffix}") for number in count(1)))
    return str(next(name for name in names if not _recorded(name)))


def _recorded(path: Path) -> bool:
    try:
        return path.stat().st_size > 0
    except FileNotFoundError:
        return False
    except OSError as exc:
        raise PublishError(f"cannot record to {path}: {exc.strerror}", remedy="check the path and its rights") from exc
