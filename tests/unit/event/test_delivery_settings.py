"""How a sink of the configuration is served, and what of it can be down."""

from __future__ import annotations

from pathlib import Path

import pytest

from sentinel_pipeline.bootstrap.needs import watched
from sentinel_pipeline.bootstrap.sinks import delivery_settings
from sentinel_pipeline.domain.redact import redact
from sentinel_pipeline.domain.settings import SinkSpec
from sentinel_pipeline.domain.system_events import Part
from sentinel_pipeline.interface.config import load_config


@pytest.mark.parametrize(("timeout", "at_least"), [(1.0, 120.0), (600.0, 4 * 600.0)])
def test_delivery_settings_leave_room_for_the_sinks_timeout(timeout: float, at_least: float) -> None:
    """To connect, to greet, to send and to hear the answer fit into one send, whatever ``timeout`` is configured."""
    settings = delivery_settings(SinkSpec("vms", "http", "http://vms/x", max_events=7, max_wait=0.3, timeout=timeout))
    assert settings.send_timeout >= at_least
    assert (settings.max_events, settings.max_wait) == (7, 0.3)


def test_watched_are_all_that_the_file_has(tmp_path: Path) -> None:
    """Sinks, models that a stream uses and each output are there by the names that their events have."""
    file = tmp_path / "sentinel.yaml"
    file.write_text(
        "version: 1\n"
        "streams:\n"
        "  gate: {source: 'test:', analyse: {detect: {model: nanodet-g-416}},"
        " publish: {url: ['rtsp://u:s3cret@h/gate', 'rtmp://h/live/gate']}}\n"
        "  yard: {source: 'test:'}\n"
        "sinks: {vms: {type: http, url: 'http://h/'}}\n"
    )
    streams, parts = watched(load_config(file, {}))
    assert streams == {"gate", "yard"}
    assert parts == {
        Part("sink", "vms"),
        Part("model", "nanodet-g-416"),
        Part("publisher", redact("rtsp://u:s3cret@h/gate"), "gate"),
        Part("publisher", "rtmp://h/live/gate", "gate"),
    }
