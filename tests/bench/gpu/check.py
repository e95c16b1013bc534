"""What a check of gpu_check is, and what many of them need: a device, a small training run, peak memory, times."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple


class Check(NamedTuple):
    """`run(smoke)` returns figures; `ok` among them is False where they are not what they should be."""

    run: Callable[[bool], dict[str, Any]]
    limit_s: float = 60.0


class Skipped(Exception):
    """What a check needs is not here."""


SHAPE = {"hidden_size": 1024, "num_layers": 8, "num_heads": 16, "num_kv_heads": 8, "intermediate_size": 2816}
TINY = {"hidden_size": 64, "num_layers": 2, "num_heads": 4, "num_kv_heads": 2, "intermediate_size": 192}
LENGTH, VOCAB, BATCH, MICRO = 1024, 32_768, 16, 4
TINY_LENGTH, TINY_VOCAB = 64, 512


def device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def need_gpu(why: str = "needs a GPU") -> None:
    """Raises Skipped without one."""
    if device() != "cuda":
        raise Skipped(why)


def need(package: str) -> None:
    """Raises Skipped where a package is not installed."""
    from importlib.util import find_spec

    if find_spec(package) is None:
        raise Skipped(f"{package} is not installed")


class Trained(NamedTuple):
    losses: list[float]
    step_s: float
    """Median without the first two steps, which compile and warm up."""
    first_s: float
    peak: int
    """Bytes of the device beyond what lay there before the model; 0 on CPUs."""
    engine: Any


def trained(
    table: dict[str, Any] | None = None,
    *,
    smoke: bool,
    steps: int = 10,
    at: str | None = None,
    tiny: bool | None = None,
    model: Any = None,
    packed: bool = False,
) -> Trained:
    """Train a Llama of 0.15 B parameters (`tiny`: 0.1 M) for some steps on fixed rows.

    Args:
        table: keys of the train stage.
        at: device.
        model: in place of a new one.
        packed: rows of several documents that do not see each other.
    """
    import gc

    import torch

    from raylm.parallel.assemble import assemble
    from raylm.train.batches import Batches

    tiny, at = smoke if tiny is None else tiny, at or device()
    cfg = stage(table, tiny=tiny, steps=steps, packed=packed)
    # an engine and its gradients know each other: what is left of the run before must not be freed in the middle of this one
    gc.collect()
    if at == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated() if at == "cuda" else 0
    bare = model if model is not None else built(cfg, tiny).to(at)
    if cfg.adapter:
        # frozen weights are held in the dtype of compute
        bare = cfg.adapter.attach(bare if cfg.dtype == "float32" else bare.to(torch.bfloat16), 0)
    engine = assemble(bare.train(), cfg, steps)
    batches = Batches(
        rows(tiny, steps * cfg.batch), "Tokens", batch=cfg.batch, micro=cfg.micro_batch, seed=0, pad_id=0, rank=0, world=1,
        device=at, document_mask=packed,
    )  # fmt: skip
    losses, times = [], []
    for step in range(steps):
        started = time.perf_counter()
        losses.append(one_step(engine, cfg.objective, batches.at(step)))
        times.append(time.perf_counter() - started)
    peak = torch.cuda.max_memory_allocated() - before if at == "cuda" else 0
    return Trained(losses, statistics.median(times[2:] or times), times[0], peak, engine)


def one_step(engine: Any, objective: Any, micros: list[Any]) -> float:
    """One optimizer step; the mean loss before it."""
    import torch

    inputs = [objective.inputs(micro, 0) for micro in micros]
    weight = sum(objective.weight(micro, one) for micro, one in zip(micros, inputs, strict=True))

    def loss(index: int, scores: Any) -> Any:
        made = objective.loss(scores, inputs[index], micros[index])
        return made._replace(total=made.total / weight)

    sums = engine.accumulate(inputs, loss, objective.asks())
    engine.step()
    if engine.device.type == "cuda":
        torch.cuda.synchronize()
    return sums["loss"] / weight


def stage(table: dict[str, Any] | None, *, tiny: bool, steps: int, packed: bool = False) -> Any:
    """A train stage on one rank of this machine."""
    from raylm.train.config import Train

    shape = {**(TINY if tiny else SHAPE), "max_length": TINY_LENGTH if tiny else LENGTH}
    return Train.model_validate(
        {"stage": "train", "rows": "rows", "model": shape, "batch": BATCH, "micro_batch": MICRO, "steps": steps,
         "strategy": {"kind": "ddp"}, "optimizer": {"lr": 3e-4, "warmup": 2}, "document_mask": packed,
         "workers": {"count": 1, "gpus": 1 if device() == "cuda" else 0}, **(table or {})}
    )  # fmt: skip


def facts(tiny: bool) -> dict[str, Any]:
    vocab, length = (TINY_VOCAB, TINY_LENGTH) if tiny else (VOCAB, LENGTH)
    return {"vocab_size": vocab, "length": length, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}


def built(cfg: Any, tiny: bool) -> Any:
    return cfg.model.build(facts(tiny), 0)


def rows(tiny: bool, count: int) -> list[dict[str, Any]]:
    """Runs of a few fixed phrases, so that there is something to learn; each row is three documents."""
    import numpy as np

    vocab, length = (TINY_VOCAB, TINY_LENGTH) if tiny else (VOCAB, LENGTH)
    draw = np.random.default_rng(0)
    phrases = draw.integers(3, vocab, (200, 8))
    picked = phrases[draw.integers(0, 200, (count, length // 8))].reshape(count, length)
    return [{"tokens": row, "starts": [0, length // 3, length // 2]} for row in picked.astype(np.int64)]


def apart(left: list[float], right: list[float]) -> float:
    """Largest relative difference of two series."""
    return max(abs(a - b) / max(abs(a), abs(b), 1e-12) for a, b in zip(left, right, strict=True))


def milliseconds(call: Callable[[], Any], repeats: int) -> float:
    """Of one call, after one that warms up."""
    import torch

    call()
    times = []
    for _ in range(repeats):
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        started = time.perf_counter()
        call()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        times.append(time.perf_counter() - started)
    return 1e3 * statistics.median(times)
