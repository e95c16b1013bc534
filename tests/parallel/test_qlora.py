"""LoRA beside a base in 4 bits over ranks: what one rank finds, whoever holds, cuts or sends the bytes."""

from __future__ import annotations

from pathlib import Path

import pytest

from raylm.parallel.strategies.ddp import Ddp
from raylm.parallel.strategies.deepspeed import Deepspeed
from raylm.parallel.strategies.fsdp import Fsdp
from raylm.train.config import Train
from tests.parallel.loops import losses, make_loop
from tests.parallel.on_ranks import on_ranks
from tests.parallel.parity import assert_parity, trained

QLORA = {"kind": "qlora", "rank": 2}
SHORT = [(Fsdp(), {}), (Deepspeed(zero=3), {}), (Fsdp(), {"mesh": {"pipeline": 2}})]
LONG = [
    (Ddp(), {}),
    (Deepspeed(zero=1), {}),
    (Ddp(), {"mesh": {"context": 2}}),
    (Fsdp(), {"adapter": {**QLORA, "use_dora": True}}),
    (Fsdp(), {"activation_checkpointing": "selective"}),
    (Fsdp(reshard=False), {"adapter": {**QLORA, "double_quant": False, "quant_type": "fp4"}}),
]


@pytest.mark.parametrize(("strategy", "table"), [*SHORT, *(pytest.param(*case, marks=pytest.mark.long) for case in LONG)])
def test_ranks_learn_beside_4_bits_what_one_learns(strategy, table):
    found = assert_parity(2, strategy, **{"adapter": QLORA, **table})
    # what is streamed is matrices
    assert all(tensor.is_floating_point() and tensor.dim() < 3 for tensor in found["weights"].values())
    assert found["weights"]["base_model.model.model.layers.0.mlp.up_proj.base_layer.weight"].shape == (64, 32)


@pytest.mark.long
def test_half_precision_is_near_single():
    table = {"adapter": QLORA, "dtype": "bfloat16"}
    single = trained(0, 1, Ddp(), {"adapter": QLORA})
    for found in (trained(0, 1, Ddp(), table), on_ranks(2, trained, Fsdp(), table)[0]):
        assert losses(found["rows"]) == pytest.approx(losses(single["rows"]), abs=2e-2)


def test_a_step_checkpoint_holds_the_adapter_alone(tmp_path):
    loop, _ = make_loop(Ddp(), Path(tmp_path), adapter=QLORA)
    assert all(".lora_" in name for name in loop.engine.state()["model"])


@pytest.mark.parametrize("keys", [{"mesh": {"tensor": 2}}, {"mesh": {"expert": 2}}, {"compile": True}], ids=str)
def test_what_cannot_be_is_refused_before_anything_starts(keys):
    with pytest.raises(ValueError, match=r"qlora"):
        Train(stage="train", rows="r", model="m", batch=8, steps=1, adapter=QLORA, workers={"count": 2}, **keys)
