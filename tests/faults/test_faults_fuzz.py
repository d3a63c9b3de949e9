"""Random configurations, answers, messages and payloads: only errors that a person can read, and no hang."""

from __future__ import annotations

import asyncio
import json
import math
import random
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import yaml

from faults.notebook import Notebook
from faults.scale import scaled
from sentinel_pipeline.application.ports import Batch
from sentinel_pipeline.domain.errors import StreamError, TransportError
from sentinel_pipeline.domain.events import Event, EventStage
from sentinel_pipeline.domain.redact import redact
from sentinel_pipeline.infrastructure.transport.http_sink import HttpSink
from sentinel_pipeline.infrastructure.transport.responses import check, refusal
from sentinel_pipeline.infrastructure.transport.ws_messages import Ack, Hello, read_message
from sentinel_pipeline.infrastructure.video.ffmpeg_log import FFmpegLog
from sentinel_pipeline.infrastructure.video.pyav_source import PyAVSource
from sentinel_pipeline.interface.config import ConfigProblems, load_config

pytestmark = [pytest.mark.timeout(1200)]

EXAMPLE = Path(__file__).parents[2] / "examples" / "sentinel.yaml"
ODD_NUMBERS = [0, -1, 1, 2**31, 2**63, 2**64, 1e308, float("inf"), float("nan"), -0.0, 0.1]
ODD_TEXTS = [
    "",
    " ",
    "\0",
    "\ud7ff",
    "🎥",
    "null",
    "5s",
    "-5s",
    "1e999",
    "${",
    "${X:-}",
    "${file:/}",
    "rtsp://",
    "a" * 3000,
]


