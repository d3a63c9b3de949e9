"""The fault laboratory: how big it is, what it remembers, and what is made once for all of it."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from faults.clips import Clips, make_clips
from faults.notebook import Notebook
from faults.scale import FULL

IN_CI = os.environ.get("CI") == "true"


def pytest_configure(config: pytest.Config) -> None:
    """Register what only the laboratory uses."""
    config.addinivalue_line("markers", "compiler: needs a C compiler (apt: gcc)")
    config.addinivalue_line("markers", "laboratory: too long for every run; `make faults` runs it")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave the long ones to `make faults`, and name what is missing."""
    for item in items:
        if item.get_closest_marker("laboratory") and not FULL:
            item.add_marker(pytest.mark.skip(reason="takes minutes: `make faults` runs it"))
        if item.get_closest_marker("compiler") and shutil.which("cc") is None:
            if IN_CI:
                pytest.exit("CI must have every peer: there is no C compiler", returncode=1)
            item.add_marker(pytest.mark.skip(reason="there is no C compiler: apt-get install gcc"))


@pytest.fixture(scope="session")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Clips:
    """What the laboratory's cameras show."""
    return make_clips(tmp_path_factory.mktemp("clips"))


@pytest.fixture
def notebook(request: pytest.FixtureRequest) -> Iterator[Notebook]:
    """Take down what a test has seen; kept when the test passes and SENTINEL_FAULTS_SEEN names a file."""
    notes = Notebook(request.node.nodeid.removeprefix("tests/faults/"))
    yield notes
    place = os.environ.get("SENTINEL_FAULTS_SEEN")
    if place:
        with Path(place).open("a") as file:
            file.writelines(json.dumps(entry) + "\n" for entry in notes.entries)
