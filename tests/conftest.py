"""Takes nothing, leaves the one local Ray cluster that all Ray tests share."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest

from raylm.core.workers import Workers


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Tests of GPUs are left out where there is none."""
    if shutil.which("nvidia-smi"):
        return
    gpu = [item for item in items if item.get_closest_marker("gpu")]
    config.hook.pytest_deselected(items=gpu)
    items[:] = [item for item in items if item not in gpu]


@pytest.fixture(scope="session")
def workers() -> Iterator[Workers]:
    """Workers whose Ray starts with the first test that needs it."""
    held = Workers(wanted_cpus=4)
    yield held
    held.stop()
