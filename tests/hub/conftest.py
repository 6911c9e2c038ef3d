"""Hubs for tests: without a network on both kinds of database, and running."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog
from structlog.testing import LogCapture
from tests.hub.federation import Federation, federation
from tests.hub.running import Hub, new_folder, running
from tests.store.servers import BACKENDS


@pytest.fixture(autouse=True)
def log() -> Iterator[LogCapture]:
    """Catch what is logged."""
    capture = LogCapture()
    structlog.configure(processors=[capture])
    yield capture
    structlog.reset_defaults()


@pytest.fixture(params=BACKENDS)
def fed(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Federation]:
    """A hub without a network, with ada, a researcher, and the sites a, b and c."""
    with federation(tmp_path, request.param) as found:
        yield found


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    """A hub that runs."""
    with running(new_folder(tmp_path / "hub")) as found:
        yield found
