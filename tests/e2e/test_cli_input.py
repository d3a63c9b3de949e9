"""The command line on bad input and in awkward surroundings: one sentence, the remedy, the exit code, no traceback."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest
import yaml

from sentinel_pipeline.domain.events import Event, EventStage
from sentinel_pipeline.infrastructure.storage.outbox import SqliteOutbox
from support.program import COMMAND, sentinel


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A configuration with a camera password, and an outbox beside it with one event."""
    path = tmp_path / "sentinel.yaml"
    content = {
        "version": 1,
        "streams": {"gate": {"source": "rtsp://viewer:${CAMERA_PASSWORD_OF_THIS_TEST}@127.0.0.1:1/x"}},
        "outbox": {"path": "outbox.db"},
        "api": {"listen": "127.0.0.1:1", "token": "${API_TOKEN:-}"},
    }
    path.write_text(yaml.safe_dump(content))
    with SqliteOutbox(tmp_path / "outbox.db") as outbox:
        outbox.register(["vms"])
        outbox.append([Event("INTRUSION", EventStage.DETECTED, "gate", "rule", 1_732_406_400.0, event_id="one")])
    return path


def test_cli_asks_without_knowing_the_cameras_passwords(config: Path) -> None:
    """``events`` and ``status`` read their own section only, as from another shell; ``check`` wants everything."""
    listed = sentinel("events", "list", "--config", config)
    assert (listed.returncode, json.loads(listed.stdout)["event_id"]) == (0, "one")
    asked = sentinel("status", "--config", config)
    assert asked.returncode == 1
    assert "no program answers at 127.0.0.1:1" in asked.stderr
    checked = sentinel("check", config)
    assert checked.returncode == 2
    assert "${CAMERA_PASSWORD_OF_THIS_TEST:-…}" in checked.stderr, "the remedy must be readable: it is no credential"
    assert "${CAMERA_PASSWORD_OF_THIS_TEST:-…}" in json.loads(checked.stdout)["remedy"]


def test_cli_reports_faults_of_the_section_that_it_reads(config: Path) -> None:
    """A fault in the section is named with its line, exit code 2."""
    config.write_text(config.read_text().replace("127.0.0.1:1", "nowhere", 2))
    asked = sentinel("status", "--config", config)
    assert asked.returncode == 2
    assert json.loads(asked.stdout)["where"] == "api.listen"


def test_cli_shows_and_replays_as_json(config: Path) -> None:
    """``--json`` works for each of the ``events`` commands."""
    shown = sentinel("events", "show", "one", "--json", "--config", config)
    assert json.loads(shown.stdout)["event_id"] == "one"
    replayed = sentinel("events", "replay", "one", "--json", "--config", config)
    assert json.loads(replayed.stdout) == {"replayed": 1}
    assert sentinel("events", "dead", "--json", "--config", config).returncode == 0


def test_cli_resends_dead_letters(config: Path) -> None:
    """``--dead`` queues what a sink has refused, for that sink, and takes it out of the dead letters."""
    with SqliteOutbox(config.parent / "outbox.db") as outbox:
        outbox.register(["vms", "other"])
        refused = outbox.next_batch("vms", 10)
        assert refused is not None
        outbox.park(refused, "400: no")
    none = sentinel("events", "replay", "--dead", "--sink", "other", "--config", config)
    assert json.loads(none.stdout) == {"replayed": 0}
    again = sentinel("events", "replay", "--dead", "--sink", "vms", "--config", config)
    assert json.loads(again.stdout) == {"replayed": 1}
    assert sentinel("events", "dead", "--config", config).stdout == ""
    with SqliteOutbox(config.parent / "outbox.db") as outbox:
        batch = outbox.next_batch("vms", 10)
        assert batch is not None
        assert [json.loads(body)["event_id"] for body in batch.bodies] == ["one"]
        assert outbox.backlog("other").pending == 0