class Dice:
    """A seeded source of odd values; the same seed gives the same run."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)

    def text(self, longest: int = 30) -> str:
        if self.random.random() < 0.3:
            return self.random.choice(ODD_TEXTS)
        alphabet = self.random.choice(
            ["abcdefgh", "0123456789.-+eE", "\t\r\n :/@%#?&=", "é漢🎥\u202e\x00\x7f", "{}[]\",'\\"]
        )
        return "".join(self.random.choice(alphabet) for _ in range(self.random.randrange(longest)))

    def value(self, depth: int = 3) -> Any:
        kind = self.random.randrange(8 if depth else 5)
        if kind == 0:
            return self.random.choice(ODD_NUMBERS)
        if kind == 1:
            return self.random.choice([None, True, False])
        if kind < 5:
            return self.text()
        if kind < 7:
            return {self.text(10): self.value(depth - 1) for _ in range(self.random.randrange(4))}
        return [self.value(depth - 1) for _ in range(self.random.randrange(4))]

    def mutated(self, data: bytes) -> bytes:
        changed = bytearray(data)
        for _ in range(self.random.choice([1, 1, 2, 5, 20])):
            at = self.random.randrange(len(changed) + 1)
            match self.random.randrange(4):
                case 0:
                    changed[at:at] = self.random.randbytes(self.random.randrange(1, 8))
                case 1:
                    del changed[at : at + self.random.randrange(1, 30)]
                case 2:
                    changed[at : at + 1] = self.random.randbytes(1)
                case _:
                    changed[at:at] = changed[: self.random.randrange(40)]
        return bytes(changed)


def places(node: Any) -> list[tuple[Any, Any]]:
    """Return every (container, key) of a document."""
    found = []
    keys = list(node) if isinstance(node, dict) else list(range(len(node))) if isinstance(node, list) else []
    for key in keys:
        found.append((node, key))
        found += places(node[key])
    return found


def test_random_configurations_are_refused_in_words(tmp_path: Path, notebook: Notebook) -> None:
    """A configuration is loaded, or refused by ``ConfigProblems`` with a place and a sentence; nothing else is raised.

    pain 31: passwords with @ # ! ^ fail, each tool differently.
    """
    dice, count = Dice(1), scaled(300, 12_000)
    good = EXAMPLE.read_text()
    path = tmp_path / "sentinel.yaml"
    refused = 0
    for turn in range(count):
        if turn % 3 == 0:
            path.write_bytes(dice.mutated(good.encode()))
        else:
            document = yaml.safe_load(good)
            for _ in range(dice.random.randrange(1, 4)):
                container, key = dice.random.choice(places(document))
                if dice.random.random() < 0.2 and isinstance(container, dict):
                    container[dice.text(10)] = dice.value()
                else:
                    container[key] = dice.value()
            path.write_text(json.dumps(document) if turn % 2 else yaml.safe_dump(document, allow_unicode=True))
        try:
            load_config(path, {"SECRET": "s3cr3t"})
        except ConfigProblems as exc:
            problems = exc
        else:
            continue
        refused += 1
        assert problems.problems
        assert "s3cr3t" not in str(problems)
    assert refused > count // 2
    notebook.figure("random configurations: tracebacks", "0", f"0 of {count:,} ({refused:,} refused in words)")


HEADERS = ["retry-after", "date", "location", "content-type", "content-length", "x"]


def test_random_answers_of_a_receiver_have_a_verdict(notebook: Notebook) -> None:
    """Any status with any headers and body is a delivery or a ``TransportError`` with a bounded wait."""
    dice, count = Dice(2), scaled(3000, 40_000)
    for _ in range(count):
        status = dice.random.choice([200, 204, 301, 400, 401, 404, 408, 410, 413, 425, 429, 500, 501, 503, 599, 999])
        headers = {dice.random.choice(HEADERS): dice.text(40) for _ in range(3)}
        if dice.random.random() < 0.3:
            headers["retry-after"] = str(dice.random.choice(ODD_NUMBERS))
        judge = check if dice.random.random() < 0.5 else _refuse
        try:
            judge(status, headers, 1.7e9, host="vms", detail=dice.text(200))
        except TransportError as exc:
            verdict = exc
        else:
            continue
        wait = getattr(verdict, "retry_after_s", None)
        assert wait is None or 0 <= wait <= 86_400
        assert len(str(verdict)) < 1000
    notebook.figure("random answers of a receiver: tracebacks", "0", f"0 of {count:,}")


def _refuse(status: int, headers: dict[str, str], now: float, *, host: str, detail: str) -> None:
    raise refusal(status, headers, now, host=host, detail=detail)


def test_random_event_payloads(notebook: Notebook) -> None:
    """What can be an event survives the wire unchanged; what cannot is a ``ValueError``, from any bytes."""
    dice, count = Dice(3), scaled(3000, 30_000)
    for turn in range(count):
        if turn % 2:
            wire = Event("X", EventStage.DETECTED, "gate", "rule", ts=1.0, details={"a": [1, {"b": "c"}]}).encode()
            with suppress(ValueError):
                Event.from_wire(dice.mutated(wire))
            continue
        details = {dice.text(10): dice.value() for _ in range(dice.random.randrange(4))}
        try:
            event = Event(dice.text(), EventStage.CLEARED, dice.text(), dice.text(), ts=1.5, details=details)
            body = event.encode()
        except (ValueError, TypeError):
            continue
        again = Event.from_wire(body)
        assert (again.event_id, again.type, again.stream_id) == (event.event_id, event.type, event.stream_id)
        if not _has_odd_float(details):
            assert again.details == json.loads(json.dumps(details))
    notebook.figure("random event payloads: tracebacks", "0", f"0 of {count:,}")


def _has_odd_float(value: Any) -> bool:
    if isinstance(value, float):
        return not math.isfinite(value)
    if isinstance(value, dict):
        return any(map(_has_odd_float, value.values()))
    return isinstance(value, list) and any(map(_has_odd_float, value))


def test_random_messages_of_a_websocket(notebook: Notebook) -> None:
    """Any message is read or is a ``ValueError``; no message acknowledges what it does not name."""
    dice, count = Dice(4), scaled(3000, 20_000)
    for turn in range(count):
        if turn % 2:
            raw: str | bytes = dice.mutated(json.dumps({"type": "ack", "ids": ["a", "b"]}).encode())
        else:
            raw = json.dumps({"type": dice.random.choice(["hello", "ack", "ping", 7]), "ids": dice.value()})
        try:
            message = read_message(raw)
        except ValueError:
            continue
        assert isinstance(message, Hello | Ack | dict)
        if isinstance(message, Ack):
            text = raw.decode(errors="replace") if isinstance(raw, bytes) else raw
            assert all(i.isprintable() is False or i in text or "\\" in text for i in message.ids)
    notebook.figure("random WebSocket messages: tracebacks", "0", f"0 of {count:,}")


def test_random_words_of_ffmpeg(notebook: Notebook) -> None:
    """Any bytes on FFmpeg's standard error are read; its memory of them stays small.

    pain 29: stderr fills up and bricks the stream.
    """
    dice, count = Dice(5), scaled(2000, 10_000)
    log = FFmpegLog()
    for turn in range(count):
        log.feed(dice.random.randbytes(dice.random.randrange(300)), turn / 100)
        assert len(log.cause()) < 3000
    log.end(count / 100)
    notebook.figure("random bytes on FFmpeg's stderr: tracebacks", "0", f"0 of {count:,}")


SDP = (
    b"v=0\r\no=- 0 0 IN IP4 0.0.0.0\r\ns=x\r\nt=0 0\r\nm=video 0 RTP/AVP 96\r\na=rtpmap:96 H264/90000\r\n"
    b"a=fmtp:96 packetization-mode=1\r\na=control:trackID=0\r\n"
)
PACKET = b"$\x00\x00\x10\x80\x60\x00\x01\x00\x00\x00\x01\x00\x00\x00\x02\x65\x88\x84\x00"
RTSP_ANSWERS = [
    b"RTSP/1.0 200 OK\r\nCSeq: 1\r\nPublic: OPTIONS, DESCRIBE, SETUP, PLAY\r\n\r\n",
    b"RTSP/1.0 200 OK\r\nCSeq: 2\r\nContent-Type: application/sdp\r\nContent-Length: %d\r\n\r\n" % len(SDP) + SDP,
    b"RTSP/1.0 200 OK\r\nCSeq: 3\r\nTransport: RTP/AVP/TCP;unicast;interleaved=0-1\r\nSession: 1\r\n\r\n",
    b"RTSP/1.0 200 OK\r\nCSeq: 4\r\nSession: 1\r\n\r\n" + PACKET,
    b'RTSP/1.0 401 Unauthorized\r\nCSeq: 2\r\nWWW-Authenticate: Digest realm="x", nonce="y"\r\n\r\n',
    b"HTTP/1.1 400 Bad Request\r\n\r\n",
]


class BabblingServer:
    """Answers each request with the next mutated answer, and hangs up when they run out."""

    def __init__(self, dice: Dice, answers: list[bytes]) -> None:
        self._dice, self._answers = dice, answers
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.settimeout(0.1)
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._serve, name="babbling")
        self._thread.start()

    @property
    def port(self) -> int:
        return int(self._listener.getsockname()[1])

    def close(self) -> None:
        self._end.set()
        self._thread.join(5)
        self._listener.close()

    def _serve(self) -> None:
        while not self._end.is_set():
            try:
                client, _ = self._listener.accept()
            except TimeoutError:
                continue
            with client, suppress(OSError):
                client.settimeout(0.5)
                for answer in self._script():
                    if not client.recv(65536):
                        break
                    client.sendall(answer)

    def _script(self) -> Iterator[bytes]:
        for answer in self._answers:
            yield self._dice.mutated(answer) if self._dice.random.random() < 0.5 else answer
        yield self._dice.random.randbytes(2000)


@contextmanager
def babbling(seed: int, answers: list[bytes]) -> Iterator[BabblingServer]:
    with closing(BabblingServer(Dice(seed), answers)) as server:
        yield server


@pytest.mark.ffmpeg
def test_random_answers_of_a_camera(notebook: Notebook) -> None:
    """Whatever a camera answers, opening and reading end in time with a ``StreamError`` that shows no password."""
    count, limit = scaled(40, 1000), 0.3
    longest, said = 0.0, ""
    with babbling(6, RTSP_ANSWERS) as server:
        for _ in range(count):
            url = f"rtsp://viewer:s3cr3t@127.0.0.1:{server.port}/cam"
            started = time.monotonic()
            with closing(PyAVSource(url, open_timeout=limit, read_timeout=limit)) as source:
                try:
                    source.open()
                    source.read()
                except StreamError as exc:
                    said += f"{exc} {exc!r} {exc.__context__!r} {exc.__cause__!r}"
            longest = max(longest, time.monotonic() - started)
    assert longest < 2 * limit + 1.0
    assert said
    assert "s3cr3t" not in said
    notebook.figure("random RTSP answers: tracebacks; hangs", "0", f"0 of {count:,}; longest {longest:.1f} s")


HTTP_ANSWERS = [
    b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Type: application/json\r\n\r\n{}",
    b"HTTP/1.1 503 Busy\r\nTransfer-Encoding: chunked\r\nRetry-After: 1\r\n\r\n4\r\nbusy\r\n0\r\n\r\n",
]


def test_random_bytes_of_a_receiver(notebook: Notebook) -> None:
    """Whatever a receiver's socket says, a send ends in time: delivered, or a ``TransportError``."""
    count = scaled(60, 3000)
    longest = 0.0

    async def send_all(port: int) -> None:
        nonlocal longest
        sink = HttpSink(f"http://127.0.0.1:{port}/events", timeout=0.5)
        await sink.open()
        try:
            for number in range(count):
                started = time.monotonic()
                with suppress(TransportError):
                    await sink.send(Batch("vms", f"k{number}", 1, 1, (b"{}",)))
                longest = max(longest, time.monotonic() - started)
        finally:
            await sink.close()

    with babbling(7, HTTP_ANSWERS) as server:
        asyncio.run(send_all(server.port))
    assert longest < 3.0
    notebook.figure("random HTTP answers: tracebacks; hangs", "0", f"0 of {count:,}; longest {longest:.1f} s")


def test_passwords_are_redacted_wherever_they_stand(notebook: Notebook) -> None:
    """Random passwords in URLs, headers and query strings inside random text never come out of ``redact``.

    pain 31: passwords with special characters.
    """
    dice, count = Dice(8), scaled(3000, 20_000)
    from urllib.parse import quote

    letters = "abcXYZ019@:/%#?!^()[]{}&=+$,;'\"\\~`|<>* é漢"
    for _ in range(count):
        secret = "zQ9" + "".join(dice.random.choice(letters) for _ in range(dice.random.randrange(3, 20))) + "Wk7"
        raw = quote(secret, safe="")
        text = dice.random.choice(
            [
                f"open rtsp://viewer:{raw}@10.0.0.5:554/stream1 failed",
                f"Authorization: Bearer {raw}",
                f"http://10.0.0.5/x?user=a&password={raw}&b=c",
                f"[rtsp @ 0x55] rtsps://a%40b:{raw}@[fe80::1]/x: Connection refused",
            ]
        )
        shown = redact(dice.text(20).replace("@", "") + " " + text)
        assert raw not in shown, shown
    notebook.figure("random passwords through `redact`: shown", "0", f"0 of {count:,}")
