"""A cluster that loses a node and gets another: training goes on at the sizes the mesh allows, unchanged."""

from __future__ import annotations

import json
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

from raylm.parallel.group.heartbeat import NoHeartbeat
from raylm.train.config import Train
from raylm.train.learner import train
from raylm.trainer.setup import Setup
from tests.parallel.group.elastic_run import KEYS


def test_only_sizes_that_the_mesh_allows():
    def sizes(count, least, **mesh):
        return Train(**KEYS | {"mesh": mesh, "workers": {"count": count, "least": least}}).sizes()

    assert sizes(4, None) == (4,)
    assert sizes(4, 1) == (1, 2, 3, 4)
    assert sizes(8, 3, tensor=2) == (4, 6, 8)
    assert sizes(8, 1, tensor=2, replicas=2) == (4, 8)
    with pytest.raises(ValueError, match="least = 5 is not from 1 to"):
        sizes(4, 5)


def alone(root) -> list[float]:
    """Losses of the same run on one rank, without Ray."""
    torch.set_num_threads(1)
    rows = []
    ranks = SimpleNamespace(
        rank=0, world=1, device=torch.device("cpu"), heartbeat=NoHeartbeat(), say=print, rewind=lambda step, rollback: None
    )
    ranks.log = lambda step, **values: rows.append(values["loss"])
    cfg = Train(**KEYS | {"mesh": {}, "workers": {"count": 1}, "objective": {"kind": "next_token"}})
    tokens = root / "tokens"
    facts = json.loads((tokens / "manifest.json").read_text())["facts"]
    work = {"out": str(root / "alone"), "work": str(root / "alone" / "_work"), "tokenizer_path": str(tokens / "tokenizer")}
    setup = {"rows_uris": [str(tokens)], "num_rows": [40], "rows_kind": "Tokens", "model_path": None, "tokens": facts}
    train(ranks, cfg, Setup(**setup, **work, steps=cfg.steps))
    return rows


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.long
def test_a_lost_node_shrinks_the_group_a_new_one_lets_it_grow_and_the_losses_are_the_same(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "tests.parallel.group.elastic_run", str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=580,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["steps"] == list(range(KEYS["steps"]))
    worlds = dict(found["worlds"])
    assert worlds[0] == 4 and set(worlds.values()) == {2, 4}, "3 ranks, or 1, cannot be laid out with tensor = 2"
    assert worlds[30] == 2 and worlds[KEYS["steps"] - 1] == 4
    assert found["losses"] == pytest.approx(alone(tmp_path), abs=1e-5)
    # growing waits for a checkpoint, so that only the lost node cost steps
    assert found["restarts"] == 2 and found["lost_steps"] <= 20 and 0 < found["goodput"] < 1
    assert "there is room for 4 ranks: a step checkpoint was written" in done.stderr
