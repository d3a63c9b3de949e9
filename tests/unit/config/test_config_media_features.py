"""Decoding less, several addresses, and publishing for an audience: what the configuration takes and refuses."""

from __future__ import annotations

from pathlib import Path

import pytest

from sentinel_pipeline.domain.streams import PublishSpec
from support.configs import Load, Problems, assert_refused, stream

MOTION = "analyse: {motion: {enabled: true}, detect: {model: nanodet-g-416}}"


@pytest.mark.parametrize("skip", ["none", "nonref", "idle"])
def test_config_media_takes_every_way_of_decoding_less(skip: str, load: Load) -> None:
    """Each value of ``decode.skip`` arrives."""
    assert load(stream(f"decode: {{skip: {skip}}}, {MOTION}")).streams[0].decode.skip == skip


@pytest.mark.parametrize(
    ("text", "where", "message", "remedy"),
    [
        ("decode: {skip: idle}", "decode.skip", "without the motion gate", "analyse.motion.enabled: true"),
        (
            "decode: {skip: idle}, analyse: {detect: {model: nanodet-g-416}}",
            "decode.skip",
            "without the motion gate",
            "analyse.motion.enabled: true",
        ),
        (f"decode: {{skip: idle, backend: opencv}}, {MOTION}", "decode.skip", "OpenCV cannot", "remove `backend"),
        ("decode: {skip: nonref, backend: opencv}", "decode.skip", "OpenCV cannot", "write `skip: none`"),
        ("decode: {skip: nonkey}", "decode.skip", "is not possible here", "did you mean none"),
        ("publish: {url: 'rtsp://h/x', when: watched}", "publish.when", "nobody says who watches", "v3/paths/get"),
        ("publish: {url: out.mp4, when: watched, watch: {url: 'http://h/'}}", "publish.when", "a file", "always"),
        ("publish: {url: 'rtsp://h/x', watch: {}}", "publish.watch.url", "is missing", "http://127.0.0.1:9997"),
        (
            "publish: {url: 'rtsp://h/x', watch: {url: 'rtsp://h/x'}}",
            "publish.watch.url",
            "cannot be reached by rtsp://",
            "http:// or https://",
        ),
        ("publish: {url: []}", "publish.url", "is not an address", "a list of URLs"),
        ("publish: {url: [1]}", "publish.url", "is not an address", "a list of URLs"),
        ("publish: {url: {a: b}}", "publish.url", "is not an address", "a list of URLs"),
        (
            "publish: {url: ['rtsp://h/x', 'http://h/y']}",
            "publish.url",
            "address 2 of the list: an output cannot be reached by http://",
            "rtsp://",
        ),
        ("publish: {url: ['rtsp://h/x', 'rtsp://H:554/x/']}", "publish.url[1]", "is in the list twice", "remove one"),
        ("publish: {url: ['rtsp://h/x', missing/a.mp4]}", "publish.url[1]", "folder of this file", "create it"),
        ("publish: {url: [a.mp4, a-1.mp4]}", "publish.url[1]", "a.mp4 and this file are numbered", "a number alone"),
        ("publish: {url: [a-23.mp4, a.mp4]}", "publish.url[1]", "and this file are numbered", "a number alone"),
    ],
)  # fmt: skip
def test_config_media_refuses_what_cannot_work(
    text: str, where: str, message: str, remedy: str, problems: Problems
) -> None:
    """Each impossible combination is one problem, at its place, with a remedy."""
    assert_refused(problems, text, where, message, remedy)


def test_config_media_several_addresses_arrive(load: Load, tmp_path: Path) -> None:
    """The first of a list is the main one; files are made absolute and passwords percent-encoded, as ever."""
    assert load(stream("publish: {url: [a.mp4, a-1.mkv, a-b.mp4, b-1.mp4, 'rtsp://h/a.mp4', 'rtsp://h/a-1.mp4']}"))
    made = load(stream("publish: {url: ['rtsp://u:p@ss@h/x', 'rtmp://h/live/x', out.mkv]}"))
    spec = made.streams[0].publish
    assert spec is not None
    assert spec == PublishSpec("rtsp://u:p%40ss@h/x", also=("rtmp://h/live/x", str(tmp_path / "out.mkv")))
    assert spec.urls == (spec.url, *spec.also)
    assert "p%40ss" not in repr(spec)


def test_config_media_two_streams_may_not_share_any_address(problems: Problems) -> None:
    """Also an address inside a list belongs to one stream only."""
    (found,) = problems(
        "version: 1\nstreams:\n"
        "  a: {source: 'test:', publish: {url: ['rtsp://h/x', 'rtsp://h/y']}}\n"
        "  b: {source: 'test:', publish: {url: ['rtsp://h/z', 'rtsp://h/y']}}\n"
    )
    assert (found.where, "the stream a publishes" in found.message) == ("streams.b.publish.url[1]", True)


@pytest.mark.parametrize(
    ("watch", "asked"),
    [
        ("'http://u:s3cret@h:9997/v3/paths/get/gate'", ("http://u:s3cret@h:9997/v3/paths/get/gate",)),
        ("['http://h/1', 'https://h/2']", ("http://h/1", "https://h/2")),
    ],
)
def test_config_media_audience_arrives(watch: str, asked: tuple[str, ...], load: Load) -> None:
    """Whom to ask arrives with ``watched``, is no part of any text that is shown, and is left alone with ``always``."""
    for when, expected in (("watched", asked), ("always", ())):
        spec = load(stream(f"publish: {{url: 'rtsp://h/x', when: {when}, watch: {{url: {watch}}}}}")).streams[0].publish
        assert spec is not None
        assert (spec.when, spec.watch) == (when, expected)
        assert "s3cret" not in repr(spec)


def test_config_media_secrets_of_a_list_are_not_shown(problems: Problems) -> None:
    """A fault in a list of addresses names the number of the address, never its text."""
    (found,) = problems(stream("publish: {url: ['rtsp://h/x', 'gopher://u:s3cret@h/y']}"))
    assert "s3cret" not in f"{found.message} {found.remedy}"
