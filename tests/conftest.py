"""The one local Ray cluster that all Ray tests share, what is left out, and the order of files."""

from __future__ import annotations

import gc
import os
import shutil
import signal
import sys
import warnings
from collections.abc import Iterator
from typing import Any

import pytest

from raylm.core.workers import Workers

# The two processes of `make test` take one file after the other. The longest come first, or one process would be left alone with
# one of them at the end; so do those that make what files of both need (compiled kernels, what two ranks trained).
FIRST = (
    "tests/flow/test_road.py",
    "tests/parallel/test_engine.py",
    "tests/prepare/filters/test_c4_quality.py",
    "tests/prepare/dedup/test_min_hash.py",
    "tests/parallel/strategies/test_deepspeed.py",
    "tests/rl/test_stage.py",
    "tests/serve/test_replica.py",
)


# what tests wait for: workers of Ray that have imported torch are kept for the next test, and the end of a group is seen at once
os.environ.setdefault("RAY_num_workers_soft_limit", "10")
os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "1")


def pytest_configure(config: pytest.Config) -> None:
    """A shell that runs its commands in the background has them ignore Ctrl-C, and so would what tests start and stop by it."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Tests of GPUs are left out where there is none, long ones where RAYLM_LONG does not ask for them."""
    left = {*(() if shutil.which("nvidia-smi") else ("gpu",)), *(() if os.environ.get("RAYLM_LONG") else ("long",))}
    out = [item for item in items if any(item.get_closest_marker(name) for name in left)]
    config.hook.pytest_deselected(items=out)
    places = {file: place for place, file in enumerate(FIRST)}
    kept = [item for item in items if item not in out]
    items[:] = sorted(kept, key=lambda item: places.get(item.nodeid.partition("::")[0], len(FIRST)))


def pytest_collection_finish(session: pytest.Session) -> None:
    """Modules and tests stay to the end: collections of garbage need not look at their million objects each time."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def workers() -> Iterator[Workers]:
    """Workers whose Ray starts with the first test that needs it."""
    held = Workers(wanted_cpus=4)
    yield held
    held.stop()


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    """A process group that a folder's tests left open would make the next one's single ranks shard their models.

    Within a folder of `tests/` it may stay: those of `serve/` share one engine, whose fixture ends the group.
    """
    dist: Any = sys.modules.get("torch.distributed")
    if (nextitem is None or _folder(nextitem) != _folder(item)) and dist and dist.is_available() and dist.is_initialized():
        warnings.warn(f"{item.path.name} left a process group open", stacklevel=1)
        dist.destroy_process_group()


def _folder(item: pytest.Item) -> str:
    return item.nodeid.split("/")[1]
