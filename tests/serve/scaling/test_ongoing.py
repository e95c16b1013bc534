"""Requests under way, divided by a target; as Ray Serve does."""

from __future__ import annotations

import math
import random

from ray.serve._private.common import DeploymentID
from ray.serve.autoscaling_policy import replica_queue_length_autoscaling_policy
from ray.serve.config import AutoscalingConfig, AutoscalingContext

from raylm.serve.directory import Load
from raylm.serve.scaling.observed import Flow, Observed
from raylm.serve.scaling.ongoing import Ongoing
from raylm.serve.scaling.scaling import Room


def test_it_is_the_rule_of_ray_serve():
    draw = random.Random(7)
    for _ in range(200):
        running, target = draw.randint(1, 9), draw.choice([0.5, 2.0, 16.0])
        loads = {str(number): Load(draw.randint(0, 30), draw.randint(0, 9)) for number in range(running)}
        observed = Observed(0.0, running, loads, held=draw.randint(0, 20))
        context = AutoscalingContext(
            deployment_id=DeploymentID("d", "a"), deployment_name="d", app_name=None, current_num_replicas=running,
            target_num_replicas=running, running_replicas=[], total_num_requests=float(observed.ongoing),
            total_queued_requests=0.0, aggregated_metrics=None, raw_metrics=None, capacity_adjusted_min_replicas=0,
            capacity_adjusted_max_replicas=99, policy_state={}, last_scale_up_time=None, last_scale_down_time=None,
            current_time=0.0, config=AutoscalingConfig(target_ongoing_requests=target, min_replicas=0, max_replicas=99),
        )  # fmt: skip
        theirs, _ = replica_queue_length_autoscaling_policy(context)
        ours = Ongoing(target=target).needs(observed, Flow(), Room(running, 256, 1.0))
        assert math.isclose(ours.replicas, theirs, rel_tol=1e-9)
