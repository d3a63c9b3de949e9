"""What holds for every file: only ConfigProblems is raised, and no secret is shown."""

from __future__ import annotations

import copy
import json
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sentinel_pipeline.interface.config import Config, ConfigProblems, json_schema, load_config

ENVIRON = {"SECRET": "s3cr3t-Zq9", "PATH": "/usr/bin"}
PLACES = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=50)


def known_words() -> list[str]:
    """Return every key and choice that the configuration's form knows."""
    words = {
        "zone",
        "line",
        "dwell",
        "http",
        "websocket",
        "test:",
        "${SECRET}",
        "rtsp://u:p@h/x",
        "5s",
        "coco",
        "1280x720",
    }
    schema = json_schema()
    for section in [schema, *schema["$defs"].values()]:
        for key, field in section["properties"].items():
            words.add(key)
            words.update(str(value) for option in field.get("anyOf", ()) for value in option.get("enum", ()))
    return sorted(words)


WORDS = st.sampled_from(known_words())
SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), WORDS, st.text(max_size=20), st.text("${}:-/@[]%", max_size=8)
)
TREES = st.recursive(
    SCALARS,
    lambda children: st.one_of(
        st.lists(children, max_size=4), st.dictionaries(st.one_of(WORDS, st.text(max_size=8)), children, max_size=6)
    ),
    max_leaves=30,
)

