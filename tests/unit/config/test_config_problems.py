"""Broken configurations: each fault has its line, its path and a remedy, and all are named at once."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

from sentinel_pipeline.domain.errors import ConfigError
from sentinel_pipeline.interface.config import ConfigProblems, Problem, format_problems, load_config

Problems = Callable[..., tuple[Problem, ...]]

HEAD = """\
version: 1
models:
  people: {builtin: nanodet-g-416}
sinks:
  vms: {type: http, url: "http://vms.example/events"}
"""

# name, what is added to HEAD (the faulty line ends in `# <-`), the path, a piece of the message, a piece of the remedy
BROKEN = [
    (
        "misspelt key",
        "streams: {gate: {sourcex: 'test:', source: 'test:'}} # <-",
        "streams.gate.sourcex",
        "`sourcex` is not known",
        "did you mean source?",
    ),
    (
        "misspelt section",
        "streams: {gate: {source: 'test:'}}\nruntme: {} # <-",
        "runtme",
        "not known",
        "did you mean runtime?",
    ),
    (
        "key one level too high",
        "streams:\n  gate:\n    source: 'test:'\n    bitrate: 2M # <-",
        "streams.gate.bitrate",
        "not known",
        "belongs under `publish`",
    ),
    ("missing source", "streams:\n  gate: {} # <-", "streams.gate.source", "is missing", "add `source: rtsp://"),
    ("no camera", "streams: {} # <-", "streams", "no camera", "gate: {source"),
    ("no streams section", "# <-", "streams", "`streams` is missing", "add `streams:"),
    (
        "camera's URL misspelt",
        "streams: {gate: {source: 'rtps://10.0.0.5/x'}} # <-",
        "streams.gate.source",
        "cannot be reached by rtps://",
        "did you mean rtsps://?",
    ),
    (
        "URL without slashes",
        "streams: {gate: {source: 'rtsp:10.0.0.5'}} # <-",
        "streams.gate.source",
        "needs // after rtsp:",
        "rtsp://host/path",
    ),
    (
        "URL without a host",
        "streams: {gate: {source: 'rtsp:///x'}} # <-",
        "streams.gate.source",
        "names no host",
        "scheme://host",
    ),
    (
        "port out of range",
        "streams: {gate: {source: 'rtsp://a:99999/x'}} # <-",
        "streams.gate.source",
        "not a URL",
        "scheme://user",
    ),
    (
        "srt without a port",
        "streams: {gate: {source: 'srt://a'}} # <-",
        "streams.gate.source",
        "needs a port",
        "srt://host:port",
    ),
    (
        "footage missing",
        "streams: {gate: {source: clip.mp4}} # <-",
        "streams.gate.source",
        "neither a URL nor a file",
        "relative to",
    ),
    (
        "impossible test pattern",
        "streams: {gate: {source: 'test:641x480'}} # <-",
        "streams.gate.source",
        "not possible",
        "test:1280x720@25",
    ),
    (
        "no test pattern",
        "streams: {gate: {source: 'test:pattern'}} # <-",
        "streams.gate.source",
        "not a test pattern",
        "test:1280x720@25",
    ),
    (
        "control character in a URL",
        'streams: {gate: {source: "rtsp://h/a\\nb"}} # <-',
        "streams.gate.source",
        "control characters",
        "%20",
    ),
    (
        "no text at all",
        "streams: {gate: {source: ' '}} # <-",
        "streams.gate.source",
        "names no file",
        "write a path",
    ),
    (
        "not a number",
        "streams: {gate: {source: 'test:', analyse: {fps: .nan, detect: {model: people}}}} # <-",
        "streams.gate.analyse.fps",
        "nan is not a number",
        "plain number",
    ),
    (
        "API on no address",
        "streams: {gate: {source: 'test:'}}\napi: {listen: '[zz]:8080'} # <-",
        "api.listen",
        "not an address",
        "[::1]:8080",
    ),
    (
        "token with a space",
        "streams: {gate: {source: 'test:'}}\napi: {token: 'a b'} # <-",
        "api.token",
        "cannot carry",
        "without spaces",
    ),
    (
        "labels that are none",
        "streams: {gate: {source: 'test:'}}\nmodels: {mine: {builtin: centerface, labels: [yes, 1]}} # <-",
        "models.mine.labels",
        "are not labels",
        "quoted names",
    ),
    ("bad id", "streams: {'gate 1': {source: 'test:'}} # <-", "streams.gate 1", "is not an id", "letters, digits"),
    (
        "duration without a known unit",
        "streams:\n  gate:\n    source: 'test:'\n    decode: {read_timeout: 5 sec} # <-",
        "streams.gate.decode.read_timeout",
        '"5 sec" is not a duration',
        "500ms, 5s",
    ),
    (
        "duration out of range",
        "streams: {gate: {source: 'test:', decode: {open_timeout: 10}, reconnect: {base_delay: 10ms}}} # <-",
        "streams.gate.reconnect.base_delay",
        "less than 100ms",
        "from 100ms to 1h",
    ),
    (
        "first wait longer than the longest",
        "streams: {gate: {source: 'test:', reconnect: {base_delay: 1m}}} # <-",
        "streams.gate.reconnect.base_delay",
        "longer than the longest",
        "at most `max_delay`",
    ),
    (
        "fraction of a frame",
        "streams: {gate: {source: 'test:', decode: {buffer_size: 1.5}}} # <-",
        "streams.gate.decode.buffer_size",
        "not a whole number",
        "whole number",
    ),
    (
        "truth value for a number",
        "streams: {gate: {source: 'test:', reconnect: {max_retries: true}}} # <-",
        "streams.gate.reconnect.max_retries",
        "true is not a whole number",
        "whole number",
    ),
    (
        "misspelt choice",
        "streams: {gate: {source: 'test:', decode: {transport: tpc}}} # <-",
        "streams.gate.decode.transport",
        '"tpc" is not possible',
        "did you mean tcp?",
    ),
    (
        "text for a section",
        "streams: {gate: {source: 'test:', decode: fast}} # <-",
        "streams.gate.decode",
        '"fast" is not a mapping',
        "key: value",
    ),
    (
        "number for text",
        "streams: {gate: {source: 'test:'}}\napi: {token: 0123} # <-",
        "api.token",
        "not text",
        "in quotes",
    ),
    (
        "analysis without a model",
        "streams: {gate: {source: 'test:', analyse: {fps: 5}}} # <-",
        "streams.gate.analyse.detect",
        "is missing",
        "add `detect: {model:",
    ),
    (
        "frame rate out of range",
        "streams: {gate: {source: 'test:', analyse: {fps: 0, detect: {model: people}}}} # <-",
        "streams.gate.analyse.fps",
        "0 is less than 0.01",
        "from 0.01 to 120",
    ),
    (
        "unknown model",
        "streams: {gate: {source: 'test:', analyse: {detect: {model: peple}}}} # <-",
        "streams.gate.analyse.detect.model",
        'no model "peple"',
        "did you mean people?",
    ),
    (
        "unknown class",
        "streams: {gate: {source: 'test:', analyse: {detect: {model: people, classes: [prson]}}}} # <-",
        "streams.gate.analyse.detect.classes[0]",
        "not a class of the model",
        "did you mean person?",
    ),
    (
        "a class that is not a list",
        "streams: {gate: {source: 'test:', analyse: {detect: {model: people, classes: person}}}} # <-",
        "streams.gate.analyse.detect.classes",
        "is not a list",
        "[one, two]",
    ),
    (
        "output that cannot be reached",
        "streams: {gate: {source: 'test:', publish: {url: 'http://a/b'}}} # <-",
        "streams.gate.publish.url",
        "cannot be reached by http://",
        "rtsp://",
    ),
    (
        "output to an unknown file type",
        "streams: {gate: {source: 'test:', publish: {url: out.avi}}} # <-",
        "streams.gate.publish.url",
        "nothing can be published",
        ".mp4, .mkv or .ts",
    ),
    (
        "output to a missing folder",
        "streams: {gate: {source: 'test:', publish: {url: 'missing/out.mp4'}}} # <-",
        "streams.gate.publish.url",
        "folder of this file",
        "create it",
    ),
    (
        "publishing to the source",
        "streams: {gate: {source: 'rtsp://u:p@A/x', publish: {url: 'rtsp://a:554/x/'}}} # <-",
        "streams.gate.publish.url",
        "where the stream comes from",
        "another path",
    ),
    (
        "two streams to one output",
        "streams:\n  a: {source: 'test:', publish: {url: 'rtsp://h/x'}}\n"
        "  b: {source: 'test:', publish: {url: 'rtsp://h:554/x'}} # <-",
        "streams.b.publish.url",
        "stream a publishes to this",
        "of its own",
    ),
    (
        "odd size",
        "streams: {gate: {source: 'test:', publish: {url: 'rtsp://h/x', size: 1281x720}}} # <-",
        "streams.gate.publish.size",
        "odd width",
        "1280x720",
    ),
    (
        "bit rate in the wrong unit",
        "streams: {gate: {source: 'test:', publish: {url: 'rtsp://h/x', bitrate: 2}}} # <-",
        "streams.gate.publish.bitrate",
        "less than 10k",
        "from 10k to 200M",
    ),
    (
        "model from nowhere",
        "streams: {gate: {source: 'test:'}}\nmodels:\n  mine: # <-",
        "models.mine",
        "neither `builtin` nor `path`",
        "add `path:",
    ),
    (
        "model from two places",
        "streams: {gate: {source: 'test:'}}\nmodels:\n  mine: {builtin: centerface, path: m.onnx} # <-",
        "models.mine.path",
        "not both",
        "remove `builtin` or `path`",
    ),
    (
        "unknown built-in model",
        "streams: {gate: {source: 'test:'}}\nmodels: {mine: {builtin: nanodet}} # <-",
        "models.mine.builtin",
        "not a built-in model",
        "did you mean nanodet-g-416?",
    ),
    (
        "model file missing",
        "streams: {gate: {source: 'test:'}}\nmodels: {mine: {path: mine.onnx}} # <-",
        "models.mine.path",
        'no file "mine.onnx"',
        "relative to",
    ),
    (
        "not a model file",
        "streams: {gate: {source: 'test:'}}\nmodels: {mine: {path: site.yaml}} # <-",
        "models.mine.path",
        "not the name of a model file",
        ".onnx",
    ),
    (
        "labels file missing",
        "streams: {gate: {source: 'test:'}}\nmodels: {mine: {builtin: centerface, labels: l.txt}} # <-",
        "models.mine.labels",
        'no file "l.txt"',
        "relative to",
    ),
    (
        "digest too short",
        "streams: {gate: {source: 'test:'}}\nmodels: {mine: {builtin: centerface, sha256: 'abc'}} # <-",
        "models.mine.sha256",
        "not a SHA-256",
        "sha256sum",
    ),
    (
        "built-in model read in another way",
        "streams: {gate: {source: 'test:'}}\nmodels: {mine: {builtin: centerface, family: yolov8}} # <-",
        "models.mine.family",
        "read as centerface",
        "remove `family`",
    ),
    (
        "TensorRT on the CPU",
        "streams: {gate: {source: 'test:'}}\nmodels: {mine: {builtin: centerface, tensorrt: yes, device: cpu}} # <-",
        "models.mine.tensorrt",
        "not used with `device: cpu`",
        "device: auto",
    ),
    (
        "sink of the wrong type",
        "streams: {gate: {source: 'test:'}}\nsinks: {live: {type: http, url: 'wss://h/x'}} # <-",
        "sinks.live.url",
        "cannot be reached by wss://",
        "type: websocket",
    ),
    (
        "sink without a type",
        "streams: {gate: {source: 'test:'}}\nsinks: {live: {url: 'wss://h/x'}} # <-",
        "sinks.live.type",
        "`type` is missing",
        "http, mqtt or websocket",
    ),
    (
        "misspelt type of a sink",
        "streams: {gate: {source: 'test:'}}\nsinks: {live: {type: webscket, url: 'wss://h/x'}} # <-",
        "sinks.live.type",
        "not possible",
        "did you mean websocket?",
    ),
    (
        "sink with the name of the program's own",
        "streams: {gate: {source: 'test:'}}\nsinks: {sync: {type: http, url: 'http://h/x'}} # <-",
        "sinks.sync",
        "sync is taken",
        "another id",
    ),
    (
        "two credentials of a sink",
        "streams: {gate: {source: 'test:'}}\n"
        "sinks: {a: {type: http, url: 'http://u:p@h/x', headers: {authorization: Bearer x}}} # <-",
        "sinks.a.url",
        "two credentials",
        "keep one",
    ),
    (
        "empty variable in a header",
        "streams: {gate: {source: 'test:'}}\n"
        "sinks: {a: {type: http, url: 'http://h/x', headers: {X-Token: 'Bearer ${NO:-}'}}} # <-",
        "sinks.a.headers.X-Token",
        "white space",
        "variable",
    ),
    (
        "API open to everyone",
        "streams: {gate: {source: 'test:'}}\napi: {listen: '0.0.0.0:8080', token: '${NO:-}'} # <-",
        "api.listen",
        "without a token",
        "127.0.0.1",
    ),
    (
        "API on a bare port",
        "streams: {gate: {source: 'test:'}}\napi: {listen: ':8080'} # <-",
        "api.listen",
        "not an address",
        "127.0.0.1:8080",
    ),
    (
        "outbox is a folder",
        "streams: {gate: {source: 'test:'}}\noutbox: {path: .} # <-",
        "outbox.path",
        "is a folder",
        "name a file",
    ),
    (
        "size without a unit",
        "streams: {gate: {source: 'test:'}}\noutbox: {max_size: 512} # <-",
        "outbox.max_size",
        "less than 1MiB",
        "from 1MiB to 1TiB",
    ),
    (
        "ffmpeg missing",
        "streams: {gate: {source: 'test:'}}\nruntime: {ffmpeg: ./ffmpeg} # <-",
        "runtime.ffmpeg",
        "no such program",
        "remove `ffmpeg`",
    ),
    (
        "variable not set",
        "streams: {gate: {source: 'rtsp://u:${GATE_PASSWORD}@h/x'}} # <-",
        "streams.gate.source",
        "GATE_PASSWORD is not set",
        "${GATE_PASSWORD:-…}",
    ),
]

RULES = [
    ("kind missing", "{name: a, polygon: [[0,0],[1,0],[1,1]]}", ".when", "`when` is missing", "dwell, line or zone"),
    ("kind misspelt", "{name: a, when: zome}", ".when", "not possible", "did you mean zone?"),
    ("two points", "{name: a, when: zone, polygon: [[0,0],[1,1]]}", ".polygon", "2 points", "at least three"),
    ("pixels", "{name: a, when: zone, polygon: [[0,0],[640,0],[640,480]]}", ".polygon", "outside", "from 0 to 1"),
    ("no area", "{name: a, when: zone, polygon: [[0,0],[0.5,0.5],[1,1]]}", ".polygon", "no area", "one line"),
    ("no point", "{name: a, when: line, from: 0.5, to: [1, 1]}", ".from", "not a point", "[x, y]"),
    ("no length", "{name: a, when: line, from: [0, 1], to: [0, 1]}", ".to", "ends where it begins", "move one"),
    (
        "key of another kind",
        "{name: a, when: line, from: [0,0], to: [1,1], polygon: []}",
        ".polygon",
        "not known",
        "from",
    ),
    (
        "time missing",
        "{name: a, when: dwell, polygon: [[0,0],[1,0],[1,1]]}",
        ".longer_than",
        "missing",
        "longer_than: 30s",
    ),
    ("bad event", "{name: a, when: line, from: [0,0], to: [1,1], event: a b}", ".event", "event type", "INTRUSION"),
    (
        "class that is not detected",
        "{name: a, when: line, from: [0,0], to: [1,1], classes: [dog]}",
        ".classes[0]",
        "not in `detect.classes`",
        "add it",
    ),
    (
        "class that the model does not know",
        "{name: a, when: line, from: [0,0], to: [1,1], classes: [persn]}",
        ".classes[0]",
        "not a class of the model",
        "did you mean person?",
    ),
]


def merged(extra: str) -> str:
    """Put HEAD before what a case adds; a section that the case has itself is taken out of HEAD."""
    head = HEAD
    for section in re.findall(r"^(\w+):", extra, flags=re.MULTILINE):
        head = re.sub(rf"^{section}:.*\n(  .*\n)*", "", head, flags=re.MULTILINE)
    return head + extra + "\n"


def line_of(text: str) -> int:
    return next(number for number, line in enumerate(text.splitlines(), 1) if "# <-" in line)


@pytest.mark.parametrize(
    ("extra", "where", "message", "remedy"), [case[1:] for case in BROKEN], ids=[c[0] for c in BROKEN]
)
def test_config_fault_is_named_with_line_and_remedy(
    extra: str, where: str, message: str, remedy: str, problems: Problems
) -> None:
    """One fault in a file is reported at its line and path, with a sentence and a remedy."""
    text = merged(extra)
    (found,) = problems(text)
    expected = 1 if where == "streams" and "missing" in message else line_of(text)
    assert (found.line, found.where) == (expected, where), str(found)
    assert message in found.message, str(found)
    assert remedy in found.remedy, str(found)


@pytest.mark.parametrize(
    ("rule", "where", "message", "remedy"), [case[1:] for case in RULES], ids=[c[0] for c in RULES]
)
def test_config_rule_fault_is_named_with_line_and_remedy(
    rule: str, where: str, message: str, remedy: str, problems: Problems
) -> None:
    """One fault in a rule is reported at its line, inside that rule."""
    text = merged(
        "streams:\n  gate:\n    source: 'test:'\n    analyse:\n      detect: {model: people, classes: [person]}\n"
        f"      rules:\n        - {{name: fine, when: line, from: [0, 0], to: [1, 1]}}\n        - {rule} # <-"
    )
    found = next(problem for problem in problems(text) if problem.where == f"streams.gate.analyse.rules[1]{where}")
    assert (found.line, message in found.message, remedy in found.remedy) == (line_of(text), True, True), str(found)


def test_config_two_rules_of_one_name(problems: Problems) -> None:
    """The second rule of a name is refused: events could not be told apart."""
    rule = "{name: a, when: line, from: [0, 0], to: [1, 1]}"
    text = merged(
        "streams: {gate: {source: 'test:', analyse: {detect: {model: people},\n"
        f" rules: [{rule},\n {rule}]}}}}}} # <-"
    )
    (found,) = problems(text)
    assert (found.line, found.where) == (line_of(text), "streams.gate.analyse.rules[1].name")


def test_config_line_rule_without_tracking(problems: Problems) -> None:
    """A line rule with tracking switched off could never fire, so it is refused."""
    text = merged(
        "streams: {gate: {source: 'test:', analyse: {detect: {model: people}, track: {enabled: false},\n"
        " rules: [{name: a, when: line, from: [0, 0], to: [1, 1]}]}}} # <-"
    )
    (found,) = problems(text)
    assert (found.line, "tracking is off" in found.message) == (line_of(text), True)


TEN_FAULTS = """\
version: 1
models:
  people: {builtin: nanodet-g-417}
  mine: {path: missing.onnx}
