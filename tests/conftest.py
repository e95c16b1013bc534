"""Takes nothing, leaves the one local Ray cluster that all Ray tests share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from raylm.core.workers import Workers


@pytest.fixture(scope="session")
def workers() -> Iterator[Workers]:
    """Workers whose Ray starts with the first test that needs it."""
    held = Workers(wanted_cpus=4)
    yield held
    held.stop()
