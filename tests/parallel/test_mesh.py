"""Meshes: the coordinates of ranks, what gradients are averaged over, and which sizes are refused."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from raylm.core.errors import ConfigError
from raylm.parallel.mesh import Mesh


def test_tensor_ranks_are_neighbours_and_pipeline_ranks_far_apart():
    mesh = Mesh(tensor=2, context=2, pipeline=2, replicas=2)
    grids = [mesh.build(rank, 32) for rank in range(32)]
    assert [grid.at["tensor"] for grid in grids[:4]] == [0, 1, 0, 1]
    assert [grid.at["context"] for grid in grids[:4]] == [0, 0, 1, 1]
    assert [grid.at["pipeline"] for grid in grids] == [0] * 16 + [1] * 16
    # 32 ranks / (2 x 2 x 2) read 4 different rows; each row is met in 8 places
    assert sorted(grid.data_rank for grid in grids) == sorted([0, 1, 2, 3] * 8)
    assert grids[0].averaged == 8


@pytest.mark.parametrize(
    ("table", "world", "said"),
    [
        ({"tensor": 2, "context": 2}, 6, "6 ranks are no multiple of tensor x context x pipeline = 4"),
        ({"replicas": 4}, 6, "6 data ranks are no multiple of replicas = 4"),
        ({"expert": 4}, 6, "6 ranks of one replica are no multiple of expert = 4"),
    ],
)
def test_ranks_that_form_no_mesh(table, world, said):
    with pytest.raises(ConfigError, match=said):
        Mesh(**table).build(0, world)


@pytest.mark.parametrize(
    ("key", "value", "of"),
    [("context_method", "ring", "context"), ("schedule", "zero_bubble", "pipeline"), ("virtual", 3, "pipeline")],
)
def test_keys_that_would_be_ignored_are_a_mistake(key, value, of):
    with pytest.raises(ValidationError, match=f"{key} = .* is of {of} ranks, of which there is one"):
        Mesh(**{key: value})
    assert getattr(Mesh(**{key: value, of: 2}), key) == value
