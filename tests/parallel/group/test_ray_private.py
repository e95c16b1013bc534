"""The private interfaces of Ray Train, against the version that they were read in."""

from __future__ import annotations

import pytest
import ray
from ray.train.torch import TorchTrainer

from raylm.parallel.group import elastic, ray_private

READ_IN = "2.60"


def test_ray_is_the_version_whose_private_parts_were_read():
    assert ray.__version__.startswith(f"{READ_IN}."), (
        f"ray {ray.__version__}: read what raylm/parallel/group/{{ray_private,elastic}}.py use of it again, then change READ_IN"
    )


@pytest.mark.parametrize(
    ("ours", "theirs", "methods"),
    [
        (
            elastic.LegalSizes,
            ray_private.ElasticScalingPolicy,
            ["_count_possible_workers", "make_decision_for_running_worker_group"],
        ),
        (
            elastic.Unscaled,
            ray_private.FixedScalingPolicy,
            ["_send_resource_request", "_maybe_send_resource_request", "_cancel_resource_request"],
        ),
        (elastic.Trainer, TorchTrainer, ["_create_default_callbacks", "_initialize_and_run_controller"]),
        (elastic.ReservedGroup, ray_private.WorkerGroup, ["_create_placement_group"]),
        (elastic.KeptHandle, ray_private.DefaultPlacementGroupHandle, ["shutdown"]),
        (elastic.ReservedController, ray_private.TrainController, ["worker_group_cls", "run", "get_result"]),
        (elastic.OnMainThread, ray_private.WorkerCallback, ["after_init_train_context"]),
    ],
    ids=lambda part: getattr(part, "__name__", None),
)
def test_what_is_overridden_is_there(ours, theirs, methods):
    assert issubclass(ours, theirs)
    assert [name for name in methods if not hasattr(theirs, name)] == []
