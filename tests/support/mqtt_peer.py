"""Mosquitto and its own subscriber as children, and a gate in front of the broker that can be shut.

Needs Debian's mosquitto and mosquitto-clients; tests that use this carry the marker ``mosquitto``.
"""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from sentinel_pipeline.lab.loop_thread import LoopThread
from support.peers import free_port
from support.program import wait_until
from support.receivers import until
from support.streams import stop

MOSQUITTO = "/usr/sbin/mosquitto"
START_S = 10.0


@dataclass(frozen=True, slots=True)
class Published:
    """One message as the subscriber got it. ``stale``: it was retained before the subscription."""

    topic: str
    qos: int
    stale: bool
    content_type: str
    properties: str
    payload: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.payload)


class Broker:
    """A Mosquitto on a port of 127.0.0.1 that stays the same when it is killed and started again."""

    def __init__(self, folder: Path, settings: str = "allow_anonymous true", *, tls: tuple[Path, Path] | None = None):
        self._folder, self._settings, self._tls = folder, settings, tls
        self._process: subprocess.Popen[bytes] | None = None
        self.port = free_port()

    @property
    def url(self) -> str:
        return f"{'mqtts' if self._tls else 'mqtt'}://127.0.0.1:{self.port}/site/a"

    @property
    def said(self) -> str:
        """Its log so far, of all its lives."""
        return (self._folder / "broker.log").read_text(errors="replace")

    def start(self) -> None:
        config = self._folder / "mosquitto.conf"
        tls = f"certfile {self._tls[0]}\nkeyfile {self._tls[1]}\n" if self._tls else ""
        config.write_text(f"user root\nlistener {self.port} 127.0.0.1\n{tls}log_type all\n{self._settings}\n")
        lives = self.said.count(" running") if (self._folder / "broker.log").exists() else 0
        with (self._folder / "broker.log").open("ab") as log:
            self._process = subprocess.Popen(
                ["setpriv", "--pdeathsig", "TERM", MOSQUITTO, "-c", str(config)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        wait_until(lambda: self.said.count(" running") > lives, START_S, f"mosquitto runs: {self.said}")

    def kill(self) -> None:
        """kill -9."""
        assert self._process is not None
        self._process.kill()
        self._process.wait(5)
        self._process = None

    def freeze(self) -> None:
        """Let it neither answer nor close anything."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGCONT)
            stop(self._process)


class Subscriber:
    """``mosquitto_sub`` on everything; it comes back by itself when the broker does."""

    def __init__(self, broker: Broker, *options: str) -> None:
        self._broker = broker
        self._before = broker.said.count("Sending SUBACK")
        format_ = r"%t\t%q\t%r\t%C\t%P\t%x"
        command = ["mosquitto_sub", "-V", "mqttv5", "-h", "127.0.0.1", "-p", str(broker.port), "-q", "1", "-F", format_]
        self._process = subprocess.Popen(
            ["setpriv", "--pdeathsig", "TERM", *command, "-t", "#", *options],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        self._changed = threading.Condition()
        self._messages: list[Published] = []
        self._reader = threading.Thread(target=self._read, name="mosquitto_sub lines")
        self._reader.start()
        self.wait_subscribed()

    def wait_subscribed(self) -> None:
        """Wait until the broker has confirmed one more subscription."""
        self._before += 1
        wait_until(
            lambda: self._broker.said.count("Sending SUBACK") >= self._before, START_S, "mosquitto_sub has subscribed"
        )

    def on(self, topic: str) -> list[Published]:
        """What came on one topic."""
        with self._changed:
            return [message for message in self._messages if message.topic == topic]

    def below(self, start: str) -> list[Published]:
        """What came on the topics that begin so."""
        with self._changed:
            return [message for message in self._messages if message.topic.startswith(start)]

    @property
    def events(self) -> list[dict[str, Any]]:
        return [event for message in self.on("site/a/events") for event in message.json]

    def wait_for(self, condition: Callable[[Subscriber], object], timeout: float = 10.0) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: condition(self), timeout), f"not in {timeout} s; got {self._messages}"

    def close(self) -> None:
        stop(self._process)
        self._reader.join(5)
        assert self._process.stdout is not None
        self._process.stdout.close()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            topic, qos, stale, content_type, properties, payload = line.decode().rstrip("\n").split("\t")
            message = Published(topic, int(qos), stale == "1", content_type, properties, bytes.fromhex(payload))
            with self._changed:
                self._messages.append(message)
                self._changed.notify_all()


@contextmanager
def subscribed(broker: Broker, *options: str) -> Iterator[Subscriber]:
    subscriber = Subscriber(broker, *options)
    try:
        yield subscriber
    finally:
        subscriber.close()


class Gate:
    """A TCP proxy on a port of its own that can be shut: connections are cut, new ones are refused."""

    def __init__(self, target: int) -> None:
        self._target = target
        self._thread = LoopThread("mqtt gate")
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self.port = 0

    def shut(self) -> None:
        self._thread.run(self._shut)

    def open(self) -> None:
        self._thread.run(self._open)

    def __enter__(self) -> Self:
        self._thread.start()
        self.open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.shut()
        finally:
            self._thread.close()

    async def _open(self) -> None:
        self._server = await asyncio.start_server(self._pass, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _shut(self) -> None:
        if self._server is not None:
            self._server.close()
            for writer in list(self._writers):
                writer.transport.abort()
            await self._server.wait_closed()
            self._server = None
            await until(lambda: not self._writers)

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            there, back = await asyncio.open_connection("127.0.0.1", self._target)
            self._writers.add(back)
            try:
                await asyncio.gather(self._pump(reader, back), self._pump(there, writer))
            finally:
                self._writers.discard(back)
                back.transport.abort()
        except OSError:
            return
        finally:
            self._writers.discard(writer)
            writer.transport.abort()

    @staticmethod
    async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        writer.transport.abort()
