"""FSDP2 on two ranks: whole weights are gathered, and adapters work over bfloat16 weights."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from raylm.core.errors import ConfigError
from raylm.data.batch import pad
from raylm.model.shapes.llama import Llama
from raylm.parallel.blocks import blocks
from raylm.parallel.optimizers.adamw import AdamW
from raylm.parallel.strategies.fsdp import Fsdp
from tests.parallel.loops import SHAPE, TOKENS, losses
from tests.parallel.on_ranks import on_ranks


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
    from raylm.model.adapters.lora import Lora

    model = Llama(**SHAPE).build(TOKENS, 0)
    assert len(blocks(model)) == 2
    assert len(blocks(Lora().attach(model, 0))) == 2


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_one_process_without_a_group_computes_in_the_requested_dtype(dtype):
    from raylm.model.scores import causal
    from raylm.parallel.engine import Recipe
    from raylm.parallel.mesh import Mesh

    engine = Fsdp().wrap(Llama(**SHAPE).build(TOKENS, 0), Mesh().build(0, 1), Recipe(AdamW(), 3, dtype))
    seen = []
    engine.bare.model.layers[0].mlp.down_proj.register_forward_hook(lambda module, given, made: seen.append(made.dtype))
    engine.forward([causal(pad([np.array([1, 5, 9])], [np.ones(3)], 0))])
    assert seen == [getattr(torch, dtype)]
    assert engine.weights()["model.norm.weight"].dtype == torch.float32


def test_offload_without_a_group_is_refused():
    from raylm.parallel.engine import Recipe
    from raylm.parallel.mesh import Mesh

    with pytest.raises(ConfigError, match="offload works on a group"):
        Fsdp(offload=True).wrap(Llama(**SHAPE).build(TOKENS, 0), Mesh().build(0, 1), Recipe(AdamW(), 3))


def held_between_micro_batches(rank, world, reshard, mesh):
    """Of a step of two micro batches: numbers of gradients that this rank holds when the second begins, and all trained ones."""
    import tempfile
    from pathlib import Path

    from tests.parallel.loops import make_loop

    with tempfile.TemporaryDirectory() as work:
        loop, _ = make_loop(Fsdp(reshard=reshard), Path(work), micro=1, steps=1, mesh=mesh)
        engine, held = loop.engine, []
        exchange = engine._sync_gradients

        def seen(last):
            held.append(gradients(engine.model))
            exchange(last)

        engine._sync_gradients = seen
        loop.run()
    return held[1], sum(p.numel() for p in engine.bare.parameters())


def gradients(model):
    """Numbers of gradients on this rank, whole ones that FSDP accumulates and what waits for other replicas included."""
    from torch.distributed.fsdp import FSDPModule

    count = sum(p.grad.to_local().numel() for p in model.parameters() if p.grad is not None)
    for module in model.modules():
        for group in module._get_fsdp_state()._fsdp_param_groups if isinstance(module, FSDPModule) else ():
            count += 0 if group._partial_reduce_output is None else group._partial_reduce_output.numel()
            for one in group.fsdp_params:
                whole = one.unsharded_accumulated_grad
                if whole is None and hasattr(one, "_unsharded_param"):
                    whole = one._unsharded_param.grad
                count += 0 if whole is None else whole.numel()
    return count


@pytest.mark.parametrize("world, mesh", [(2, {}), (4, {"replicas": 2})])
def test_gradients_of_earlier_micro_batches_are_sharded(world, mesh):
    for held, trained in on_ranks(world, held_between_micro_batches, True, mesh):
        # rows that do not divide are filled up
        assert 0 < held < 0.6 * trained
    for held, trained in on_ranks(world, held_between_micro_batches, False, mesh):
        assert held == trained
