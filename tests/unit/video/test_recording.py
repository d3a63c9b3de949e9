"""The names of recordings."""

from __future__ import annotations

from pathlib import Path

import pytest

from sentinel_pipeline.domain.errors import PublishError
from sentinel_pipeline.infrastructure.video.recording import next_target


@pytest.mark.parametrize(
    ("there", "taken"),
    [
        ([], "rec.a.mp4"),
        (["rec.a.mp4"], "rec.a-1.mp4"),
        (["rec.a.mp4", "rec.a-1.mp4", "rec.a-2.mp4"], "rec.a-3.mp4"),
        (["rec.a.mp4", "rec.a-2.mp4"], "rec.a-1.mp4"),
        (["rec.a-1.mp4"], "rec.a.mp4"),
        (["rec.a.mkv"], "rec.a.mp4"),
    ],
)
def test_a_recording_takes_the_next_free_name(tmp_path: Path, there: list[str], taken: str) -> None:
    """What has been recorded is never written over, whichever life of the program recorded it."""
    for name in there:
        (tmp_path / name).write_bytes(b"recorded")
    assert next_target(str(tmp_path / "rec.a.mp4")) == str(tmp_path / taken)


def test_a_file_without_content_is_used(tmp_path: Path) -> None:
    """An ffmpeg that ended before its first picture leaves an empty file; its name is not lost."""
    (tmp_path / "rec.ts").touch()
    assert next_target(str(tmp_path / "rec.ts")) == str(tmp_path / "rec.ts")


def test_a_file_url_names_a_recording_too(tmp_path: Path) -> None:
    """A ``file:`` URL becomes the path that it names, also when it needs a number."""
    (tmp_path / "a b.mkv").write_bytes(b"recorded")
    assert next_target(f"file://{tmp_path}/a%20b.mkv") == str(tmp_path / "a b-1.mkv")


@pytest.mark.parametrize("url", ["rtsp://h/rec.mp4", "srt://h:9000", "rtmps://h/live/a"])
def test_network_outputs_keep_their_address(url: str) -> None:
    """Only files are numbered."""
    assert next_target(url) == url


def test_a_folder_that_cannot_be_searched_is_named(tmp_path: Path) -> None:
    """A path through a file is an error of the output, with the reason, which is tried again."""
    (tmp_path / "file").touch()
    with pytest.raises(PublishError, match="Not a directory") as caught:
        next_target(str(tmp_path / "file" / "rec.mp4"))
    assert caught.value.remedy
