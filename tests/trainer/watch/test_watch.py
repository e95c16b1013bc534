"""Sinks of a run: a failing sink is dropped and reported once, a missing package is found at once."""

from __future__ import annotations

import sys

import pytest

from raylm.core.errors import ConfigError
from raylm.trainer.watch.watch import Watch, Watching
from tests.trainer.watch.rows import falling, run


def test_rows_reach_the_sinks_every_n_steps(tmp_path):
    watching = Watching(Watch(sinks=[{"kind": "mlflow"}], every=2), run(tmp_path), print)
    for row in falling(5):
        watching.row(row["step"], row)
    watching.close()
    (file,) = tmp_path.rglob("metrics/loss")
    assert [line.split()[2] for line in file.read_text().splitlines()] == ["0", "2", "4"]


def test_a_sink_that_fails_is_dropped_and_told_of_once(tmp_path):
    said = []
    watching = Watching(Watch(sinks=[{"kind": "mlflow"}]), run(tmp_path), said.append)
    watching._writers[0][1]._at = tmp_path / "gone" / "\0"
    for row in falling(3):
        watching.row(row["step"], row)
    assert list(watching.dropped) == ["mlflow"] and len(said) == 1 and "the sink mlflow is dropped" in said[0]


def test_a_service_that_raises_a_class_of_its_own_ends_no_run(tmp_path):
    class ServiceDown(Exception):
        pass

    def refuse(step, numbers):
        raise ServiceDown("503")

    said = []
    watching = Watching(Watch(sinks=[{"kind": "mlflow"}]), run(tmp_path), said.append)
    watching._writers = [("service", type("Writer", (), {"write": staticmethod(refuse), "close": staticmethod(lambda: None)})())]
    for row in falling(3):
        watching.row(row["step"], row)
    watching.close()
    assert watching.dropped == {"service": "503"} and len(said) == 1


def test_a_missing_package_is_found_before_training(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ConfigError, match="the sink 'wandb' needs the package wandb"):
        Watching(Watch(sinks=[{"kind": "wandb"}]), run(tmp_path), print)
