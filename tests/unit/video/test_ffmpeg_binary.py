"""Finding ffmpeg and asking what it can do."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

from sentinel_pipeline.domain.errors import ConfigError, PublishError
from sentinel_pipeline.infrastructure.video.ffmpeg_binary import ffmpeg_version, find_ffmpeg, probe_encoder


def _script(path: Path, text: str) -> Path:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def test_the_configured_binary_comes_first(tmp_path: Path) -> None:
    """A configured path is used although another ffmpeg is on PATH."""
    binary = _script(tmp_path / "my-ffmpeg", "exit 0")
    assert find_ffmpeg(str(binary)) == str(binary)


def test_a_configured_binary_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    """A wrong path is not silently replaced by another ffmpeg."""
    with pytest.raises(PublishError, match=r"not found at .*nowhere"):
        find_ffmpeg(str(tmp_path / "nowhere"))


def test_the_first_on_path_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a configured path the first ffmpeg on PATH is used."""
    binary = _script(tmp_path / "ffmpeg", "exit 0")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_ffmpeg() == str(binary)


def test_the_bundled_binary_is_used_when_there_is_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With nothing on PATH the binary of imageio-ffmpeg is used."""
    bundled = pytest.importorskip("imageio_ffmpeg").get_ffmpeg_exe()
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_ffmpeg() == bundled


def test_without_any_binary_the_error_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No ffmpeg at all is named with its remedy."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    with pytest.raises(PublishError, match=r"FFmpeg was not found .*apt-get install ffmpeg"):
        find_ffmpeg()


@pytest.mark.ffmpeg
def test_version_of_a_real_binary() -> None:
    """A real ffmpeg tells its version."""
    assert ffmpeg_version(find_ffmpeg())[0] in "456789nN"


def test_what_is_no_ffmpeg_is_refused(tmp_path: Path) -> None:
    """A program of another kind is not taken for ffmpeg."""
    with pytest.raises(PublishError, match="not a usable FFmpeg"):
        ffmpeg_version(str(_script(tmp_path / "ffmpeg", "echo hello world again")))


def test_a_hanging_binary_is_given_up(tmp_path: Path) -> None:
    """A binary that never answers does not hold anybody up."""
    sleep = shutil.which("sleep")
    with pytest.raises(PublishError, match=r"did not answer within 0\.2 s"):
        ffmpeg_version(str(_script(tmp_path / "ffmpeg", f"exec {sleep} 30")), timeout=0.2)


@pytest.mark.ffmpeg
def test_probe_encodes_a_picture() -> None:
    """libx264 works; an encoder that does not exist is refused with what ffmpeg said and a remedy."""
    binary = find_ffmpeg()
    probe_encoder(binary, "libx264")
    with pytest.raises(ConfigError, match=r"libnonsense.*Unknown encoder.*use codec libx264"):
        probe_encoder(binary, "libnonsense")
