"""Adapters on the device: matrices in 4 bits against what they stand for, and LoRA and QLoRA of 1 B weights over packed rows of
4,096 tokens beside a loop of transformers and peft."""

from __future__ import annotations

import tempfile
import time
from functools import partial
from typing import Any

from tests.bench.gpu.check import Check, apart, device, milliseconds, need

SHAPE = {"hidden_size": 2048, "num_layers": 16, "num_heads": 32, "num_kv_heads": 8, "intermediate_size": 8192}
TINY = {"hidden_size": 64, "num_layers": 2, "num_heads": 4, "num_kv_heads": 2, "intermediate_size": 192}
STEPS, WARM, RANK, LR = 8, 3, 16, 2e-4


def four_bits(smoke: bool) -> dict[str, Any]:
    """A layer's output and gradient against those of what its bytes stand for; bytes of this device against a CPU's."""
    import torch

    from raylm.model.linear_4bit import Quantization, quantize_layers

    need("bitsandbytes")
    at, size, how = device(), 256 if smoke else 4096, Quantization()
    torch.manual_seed(0)
    plain = torch.nn.Sequential(torch.nn.Linear(size, size, bias=False)).to(at, torch.bfloat16)
    matrix_OI = plain[0].weight.detach().clone()
    quantize_layers(plain, ["0"], how)
    found, meant = how.pack(matrix_OI).cpu(), how.pack(matrix_OI.cpu())
    layer, dense = plain[0], plain[0].matrix(dtype=torch.bfloat16)
    ours = torch.randn(size, size, device=at, dtype=torch.bfloat16, requires_grad=True)
    theirs = ours.detach().clone().requires_grad_()
    made, expected = layer(ours), torch.nn.functional.linear(theirs, dense)
    slope = torch.randn_like(made)
    made.backward(slope)
    expected.backward(slope)
    same = bool(made.equal(expected)) and bool(ours.grad.equal(theirs.grad))
    rounding = float((dense.float() - matrix_OI.float()).norm() / matrix_OI.float().norm())
    figures = {"rounding": rounding, "bytes_unlike_the_cpus": int((found != meant).sum()), "bytes": len(found)}
    times = {
        "ms": milliseconds(lambda: layer(ours.detach()), 5),
        "dense_ms": milliseconds(lambda: torch.nn.functional.linear(theirs.detach(), dense), 5),
    }
    return {"ok": same and rounding < 0.11, **figures, **times}


