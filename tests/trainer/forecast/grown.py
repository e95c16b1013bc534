"""The memory that a rank takes to train a layout, measured in a process of its own, beside the forecast."""

from __future__ import annotations

import ctypes
import json
import re
from pathlib import Path
from typing import Any

SHAPE = {"hidden_size": 512, "num_layers": 8, "num_heads": 8, "intermediate_size": 2048, "max_length": 256}
FACTS = {"vocab_size": 4096, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, "length": 256}
LENGTH, STEPS = 256, 2


def measured(rank: int, world: int, keys: dict[str, Any], rows: int, at: str = "") -> tuple[float, float]:
    """(bytes that the process grew by at its peak, bytes by forecast) of two steps over `rows` rows per rank.

    Args:
        at: folder of the model, SHAPE's when absent.
    """
    import torch

    from raylm.parallel.assemble import assemble
    from raylm.train.batches import Batches
    from raylm.train.config import Train
    from raylm.trainer.build import load_start
    from raylm.trainer.forecast.memory import memory_of

    # freed blocks go back to the system at once: what is measured is what is held
    ctypes.CDLL("libc.so.6").mallopt(-3, 1 << 16)
    batch = rows * world
    cfg = Train.model_validate(
        {"stage": "train", "rows": "r", "model": at or SHAPE, "batch": batch, "micro_batch": rows, "steps": STEPS,
         "workers": {"count": world}, **keys}
    )  # fmt: skip
    objective: Any = cfg.objective
    data = [{"tokens": torch.arange(i, i + LENGTH).numpy() % 4000} for i in range(batch)]
    warm()
    Path("/proc/self/clear_refs").write_text("5")
    before = _status("VmRSS")
    model: Any = (load_start(cfg, at) if at else cfg.model.build(FACTS, 0)).train()  # type: ignore[union-attr]
    model = cfg.adapter.attach(model, 0) if cfg.adapter else model
    engine = assemble(model, cfg, STEPS, rank=rank, world=world)
    del model
    batches = Batches(data, "Tokens", batch=batch, micro=rows, seed=0, pad_id=0, rank=rank, world=world)
    for step in range(STEPS):
        micros = batches.at(step)
        inputs = [objective.inputs(micro, 0) for micro in micros]

        def loss(index: int, scores: Any, inputs: Any = inputs, micros: Any = micros) -> Any:
            made = objective.loss(scores, inputs[index], micros[index])
            return made._replace(total=made.total / 1000)

        engine.accumulate(inputs, loss, objective.asks())
        engine.step()
    grown = _status("VmHWM") - before
    config = json.loads((Path(at) / "config.json").read_text()) if at else cfg.model.config({"vocab_size": 4096})  # type: ignore[union-attr]
    forecast = memory_of(cfg, config, length=LENGTH, micro=rows, world=world, num_micros=1)
    return grown, forecast.total - forecast.process


def warm() -> None:
    """Pages of libraries, and what a first forward and backward pass touches of them, are no cost of the model."""
    import peft  # noqa: F401
    import torch
    from transformers import AutoModelForCausalLM  # noqa: F401

    x = torch.randn(64, 64, requires_grad=True)
    torch.nn.functional.scaled_dot_product_attention(x[None, None], x[None, None], x[None, None], is_causal=True).sum().backward()
    torch.optim.AdamW([x], fused=True).step()


def _status(name: str) -> float:
    found = re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found
    return float(found.group(1)) * 1024