VALID: dict[str, Any] = {
    "version": 1,
    "models": {"m": {"builtin": "nanodet-g-416", "labels": ["person", "car"], "batch": {"max_size": 4}}},
    "streams": {
        "gate": {
            "source": "rtsp://u:p@h/x",
            "decode": {"backend": "pyav", "open_timeout": "5s"},
            "reconnect": {"max_retries": None},
            "analyse": {
                "fps": 5,
                "motion": {"enabled": True},
                "detect": {"model": "m", "classes": ["person"]},
                "rules": [
                    {"name": "a", "when": "zone", "polygon": [[0, 0], [1, 0], [1, 1]], "classes": ["person"]},
                    {"name": "b", "when": "line", "from": [0, 0], "to": [1, 1]},
                    {"name": "c", "when": "dwell", "polygon": [[0, 0], [1, 0], [1, 1]], "longer_than": "3s"},
                ],
            },
            "publish": {"url": "rtsp://h/y", "size": "1280x720", "bitrate": "2M"},
        }
    },
    "sinks": {
        "vms": {"type": "http", "url": "http://h/x", "headers": {"A": "b"}},
        "l": {"type": "websocket", "url": "ws://h"},
    },
    "outbox": {"path": "o.db", "max_size": "1GiB"},
    "api": {"listen": "127.0.0.1:80", "token": "t"},
    "runtime": {"workers": 1, "log": {"level": "info"}},
}


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the path of every value below."""
    if path:
        yield path
    entries = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for step, child in entries:
        yield from places(child, (*path, step))


def replaced(path: tuple[Any, ...], value: Any) -> dict[str, Any]:
    """Return VALID with another value at one place."""
    changed = copy.deepcopy(VALID)
    parent: Any = changed
    for step in path[:-1]:
        parent = parent[step]
    parent[path[-1]] = value
    return changed


ALL_PLACES = list(places(VALID))


def outcome(tmp_path: Path, text: str | bytes, name: str = "a.yaml") -> Config | ConfigProblems:
    """Load; anything but a configuration or ConfigProblems fails the test."""
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass"))
    try:
        return load_config(path, ENVIRON)
    except ConfigProblems as exc:
        problems = exc
    lines = path.read_bytes().count(b"\n") + 1
    assert problems.problems
    assert all(1 <= problem.line <= lines + 1 and problem.message for problem in problems.problems)
    return problems


def test_config_valid_base_is_valid(tmp_path: Path) -> None:
    """The file that the other properties spoil is usable before that."""
    assert isinstance(outcome(tmp_path, json.dumps(VALID), "a.json"), Config)


@PLACES
@given(st.one_of(st.text(), st.binary(), st.text("{}[]:,-\n \t'\"&*!|>%@`#?abc1.${}~<", max_size=40)))
def test_config_any_text_is_a_configuration_or_a_problem(tmp_path: Path, text: str | bytes) -> None:
    """Whatever bytes a file holds, nothing but ConfigProblems is raised."""
    outcome(tmp_path, text)


@PLACES
@given(TREES)
def test_config_any_structure_is_a_configuration_or_a_problem(tmp_path: Path, tree: Any) -> None:
    """Whatever a YAML file says, nothing but ConfigProblems is raised."""
    outcome(tmp_path, yaml.safe_dump(tree, allow_unicode=True))


@PLACES
@given(st.sampled_from(ALL_PLACES), TREES)
def test_config_any_value_anywhere_is_a_configuration_or_a_problem(
    tmp_path: Path, place: tuple[Any, ...], value: Any
) -> None:
    """Whatever stands in one place of an otherwise good JSON file, nothing but ConfigProblems is raised."""
    outcome(tmp_path, json.dumps(replaced(place, value), indent=1), "a.json")


def said(tmp_path: Path, tree: Any) -> str:
    """Return what is said about a file; nothing when it is usable."""
    result = outcome(tmp_path, json.dumps(tree, indent=1), "a.json")
    return everything_said(result) if isinstance(result, ConfigProblems) else ""


def everything_said(problems: ConfigProblems) -> str:
    """Return all text that could reach a log: messages, ``repr`` and the traceback with its causes."""
    return "".join(traceback.format_exception(problems)) + repr(problems) + repr(problems.problems)


@pytest.mark.parametrize(
    "written", ["${SECRET}", "x ${SECRET} y", "rtsp://u:${SECRET}@h:x/", "${file:secret}", "${U:-s3cr3t-Zq9}"]
)
def test_config_substituted_secret_is_never_shown(tmp_path: Path, written: str) -> None:
    """A secret from the environment, a file or a default, in any place of the file, is in no problem."""
    (tmp_path / "secret").write_text("s3cr3t-Zq9\n")
    refused = [place for place in ALL_PLACES if "Zq9" in said(tmp_path, replaced(place, written))]
    assert refused == []


@pytest.mark.parametrize("scheme", ["rtsp", "rtps", "", "rtsp:"])
def test_config_password_in_a_url_is_never_shown(tmp_path: Path, scheme: str) -> None:
    """A password in a URL, in any place of the file and however wrong the URL, is in no problem."""
    url = f"{scheme}://user:s3cr3t/Zq9@host:99999/a b"
    assert [place for place in ALL_PLACES if "Zq9" in said(tmp_path, replaced(place, url))] == []


SECRET_PLACES = [("api", "token"), ("sinks", "vms", "headers", "A"), ("sinks", "vms", "headers")]


@pytest.mark.parametrize("place", SECRET_PLACES, ids=str)
@pytest.mark.parametrize("value", ["Zq9 ö", ["Zq9"], {"Zq9://Zq9@": "Zq9"}, 'Zq9\n"', "*Zq9", 12345678909])
def test_config_plain_secret_is_never_shown(tmp_path: Path, place: tuple[Any, ...], value: Any) -> None:
    """A token that is written into the file itself is not shown when it is wrong."""
    text = said(tmp_path, replaced(place, value))
    assert "Zq9" not in text
    assert "12345678909" not in text


@pytest.mark.parametrize(
    "text",
    [
        "api: {token: *Zq9secret}",
        "api: {token: !Zq9secret x}",
        "api: {token: @Zq9secret}",
        "api: {token: 'Zq9secret}",
        "api: {token: Zq9: secret: x}",
        "api: {token: %Zq9secret}",
        'api: {token: "\\Zq9secret"}',
        "streams: {rtsp://u:Zq9@h/x: {}}",
        "rtsp://u:Zq9@h/x: {}\nrtsp://u:Zq9@h/x: {}",
        "api: {token: &Zq9+secret x}",
        "%Zq9secret\n",
        "token: Zq9\x01",
        "token: Zq9\n - x",
    ],
)
def test_config_secret_in_broken_yaml_is_never_shown(tmp_path: Path, text: str) -> None:
    """A token that breaks the YAML around it is not quoted in the explanation."""
    result = outcome(tmp_path, "version: 1\n" + text)
    assert isinstance(result, ConfigProblems)
    assert "Zq9" not in everything_said(result)
