"""Privacy in the configuration: which model finds what is hidden, and what is refused."""

from __future__ import annotations

import pytest

from sentinel_pipeline.domain.streams import PrivacySpec
from support.configs import Load, Problems, assert_refused, stream

PEOPLE = "analyse: {detect: {model: nanodet-g-416}}"


@pytest.mark.parametrize(
    ("text", "model"),
    [
        ("privacy: {blur: [face]}", "centerface"),
        (f"{PEOPLE}, privacy: {{blur: [face]}}", "centerface"),
        (f"{PEOPLE}, privacy: {{blur: [person]}}", "nanodet-g-416"),
        ("privacy: {blur: [person], model: nanodet-g-416-int8}", "nanodet-g-416-int8"),
    ],
    ids=["faces", "faces beside people", "what the analysis finds", "a model of its own"],
)
def test_config_privacy_knows_who_finds_what_is_hidden(text: str, model: str, load: Load) -> None:
    """Faces are found by the built-in model, others by the analysis's or the one that is named; it is loaded."""
    config = load(stream(text))
    privacy = config.streams[0].privacy
    assert privacy is not None
    assert privacy.model == model
    assert model in [spec.id for spec in config.models]


def test_config_privacy_has_defaults(load: Load) -> None:
    """Five looks a second, pixelated, with a lower threshold than the analysis; published 0.7 s late."""
    (made,) = load(stream("privacy: {blur: [face]}")).streams
    assert made.privacy == PrivacySpec(("face",), "centerface", "pixelate", 5.0, 0.3)
    assert made.privacy.delay == pytest.approx(0.7)


@pytest.mark.parametrize(
    ("text", "where", "message", "remedy"),
    [
        ("privacy: {blur: [person]}", "privacy.blur", "no model says where these are", "add `model:`"),
        (f"{PEOPLE}, privacy: {{blur: [persom]}}", "privacy.blur[0]", "is not a class of the model", "mean person"),
        (f"{PEOPLE}, privacy: {{blur: [face, person]}}", "privacy.blur[0]", "is not a class of the model", ""),
        ("privacy: {blur: [face], model: centreface}", "privacy.model", 'no model "centreface"', "mean centerface"),
        ("privacy: {blur: []}", "privacy.blur", "an empty list hides nothing", "such as [face]"),
        ("privacy: {}", "privacy.blur", "is missing", "[face]"),
        ("privacy: {blur: [face], method: mosaic}", "privacy.method", "is not possible here", "pixelate"),
    ],
)
def test_config_privacy_refuses_what_nobody_can_find(
    text: str, where: str, message: str, remedy: str, problems: Problems
) -> None:
    """A class that no model knows would never be hidden: it is refused, with the place and a way out."""
    assert_refused(problems, text, where, message, remedy)
