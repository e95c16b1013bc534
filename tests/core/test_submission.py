"""Submitted jobs: refused where their artifacts would be lost or not visible to all nodes."""

from __future__ import annotations

import os
import shutil

import pytest

from raylm.core.errors import ConfigError, PlacementError
from raylm.core.storage import Folder
from raylm.core.submission import check, check_root, stand_in
from raylm.core.workers import SUBMITTED, Workers
from raylm.train.config import Train

STAGE = {
    "stage": "train",
    "rows": "tokens",
    "model": {"hidden_size": 32, "num_layers": 1, "num_heads": 2},
    "batch": 4,
    "steps": 1,
}


@pytest.mark.parametrize("root", ["runs", "./runs", "../runs", "~/runs"])
def test_a_relative_root_of_a_submitted_job_is_refused(root, monkeypatch):
    check_root(root)
    monkeypatch.setenv(SUBMITTED, "{}")
    with pytest.raises(ConfigError, match=r"is relative; under `ray job submit` that is a temporary copy") as caught:
        check_root(root)
    assert "--set root=/shared/" in str(caught.value)


def test_roots_that_last_are_not(monkeypatch):
    monkeypatch.setenv(SUBMITTED, "{}")
    for root in ("/shared/runs", "s3://bucket/runs", "file:///shared/runs"):
        check_root(root)


@pytest.fixture
def submitted(workers, monkeypatch):
    """Workers that take the tests' cluster for somebody else's."""
    import ray

    workers.ensure()
    monkeypatch.setenv(SUBMITTED, "{}")
    held = Workers()
    held._started = True  # this process has joined it
    assert ray.is_initialized()
    return held


def test_a_driver_whose_folder_was_made_anew_stands_in_the_new_one(tmp_path, monkeypatch):
    at = tmp_path / "_ray_pkg_0123"
    at.mkdir()
    monkeypatch.chdir(at)
    stand_in(str(at))
    shutil.rmtree(at)
    at.mkdir()
    with pytest.raises(FileNotFoundError):
        os.getcwd()
    stand_in(str(at))
    assert os.getcwd() == str(at)


@pytest.mark.ray
def test_every_stage_is_checked_before_the_first_one_runs(submitted, tmp_path):
    check(submitted, Folder(tmp_path), {"base": Train(**STAGE)})
    with pytest.raises(PlacementError, match=r"large asks for 5000 CPU at once \(50 ranks\)"):
        check(
            submitted,
            Folder(tmp_path),
            {"base": Train(**STAGE), "large": Train(**STAGE | {"workers": {"count": 50, "cpus": 100}})},
        )
