"""The `prometheus` sink: gauges are on Ray's metrics port, and the board shows only existing ones."""

from __future__ import annotations

import json
import re
import time
import urllib.request
from pathlib import Path

import pytest

from raylm.core.metrics import Progress, StageGauges
from raylm.rl.stage import SHOWN as RL_SHOWN
from raylm.serve.scaling.policy import FIGURES
from raylm.trainer.watch.sinks.prometheus import Prometheus, gauge_name
from tests.trainer.watch.rows import run

BOARD = Path(__file__).parents[4] / "cluster" / "grafana" / "raylm.json"
ROW = {
    "loss", "grad_norm", "lr", "step_s", "tokens_per_s", "trainable_tokens_per_s", "mfu", "memory_gb", "data_wait_s", "straggler",
    "communication_s",
    "checkpoint_s", "checkpoint_stall_s", "held_out_loss", "world", "step",
}  # fmt: skip


def test_names_are_what_prometheus_allows():
    assert gauge_name("loss/web-2") == "raylm_train_loss_web_2"


def test_the_board_shows_only_what_is_exported():
    board = json.loads(BOARD.read_text())
    shown = {
        name
        for panel in board["panels"]
        for target in panel.get("targets", [])
        for name in re.findall(r"ray_(raylm_train_\w+)", target["expr"])
    }
    assert shown and shown <= {gauge_name(name) for name in (*ROW, *RL_SHOWN)}
    # stages and scaling: names, and of every verb its panel
    text = json.dumps(board)
    assert set(re.findall(r"ray_raylm_scaling_(\w+)", text)) <= set(FIGURES)
    assert set(re.findall(r"ray_raylm_stage_(\w+)", text)) == {"done", "total"}
    assert set(re.findall(r'verb=\\"(\w+)', text)) | {"serve"} >= {"prepare", "tokenize", "train", "rl", "compress", "evaluate"}
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])
    assert {"title", "uid", "templating", "schemaVersion"} <= board.keys()


@pytest.mark.ray
def test_gauges_are_on_rays_metrics_port(workers, tmp_path):
    import ray

    workers.ensure()
    writer = Prometheus().open(run(tmp_path))
    writer.write(3, {"loss": 2.5})
    tags = {"job": "j", "stage": "tokens", "verb": "tokenize", "unit": "shards"}
    Progress("tokens", 7, "shards", gauges=StageGauges(tags)).to(4)
    ports = [(node["NodeManagerAddress"], node["MetricsExportPort"]) for node in ray.nodes()]
    wanted = [
        re.compile(r'ray_raylm_train_loss\{[^}]*run="job/base"[^}]*\} 2\.5'),
        re.compile(r'ray_raylm_stage_done\{[^}]*stage="tokens"[^}]*verb="tokenize"[^}]*\} 4'),
        re.compile(r"ray_raylm_stage_total\{[^}]*\} 7"),
    ]
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        said = "".join(
            urllib.request.urlopen(f"http://{host}:{port}/metrics", timeout=10).read().decode() for host, port in ports
        )
        if all(each.search(said) for each in wanted):
            return
        time.sleep(1)
    raise AssertionError("the gauges did not appear within 60 s")
