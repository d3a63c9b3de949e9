"""How a sink of the configuration is served."""

from __future__ import annotations

import pytest

from sentinel_pipeline.bootstrap import delivery_settings
from sentinel_pipeline.domain.settings import SinkSpec


@pytest.mark.parametrize(("timeout", "at_least"), [(1.0, 120.0), (600.0, 4 * 600.0)])
def test_delivery_settings_leave_room_for_the_sinks_timeout(timeout: float, at_least: float) -> None:
    """To connect, to greet, to send and to hear the answer fit into one send, whatever ``timeout`` is configured."""
    settings = delivery_settings(SinkSpec("vms", "http", "http://vms/x", max_events=7, max_wait=0.3, timeout=timeout))
    assert settings.send_timeout >= at_least
    assert (settings.max_events, settings.max_wait) == (7, 0.3)
