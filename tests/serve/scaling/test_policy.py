"""The policy behind Ray Serve's own classes: what Serve hands it, what it reads of that, what it leaves in the log."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from ray.serve._private.common import DeploymentID, ReplicaID, TimeStampedValue
from ray.serve.config import AutoscalingConfig, AutoscalingContext

from raylm.core.errors import ArtifactError
from raylm.core.storage import Folder
from raylm.serve.directory import Load
from raylm.serve.scaling import log, policy
from raylm.serve.scaling.policy import ScalingPolicy, autoscaling, load_of
from raylm.serve.served_model import Replicas

REPLICAS = [ReplicaID(name, DeploymentID("m", "raylm")) for name in ("a", "b")]


class Clock:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr(policy.time, "monotonic", lambda: self.now)


def context(
    config: AutoscalingConfig, target: int, reports: dict[ReplicaID, list[tuple[float, dict[str, float]]]], door: float = 0
):
    """As Serve makes it; reports are (time, numbers) of replicas that run."""
    raw: dict[str, Any] = {}
    for replica, told in reports.items():
        for at, values in told:
            for name, value in values.items():
                raw.setdefault(name, {}).setdefault(replica, []).append(TimeStampedValue(at, value))
    return AutoscalingContext(
        deployment_id=DeploymentID("m", "raylm"), deployment_name="m", app_name="raylm", current_num_replicas=len(reports),
        target_num_replicas=target, running_replicas=list(reports), total_num_requests=lambda: door,
        total_queued_requests=lambda: door, aggregated_metrics=None, raw_metrics=lambda: raw,
        capacity_adjusted_min_replicas=config.min_replicas, capacity_adjusted_max_replicas=config.max_replicas, policy_state={},
        last_scale_up_time=None, last_scale_down_time=None, current_time=None, config=config,
    )  # fmt: skip


def made(folder: str = "", **fields: Any) -> tuple[ScalingPolicy, AutoscalingConfig]:
    """As Serve makes one: from the pickled class and JSON."""
    replicas = Replicas.model_validate(fields)
    config = autoscaling("chat", replicas.policy, replicas.bounds, folder)
    arguments = json.loads(json.dumps(config.policy.policy_kwargs))
    return config.policy.get_policy()(**arguments), config


def test_serve_is_told_bounds_with_spares_and_no_delays():
    _, config = made(min=1, max=3, spare=2, upscale_delay_s=7)
    assert (config.min_replicas, config.max_replicas, config.upscale_delay_s, config.downscale_delay_s) == (3, 5, 0, 0)
    assert config.metrics_interval_s < config.look_back_period_s
    assert config.policy.policy_kwargs["bounds"]["upscale_delay_s"] == 7


def test_a_load_is_what_was_said_in_the_last_report():
    assert load_of({"running": 3.0, "kv_use": 0.5, "read_tokens": 7.0, "held": 2.0}) == Load(3, None, None, 0.5, read_tokens=7)
    assert load_of({"held": 2.0}) is None


def test_from_reports_to_replicas(monkeypatch, tmp_path):
    clock = Clock(monkeypatch)
    scaled, config = made(str(tmp_path), max=4, policy={"kind": "ongoing", "target": 4}, upscale_delay_s=0)
    reports = {REPLICAS[0]: [(5.0, {"running": 2.0, "waiting": 0.0}), (6.0, {"running": 4.0, "waiting": 3.0, "held": 4.0})]}
    assert scaled(context(config, 1, reports))[0] == math.ceil(11 / 4)
    # asked again at once it says the same, without looking
    assert scaled(context(config, 1, {REPLICAS[0]: []}))[0] == 3
    clock.now += 1
    # the second has not told anything: nothing is removed
    later = {REPLICAS[0]: [(7.0, {"running": 1.0, "waiting": 0.0})], REPLICAS[1]: []}
    assert scaled(context(config, 3, later))[0] == 3
    lines = log.read(str(tmp_path))
    assert [(line["before"], line["replicas"], line["ongoing"], line["held"]) for line in lines] == [(1, 3, 11, 4)]
    assert log.table(lines)[0].endswith("11 requests, 4 at a replica: 2.75 of 1 to 4 are needed")
    assert "chat  1 -> 3" in log.table(lines)[0]


def test_a_replica_that_falls_silent_is_not_known(monkeypatch):
    clock = Clock(monkeypatch)
    scaled, config = made(max=4, downscale_delay_s=0)
    same = {each: [(6.0, {"running": 0.0, "queued_tokens": 0.0})] for each in REPLICAS}
    for _ in range(20):
        clock.now += 0.6
        scaled(context(config, 2, same))
    # the clock of its machine is of no matter, only that nothing new came
    clock.now += 600
    assert scaled(context(config, 2, same))[0] == 2


def test_somebody_at_the_door(monkeypatch):
    clock = Clock(monkeypatch)
    scaled, config = made(min=0, max=2, upscale_delay_s=60)
    assert scaled(context(config, 0, {}))[0] == 0
    clock.now += 1
    assert scaled(context(config, 0, {}, door=2.0))[0] == 1


def test_a_target_that_serve_set_itself_is_seen_at_once(monkeypatch):
    Clock(monkeypatch)
    scaled, config = made(min=0, max=2)
    assert scaled(context(config, 0, {}))[0] == 0
    # Serve has started the first by itself; the policy keeps it though it was asked just before
    assert scaled(context(config, 1, {}, door=1.0))[0] == 1


def test_a_log_that_is_not_there(tmp_path):
    with pytest.raises(ArtifactError, match="no scaling decision"):
        log.read(str(tmp_path))
    assert log.scaling_folder(Folder(str(tmp_path / "job" / "endpoint"))) == str(tmp_path / "job" / ".scaling" / "endpoint")


def test_what_changes_nothing_is_written_seldom(tmp_path):
    written = log.ScalingLog(str(tmp_path))
    line = {"model": "m", "before": 1, "replicas": 1, "reason": "r"}
    for second in range(100):
        written.write({**line, "kind": "steady" if second % 2 else "queue_waits"}, float(second))
    # every 11 s, when the kind is another
    assert len(log.read(str(tmp_path), 1000)) == 10
    written.write({**line, "kind": "queue", "replicas": 2}, 100.0)
    assert log.read(str(tmp_path), 1)[0]["replicas"] == 2


def test_the_next_one_knows_what_the_last_one_learned(monkeypatch, tmp_path):
    Clock(monkeypatch)
    line = {"model": "chat", "before": 1, "replicas": 2, "kind": "queue", "reason": "r", "capacity": 1500.0, "cold_start_s": 7.0}
    log.ScalingLog(str(tmp_path)).write(line, 0.0)
    log.ScalingLog(str(tmp_path)).write({**line, "model": "other", "capacity": 9.0}, 0.0)
    assert log.last_of(str(tmp_path), "chat")["capacity"] == 1500.0 and log.last_of(str(tmp_path), "none") == {}
    scaled, config = made(str(tmp_path), max=4, upscale_delay_s=0, policy={"kind": "tokens", "target_ttft_s": 1.0})
    busy = {"running": 9.0, "waiting": 0.0, "queued_tokens": 60_000.0, "read_tokens": 0.0}
    # 60,000 tokens are 40 s of one: it is known at the first look that one is not enough
    assert scaled(context(config, 1, {REPLICAS[0]: [(6.0, busy)]}))[0] == 4
    assert log.last_of("", "chat") == {}
    (tmp_path / "2999-01-01.jsonl").write_text("{broken}")
    assert log.last_of(str(tmp_path), "chat") == {}
