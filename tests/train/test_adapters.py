"""Adapters step by step: the losses, gradient norms and weights of a run are those of a plain loop over peft's model."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from peft.optimizers import create_loraplus_optimizer

from raylm.model.adapters.lora import Lora
from raylm.parallel.optimizers.adamw import AdamW
from raylm.parallel.strategies.ddp import Ddp
from tests.parallel.loops import SHAPE, TOKENS, losses, make_loop

UNTIED = {**SHAPE, "tie_embeddings": False}
EXPERTS = {"kind": "qwen3_moe", **SHAPE, "num_experts": 4, "experts_per_token": 2, "expert_size": 16}
# raylm's keys, and peft's words for them
CASES: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, Any]]] = {
    "lora": ({}, {"target_modules": "all-linear"}, UNTIED),
    "dropout": ({"dropout": 0.3}, {"target_modules": "all-linear", "lora_dropout": 0.3}, UNTIED),
    "rslora": ({"use_rslora": True}, {"target_modules": "all-linear", "use_rslora": True}, UNTIED),
    "dora": ({"use_dora": True}, {"target_modules": "all-linear", "use_dora": True}, UNTIED),
    "pissa": ({"init_lora_weights": "pissa"}, {"target_modules": "all-linear", "init_lora_weights": "pissa"}, UNTIED),
    "head": ({"modules": ["q_proj", "lm_head"]}, {"target_modules": ["q_proj", "lm_head"]}, UNTIED),
    "whole": (
        {"modules": ["q_proj"], "modules_to_save": ["embed_tokens"]},
        {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens"], "ensure_weight_tying": True},
        SHAPE,
    ),
    "rows": (
        {"modules": ["q_proj"], "trainable_token_indices": [5, 9, 11]},
        {"target_modules": ["q_proj"], "trainable_token_indices": [5, 9, 11]},
        SHAPE,
    ),
    "experts": ({}, {"target_modules": "all-linear"}, EXPERTS),
}


def by_peft(loop: Any, shape: dict[str, Any], options: dict[str, Any], ratio: float) -> tuple[list[float], list[float], Any]:
    """Losses, gradient norms and the merged weights of a plain loop over the same batches."""
    cfg, spec = loop.cfg, loop.cfg.optimizer
    torch.manual_seed(cfg.seed)
    model: Any = cfg.model.build(TOKENS, cfg.seed)
    torch.manual_seed(cfg.seed)
    model = get_peft_model(model, LoraConfig(r=2, lora_alpha=4, task_type="CAUSAL_LM", **options)).train()
    kinds = {"betas": spec.betas, "eps": spec.eps}
    if ratio > 1:
        made = create_loraplus_optimizer(
            model, torch.optim.AdamW, lr=spec.lr, loraplus_lr_ratio=ratio, loraplus_weight_decay=spec.weight_decay, **kinds
        )
    else:
        trained = [p for p in model.parameters() if p.requires_grad]
        groups = [{"params": [p for p in trained if (p.dim() > 1) == decays]} for decays in (True, False)]
        groups[0]["weight_decay"], groups[1]["weight_decay"] = spec.weight_decay, 0.0
        made = torch.optim.AdamW([group for group in groups if group["params"]], lr=spec.lr, **kinds)
    scales = [group["lr"] / spec.lr for group in made.param_groups]
    found, norms = [], []
    for step in range(cfg.steps):
        inputs, weight = loop.losses.inputs(loop.batches.at(step), step)
        torch.manual_seed(loop._seed(step))
        total = 0.0
        for one in inputs:
            logprob_BTV = model(**one.feed, use_cache=False).logits.log_softmax(-1)
            logprob_BT = logprob_BTV.gather(-1, one.target_BT[..., None])[..., 0]
            loss = -(logprob_BT * one.weight_BT).sum() / weight
            loss.backward()
            total += float(loss.detach())
        norms.append(float(torch.nn.utils.clip_grad_norm_([p for p in model.parameters() if p.requires_grad], spec.clip)))
        for group, scale in zip(made.param_groups, scales, strict=True):
            group["lr"] = spec.lr_at(step, cfg.steps) * scale
        made.step()
        made.zero_grad()
        found.append(total)
    return found, norms, model.merge_and_unload(safe_merge=True).state_dict()


@pytest.mark.parametrize(("name", "ratio"), [*((name, 1.0) for name in CASES), ("lora", 8.0), ("dora", 8.0)])
def test_every_step_is_that_of_peft(tmp_path, name, ratio):
    keys, options, shape = CASES[name]
    card = Lora(rank=2, alpha=4, loraplus_lr_ratio=ratio, **keys)
    # peft's optimizer of LoRA+ decays vectors too, here they never do
    optimizer = AdamW(lr=3e-3, warmup=2, weight_decay=0.05 if ratio == 1 else 0.0)
    loop, seen = make_loop(Ddp(), tmp_path, model=shape, adapter=card, optimizer=optimizer)
    loop.run()
    wanted, norms, merged = by_peft(loop, shape, options, ratio)
    assert losses(seen) == pytest.approx(wanted, abs=1e-5)
    assert [row["grad_norm"] for row in seen] == pytest.approx(norms, rel=1e-3)
    ours = dict(card.merge(loop.engine.bare, loop.engine.stream()))
    assert ours.keys() == merged.keys()
    for key, tensor in merged.items():
        torch.testing.assert_close(ours[key], tensor, atol=2e-5, rtol=0, msg=lambda text, key=key: f"{key}: {text}")
    assert max(wanted) - min(wanted) > 1e-3, "nothing was learned"
