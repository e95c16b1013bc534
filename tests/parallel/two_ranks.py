"""One run of two gloo ranks that finds all that the tests check."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from raylm.core.storage import Folder
from raylm.model.adapters.lora import Lora
from raylm.parallel.checkpoints.steps import newest_checkpoint
from raylm.parallel.optimizers.adamw import AdamW
from raylm.parallel.strategies.ddp import Ddp
from raylm.parallel.strategies.fsdp import Fsdp
from tests.parallel.loops import SHAPE, TOKENS, make_loop
from tests.rl.samples import learn

# Adam divides by the size of a gradient: by one near 0, it makes a difference of the last bit a large one
PAIRS: dict[str, Any] = {"kind": "Pairs", "objective": {"kind": "dpo"}, "optimizer": AdamW(lr=1e-2, warmup=2, eps=1e-6)}
UNTIED = {**SHAPE, "tie_embeddings": False}
EXPERTS = {"num_experts": 4, "experts_per_token": 2, "expert_size": 16}
# what is trained of a model, and how fast
PARTS: dict[str, dict[str, Any]] = {
    "ends": {"adapter": Lora(rank=2, modules=["q_proj", "lm_head", "embed_tokens"], loraplus_lr_ratio=4.0), "model": UNTIED},
    "whole head": {
        "adapter": Lora(rank=2, modules=["q_proj"], modules_to_save=["lm_head"], init_lora_weights="pissa"),
        "model": UNTIED,
    },
    "rows": {"adapter": Lora(rank=2, modules=["q_proj"], trainable_token_indices=[5, 9, 11])},
    "experts": {"adapter": Lora(rank=2), "model": {"kind": "qwen3_moe", **SHAPE, **EXPERTS}},
    "frozen": {
        "model": UNTIED,
        "freeze": ["embed_tokens", "layers.0"],
        "optimizer": AdamW(lr=1e-2, warmup=2, layerwise_lr_decay=0.5),
    },
}


def gather(rank: int, world: int, folder: str) -> dict[str, Any]:
    """Run on each of the two ranks; step checkpoints stay in `folder`."""
    at, found = Path(folder), {}
    for strategy in (Ddp(), Fsdp()):
        name = strategy.kind
        found[name] = whole(strategy, at / name, rank)
        found[f"{name} micro 3"] = whole(strategy, at / f"{name}-3", rank, micro=3)
        found[f"{name} dpo"] = whole(strategy, at / f"{name}-dpo", rank, **PAIRS)
        found[f"{name} dpo laid"] = whole(strategy, at / f"{name}-laid", rank, padding_free=True, **PAIRS)
        found[f"{name} lora"] = whole(strategy, at / f"{name}-lora", rank, adapter=Lora(rank=2))
        dora = Lora(rank=2, use_dora=True, use_rslora=True)
        found[f"{name} dora"] = whole(strategy, at / f"{name}-dora", rank, adapter=dora)
        for case, table in PARTS.items():
            found[f"{name} {case}"] = whole(strategy, at / f"{name}-{case}", rank, **table)
        found[f"{name} resumed"] = resumed(strategy, at / name, rank)
        found[f"{name} nan"] = nan_on_one_rank(strategy, at / f"{name}-nan", rank)
        found[f"{name} trainer"] = learn(strategy, at / f"{name}-rl", rank, world)
    found["ddp exchanges"] = exchanges(at / "exchanges")
    found["fsdp lora on bfloat16"] = bfloat16_base(at / "half", rank)
    return found


def whole(strategy: Any, work: Path, rank: int, **table: Any) -> dict[str, Any]:
    loop, seen = make_loop(strategy, work, **table)
    metrics = loop.run()
    return {"rows": seen, "metrics": metrics, "weights": loop.engine.weights()}


def resumed(strategy: Any, work: Path, rank: int) -> dict[str, Any]:
    """A second run in the folder of the first: it starts at the checkpoint of step 3, whatever lies half-written beside it."""
    if rank == 0:
        shutil.copytree(work / "step-00000003", work / "step-00000005")
        (work / "step-00000005" / "done.json").unlink()
    dist.barrier()
    loop, seen = make_loop(strategy, work)
    metrics = loop.run()
    return {
        "rows": seen,
        "metrics": metrics,
        "weights": loop.engine.weights(),
        "from": newest_checkpoint(Folder(work)).uri.rsplit("/")[-1],
    }


def nan_on_one_rank(strategy: Any, work: Path, rank: int) -> dict[str, Any]:
    """One step whose gradient is NaN on rank 1 alone."""
    loop, _ = make_loop(strategy, work)
    before = loop.engine.weights()
    micros = loop.batches.at(0)[:1]
    inputs, weight = loop.losses.inputs(micros, 0)
    loss_of = loop.share_of(lambda: loop.losses.loss_of(micros, inputs), weight, 0)

    def loss(index, scores):
        made = loss_of(index, scores)
        return made._replace(total=made.total * (float("nan") if rank == 1 else 1.0))

    loop.engine.accumulate(inputs, loss)
    stats = loop.engine.step()
    return {"stats": stats._asdict(), "before": before, "after": loop.engine.weights(), "done": loop.engine.done}


def exchanges(work: Path) -> list[int]:
    """How often DDP exchanged gradients after each micro batch of one step (one bucket holds the whole tiny model)."""
    loop, _ = make_loop(Ddp(), work)
    counted, calls = [0], []

    def count(_, bucket):
        counted[0] += 1
        return dist.all_reduce(bucket.buffer().div_(2), async_op=True).get_future().then(lambda done: done.value()[0])

    loop.engine.model.register_comm_hook(None, count)
    micros = loop.batches.at(0)
    inputs, weight = loop.losses.inputs(micros, 0)
    loss_of = loop.share_of(lambda: loop.losses.loss_of(micros, inputs), weight, 0)

    def loss(index, scores):
        calls.append(counted[0])
        return loss_of(index, scores)

    loop.engine.accumulate(inputs, loss)
    calls = [*calls[1:], counted[0]]
    return calls


def bfloat16_base(work: Path, rank: int) -> dict[str, Any]:
    """Adapters over weights that are stored in bfloat16, as most published models are."""
    from raylm.model.shapes.llama import Llama

    model = Llama(**SHAPE).build(TOKENS, 0).to(torch.bfloat16)
    loop, seen = make_loop(Fsdp(), work, model=model, adapter=Lora(rank=2))
    loop.run()
    return {"rows": seen, "dtypes": {str(tensor.dtype) for tensor in loop.engine.weights().values()}}