def adapter(kind: str, smoke: bool) -> dict[str, Any]:
    """Tokens per second and memory of raylm and of transformers and peft, one after the other; the same first losses."""
    import torch

    need("peft")
    if kind == "qlora":
        need("bitsandbytes")
    length, vocab, micro = (64, 512, 2) if smoke else (4096, 32_768, 2)
    from raylm.model.shapes.llama import Llama

    shape = Llama(**(TINY if smoke else SHAPE), max_length=length)
    facts = {"vocab_size": vocab, "length": length, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    torch.manual_seed(0)
    with torch.device(device()):
        model: Any = shape.build(facts, 0).to(torch.bfloat16)
    with tempfile.TemporaryDirectory() as at:
        model.save_pretrained(at)
        del model
        found = {name: _measured(partial(make, kind, at, length, vocab, micro)) for name, make in CONTESTANTS.items()}
    far = apart(found["ours"]["losses"], found["theirs"]["losses"])
    ratio = found["ours"]["tokens_per_s"] / found["theirs"]["tokens_per_s"]
    figures = {f"{who}_{key}": value for who, of in found.items() for key, value in of.items() if key != "losses"}
    return {"ok": far < 2e-2 and (smoke or ratio >= 1.0), "ratio": ratio, "loss_difference": far, **figures}


def _measured(make: Any) -> dict[str, Any]:
    """Speed, peak memory of the device and losses of what `make` returns: a step, and the tokens that it learns from."""
    import gc
    import statistics

    import torch

    on_gpu = device() == "cuda"
    gc.collect()
    if on_gpu:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    step, tokens = make()
    losses, times = [], []
    for index in range(STEPS):
        started = time.perf_counter()
        losses.append(step(index))
        if on_gpu:
            torch.cuda.synchronize()
        times.append(time.perf_counter() - started)
    peak = torch.cuda.max_memory_allocated() / 1e9 if on_gpu else 0.0
    return {"tokens_per_s": tokens / statistics.median(times[WARM:]), "memory_gb": peak, "losses": losses}


def _rows(length: int, vocab: int, count: int) -> list[dict[str, Any]]:
    """Rows of three documents that do not see each other."""
    import numpy as np

    draw = np.random.default_rng(0)
    tokens = draw.integers(3, vocab, (count, length)).astype(np.int64)
    return [{"tokens": row, "starts": [0, length // 3, length // 2]} for row in tokens]


def _ours(kind: str, at: str, length: int, vocab: int, micro: int) -> tuple[Any, int]:
    from raylm.parallel.assemble import assemble
    from raylm.train.batches import Batches
    from raylm.train.config import Train
    from tests.bench.gpu.check import one_step

    cfg: Any = Train.model_validate(
        {"stage": "train", "rows": "rows", "model": at, "batch": micro, "micro_batch": micro, "steps": STEPS,
         "strategy": {"kind": "ddp"}, "document_mask": True, "dtype": "bfloat16", "activation_checkpointing": "full",
         "optimizer": {"lr": LR, "warmup": 0, "schedule": "constant", "weight_decay": 0.0, "clip": 1.0},
         "adapter": {"kind": kind, "rank": RANK, "alpha": 2 * RANK}, "workers": {"count": 1}}
    )  # fmt: skip
    base = cfg.adapter.load_base(at, "bfloat16").to(device())
    engine = assemble(cfg.adapter.attach(base, 0).train(), cfg, STEPS)
    batches = Batches(
        _rows(length, vocab, STEPS * micro), "Tokens", batch=micro, micro=micro, seed=0, pad_id=0, rank=0, world=1,
        device=device(), document_mask=True,
    )  # fmt: skip
    return lambda index: one_step(engine, cfg.objective, batches.at(index)), micro * length


def _theirs(kind: str, at: str, length: int, vocab: int, micro: int) -> tuple[Any, int]:
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    from raylm.data.order import batch_indices

    how: dict[str, Any] = {}
    if kind == "qlora":
        how["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=torch.bfloat16
        )
    model: Any = AutoModelForCausalLM.from_pretrained(
        at, dtype=torch.bfloat16, attn_implementation="sdpa", device_map={"": device()}, **how
    )
    model.gradient_checkpointing_enable({"use_reentrant": False})
    torch.manual_seed(0)
    model = get_peft_model(model, LoraConfig(r=RANK, lora_alpha=2 * RANK, target_modules="all-linear", task_type="CAUSAL_LM"))
    model.train()
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=LR, betas=(0.9, 0.95), weight_decay=0.0, fused=True)
    rows = _rows(length, vocab, STEPS * micro)
    ends = [*rows[0]["starts"][1:], length]
    positions_T = torch.cat(
        [torch.arange(end - start) for start, end in zip(rows[0]["starts"], ends, strict=True)]
    )  # each document counts anew: what transformers makes its mask of

    def step(index: int) -> float:
        picked = [rows[number] for number in batch_indices(len(rows), micro, index, 0)]
        tokens_BT = torch.stack([torch.from_numpy(row["tokens"]) for row in picked]).to(device())
        # a document's first token is not foretold by the one before it
        labels_BT = tokens_BT.masked_fill((positions_T == 0).to(device()), -100)
        positions_BT = positions_T.expand_as(tokens_BT).to(device())
        with torch.autocast(device(), torch.bfloat16):
            loss = model(input_ids=tokens_BT, position_ids=positions_BT, labels=labels_BT, use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return float(loss.detach())

    return step, micro * length


CONTESTANTS = {"theirs": _theirs, "ours": _ours}

CHECKS = {
    "four_bits": Check(four_bits, 60),
    "lora_1b": Check(partial(adapter, "lora"), 150),
    "qlora_1b": Check(partial(adapter, "qlora"), 150),
}
