"""Takes two ranks of FSDP2, proves that whole weights come back and that adapters may lie over bfloat16 weights."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from raylm.core.errors import ConfigError
from raylm.model.logprobs import pad
from raylm.model.shapes.llama import Llama
from raylm.parallel.blocks import blocks
from raylm.parallel.optimizers.adamw import AdamW
from raylm.parallel.strategies.fsdp import Fsdp
from tests.parallel.loops import SHAPE, TOKENS, losses


def test_weights_are_whole(two_ranks):
    plain = Llama(**SHAPE).build(TOKENS, 0).state_dict()
    found = two_ranks["fsdp"]["weights"]
    assert {name: tensor.shape for name, tensor in found.items()} == {name: tensor.shape for name, tensor in plain.items()}
    assert all(type(tensor) is torch.Tensor for tensor in found.values())
    assert any(not tensor.equal(plain[name]) for name, tensor in found.items())


def test_adapters_train_over_bfloat16_weights(two_ranks):
    found = two_ranks["fsdp lora on bfloat16"]
    assert found["dtypes"] == {"torch.bfloat16", "torch.float32"}
    assert losses(found["rows"]) == pytest.approx(losses(two_ranks["fsdp lora"]["rows"]), abs=5e-3)


def test_every_transformer_block_is_a_group_of_its_own_also_under_peft():
    from raylm.model.adapter import Lora

    model = Llama(**SHAPE).build(TOKENS, 0)
    assert len(blocks(model)) == 2
    assert len(blocks(Lora().attach(model, 0))) == 2


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_one_process_without_a_group_computes_in_the_asked_dtype(dtype):
    from raylm.model.scores import causal
    from raylm.parallel.engine import Recipe
    from raylm.parallel.mesh import Mesh

    engine = Fsdp().wrap(Llama(**SHAPE).build(TOKENS, 0), Mesh().lay(0, 1), Recipe(AdamW(), 3, dtype))
    seen = []
    engine.bare.model.layers[0].mlp.down_proj.register_forward_hook(lambda module, given, made: seen.append(made.dtype))
    engine.forward([causal(pad([np.array([1, 5, 9])], [np.ones(3)], 0))])
    assert seen == [getattr(torch, dtype)]
    assert engine.weights()["model.norm.weight"].dtype == torch.float32


def test_offload_without_a_group_is_refused():
    from raylm.parallel.engine import Recipe
    from raylm.parallel.mesh import Mesh

    with pytest.raises(ConfigError, match="offload works on a group"):
        Fsdp(offload=True).wrap(Llama(**SHAPE).build(TOKENS, 0), Mesh().lay(0, 1), Recipe(AdamW(), 3))