def test_cli_filters_by_stage_in_any_case(config: Path) -> None:
    """A stage that there is may be written small; one that there is not is refused instead of finding nothing."""
    found = sentinel("events", "list", "--stage", "detected", "--config", config)
    assert json.loads(found.stdout)["event_id"] == "one"
    wrong = sentinel("events", "list", "--stage", "detectd", "--config", config)
    assert (wrong.returncode, "confirmed" in wrong.stderr.lower()) == (2, True)


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("check", "rtsp://admin:s3cret-pw@10.0.0.1/x"), 2, "this is a URL, not a file"),
        (("run", "rtsp://admin:s3cret-pw@10.0.0.1/x"), 2, "this is a URL, not a file"),
        (("events", "list", "--limit", "9" * 20), 2, "--limit"),
        (("events", "show", "\udcff"), 1, "has no event"),
        (("events", "replay", "\udcff", "one"), 1, "has no event"),
        (("events", "replay", "one", "--sink", "nobody"), 1, "name one of: vms"),
        (("events", "replay"), 2, "or --dead"),
        (("events", "replay", "--dead", "one"), 2, "not both"),
        (("run", "{config}", "--report", "/nowhere/r.json"), 2, "the report cannot be written"),
    ],
    ids=lambda value: " ".join(value[:2]) if isinstance(value, tuple) else None,
)
def test_cli_says_what_is_wrong(config: Path, arguments: tuple[str, ...], code: int, said: str) -> None:
    """No traceback, no password."""
    filled = [argument.replace("{config}", str(config)) for argument in arguments]
    if filled[0] == "events":
        filled += ["--config", str(config)]
    done = sentinel(*filled, env={"CAMERA_PASSWORD_OF_THIS_TEST": "s3cret-pw"})
    assert (done.returncode, said in done.stderr) == (code, True), done.stderr
    assert not any(bad in done.stdout + done.stderr for bad in ("Traceback", "s3cret-pw"))


@pytest.mark.parametrize("command", ["check", "run"])
def test_cli_refuses_a_file_of_another_kind_as_outbox(config: Path, command: str) -> None:
    """A slip that names the configuration itself as outbox: exit code 2, path and remedy, the file untouched."""
    config.write_text(
        yaml.safe_dump(
            {
                "version": 1,
                "streams": {"a": {"source": "test:64x64@5"}},
                "outbox": {"path": config.name},
                "api": {"listen": "127.0.0.1:0"},
            }
        )
    )
    before = config.read_bytes()
    done = sentinel(command, config)
    assert (done.returncode, config.read_bytes()) == (2, before)
    assert f"{config} is a file of another kind, not an outbox" in done.stderr
    assert "name another file as outbox path" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("encoding", ["ascii", "utf-8"])
def test_cli_prints_json_whatever_the_encoding_of_the_output(tmp_path: Path, encoding: str) -> None:
    """A file name that is no UTF-8, and an output that is no Unicode: still one valid JSON line."""
    name = os.fsdecode(os.fsencode(tmp_path) + b"/\xff\xea\xb0\x80.yaml")
    done = sentinel("check", name, env={"PYTHONIOENCODING": encoding})
    assert done.returncode == 2
    assert json.loads(done.stdout)["file"] == name
    assert "Traceback" not in done.stderr


def test_cli_full_disk_is_one_sentence(config: Path) -> None:
    """Standard output and the report on a full disk: a sentence with the remedy, exit code 1."""
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [*COMMAND, "schema"], stdout=full, stderr=subprocess.PIPE, text=True, timeout=60, check=False
        )
    assert (done.returncode, done.stderr.splitlines()[0]) == (
        1,
        "error: the output cannot be written: No space left on device",
    )
    config.write_text(
        yaml.safe_dump({"version": 1, "streams": {"a": {"source": "test:64x64@5"}}, "api": {"listen": "127.0.0.1:0"}})
    )
    run = sentinel("run", config, "--duration", "500ms", "--report", "/dev/full")
    assert run.returncode == 1
    assert "the report cannot be written to /dev/full" in run.stderr
    assert "Traceback" not in run.stderr


def test_cli_reader_that_goes_away_is_no_crash() -> None:
    """``sentinel schema | head -1`` leaves no traceback."""
    with subprocess.Popen([*COMMAND, "schema"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        said = process.stderr.read()
        assert process.wait(30) in (0, 1)
    assert "Traceback" not in said
    assert "Exception" not in said