streams:
  gate:
    sourcex: rtsp://10.0.0.5/stream1
    source: rtsp://viewer:${GATE_PASSWORD}@10.0.0.5/stream1
    decode: {transport: upd, open_timeout: ten}
    analyse:
      detect: {model: peple, confidence: 40}
      rules:
        - {name: zone, when: zone, polygon: [[0, 0], [1, 1]]}
    publish: {url: "rtsp://127.0.0.1/gate", size: 1281x720}
sinks:
  vms: {type: http, url: "ws://vms.example/events"}
api: {listen: "0.0.0.0:8080"}
"""


def test_config_names_all_faults_at_once(problems: Problems) -> None:
    """A file with a dozen faults of all kinds gets all of them in one go, in the order of the file, and no others."""
    found = problems(TEN_FAULTS)
    assert [(problem.line, problem.where) for problem in found] == [
        (3, "models.people.builtin"),
        (4, "models.mine.path"),
        (7, "streams.gate.sourcex"),
        (8, "streams.gate.source"),
        (9, "streams.gate.decode.transport"),
        (9, "streams.gate.decode.open_timeout"),
        (11, "streams.gate.analyse.detect.model"),
        (11, "streams.gate.analyse.detect.confidence"),
        (13, "streams.gate.analyse.rules[0].polygon"),
        (14, "streams.gate.publish.size"),
        (16, "sinks.vms.url"),
        (17, "api.listen"),
    ]
    assert all(problem.remedy for problem in found)


UNSUPPORTED = [
    ("streams.gate.analyse.modules", "analyse: {detect: {model: people}, modules: [{use: 'a.b:C'}]}"),
    ("streams.gate.decode.hwaccel", "decode: {hwaccel: vaapi}"),
]


@pytest.mark.parametrize(("where", "feature"), UNSUPPORTED, ids=[where for where, _ in UNSUPPORTED])
def test_config_refuses_what_this_version_cannot_do(where: str, feature: str, problems: Problems) -> None:
    """A feature of a later version is refused with an honest sentence rather than ignored."""
    (found,) = problems(merged(f"streams: {{gate: {{source: 'test:', {feature}}}}}"))
    assert (found.where, found.message.startswith("not in this version"), "remove it" in found.remedy) == (
        where,
        True,
        True,
    )


def test_config_refuses_families_and_workers_of_a_later_version(tmp_path: Path, problems: Problems) -> None:
    """A model family without its decoder and more than one worker process are refused."""
    (tmp_path / "m.onnx").touch()
    text = "models: {m: {path: m.onnx, family: detr}}\nstreams: {gate: {source: 'test:'}}\nruntime: {workers: 4}"
    found = problems(merged(text))
    assert [(problem.where, problem.message[:19]) for problem in found] == [
        ("models.m.family", "not in this version"),
        ("runtime.workers", "not in this version"),
    ]


def test_config_problems_read_like_a_compiler(tmp_path: Path) -> None:
    """The text of the error has a line per problem that editors can jump to, and the exception is a ConfigError."""
    path = tmp_path / "site.yaml"
    path.write_text("version: 2\nstreams: {gate: {source: 'test:'}}\n")
    with pytest.raises(ConfigError) as caught:
        load_config(path, {})
    assert isinstance(caught.value, ConfigProblems)
    line = f"{path}:1:10: version: this program reads version 1 of the configuration (write `version: 1`)"
    assert format_problems(caught.value.problems) == line
    assert str(caught.value) == f"1 problem in the configuration\n{line}"


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (b"", "no labels"),
        (b"a\n\nb\n", "line 2 of the file is empty"),
        (b"a\na\n", "twice"),
        (b"\xff", "not UTF-8"),
        (b"x" * (1024 * 1024 + 1), "larger than"),
    ],
)
def test_config_unusable_labels_files(labels: bytes, message: str, tmp_path: Path, problems: Problems) -> None:
    """A labels file that cannot be meant is refused with the reason."""
    (tmp_path / "labels.txt").write_bytes(labels)
    text = "models: {m: {builtin: centerface, labels: labels.txt}}\nstreams: {gate: {source: 'test:'}}"
    (found,) = problems(merged(text))
    assert (found.where, message in found.message) == ("models.m.labels", True)


def test_config_json_problems_have_lines_too(problems: Problems) -> None:
    """A fault in a JSON file is found on its line."""
    text = textwrap.dedent(
        """\
        {
        \t"version": 1,
        \t"streams": {"gate": {
        \t\t"source": "test:", "fsp": 1
        \t}}
        }
        """
    )
    (found,) = problems(text, name="site.json")
    assert (found.line, found.where) == (4, "streams.gate.fsp")
