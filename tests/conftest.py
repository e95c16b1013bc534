"""The one local Ray cluster that all Ray tests share."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator

import pytest

from raylm.core.workers import Workers


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Tests of GPUs are left out where there is none, long ones where RAYLM_LONG does not ask for them."""
    left = {*(() if shutil.which("nvidia-smi") else ("gpu",)), *(() if os.environ.get("RAYLM_LONG") else ("long",))}
    out = [item for item in items if any(item.get_closest_marker(name) for name in left)]
    config.hook.pytest_deselected(items=out)
    items[:] = [item for item in items if item not in out]


@pytest.fixture(scope="session")
def workers() -> Iterator[Workers]:
    """Workers whose Ray starts with the first test that needs it."""
    held = Workers(wanted_cpus=4)
    yield held
    held.stop()
