"""Watches a published stream in a thread."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import TypeVar

import av

from support.program import wait_until


class Viewer(ABC):
    """Decodes a stream from ``start`` to ``close``; a test's own one keeps what it wants of each picture in ``see``."""

    def __init__(self, url: str) -> None:
        self.pictures = 0
        self._url, self._end = url, threading.Event()
        self._thread = threading.Thread(target=self._watch, name="viewer")

    @abstractmethod
    def see(self, picture: av.VideoFrame) -> None:
        """Look at a picture; called in the viewer's own thread."""

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        self._end.set()
        self._thread.join(10)
        assert not self._thread.is_alive()

    def _watch(self) -> None:
        with av.open(self._url, options={"rtsp_transport": "tcp", "analyzeduration": "300000"}, timeout=10) as source:
            for picture in source.decode(video=0):
                self.see(picture)
                self.pictures += 1
                if self._end.is_set():
                    return


V = TypeVar("V", bound=Viewer)


@contextmanager
def viewing(viewer: V) -> Iterator[V]:
    """Start ``viewer``, wait for its first picture, and close it in the end."""
    viewer.start()
    with closing(viewer):
        wait_until(lambda: viewer.pictures > 0, 15, "a first published picture")
        yield viewer
