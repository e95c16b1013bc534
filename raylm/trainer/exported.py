"""The merge-and-serve gate: what was written must say what was trained, before it counts as a checkpoint.

trained model (adapter beside its layers, averages where they are exported) --+
written model, loaded by transformers ----------------------------------------+--> log-probabilities of the same tokens
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from raylm.core.errors import TrainingError
from raylm.core.machine import free_memory
from raylm.model.headers import read_headers, usual_dtype
from raylm.model.load import load_model, on_this_machine
from raylm.parallel.group.hang import LOAD
from raylm.trainer.differing import first_differing

if TYPE_CHECKING:
    import torch

    from raylm.model.head import Asks
    from raylm.model.scores import Inputs, Scores
    from raylm.parallel.engine import Engine
    from raylm.trainer.trainer import Trainer

ROOM = 0.8
"""Part of free memory that the written model may take."""
NOT_WHOLE = ("boundaries", "position_ids")
"""What keeps packed documents apart. Both models read a row as one document here: other programs know no boundaries."""


class Sample(NamedTuple):
    """One sequence of the samples, and what the trained model says of it."""

    tokens: list[int]
    logprobs: dict[int, float]
    """By the place of the token that is predicted."""


class Checked(NamedTuple):
    """What came of the comparison."""

    facts: dict[str, Any]
    """For the manifest."""
    samples: list[Sample]
    """For an engine that is asked the same; [] of models that predict no next token."""


def check_export(trainer: Trainer, inputs: Sequence[Inputs], asks: Asks) -> Checked:
    """Compare the exported checkpoint with the trainer's own weights. Every rank must call; rank 0 loads the checkpoint.

    Args:
        inputs: of the samples, the same on every rank.
        asks: whether values, labels or log-probabilities are compared.

    Returns:
        What was found, on rank 0; the others know nothing.

    Raises:
        TrainingError: they differ by more than is allowed; says the first layer that does.
    """
    engine = trainer.engine
    if not inputs:
        return Checked({}, [])
    trainer.heartbeat.mark("check export", trainer.setup.steps)
    inputs = [one._replace(feed={name: value for name, value in one.feed.items() if name not in NOT_WHOLE}) for one in inputs]
    found, model, words = None, None, ""
    with engine.averages():
        ours = [_values(scores, asks) for scores in engine.forward(inputs, asks)]
        if engine.rank == 0:
            found, model, words = _compared(trainer, inputs, asks, ours)
        # all say the same, because the first rank that raises is heard; and they meet once more where layers are compared
        if words := _of_rank_0(engine, words):
            words += first_differing(engine, model, inputs, asks, found.worst if found else 0)
            raise TrainingError(
                _of_rank_0(engine, words),
                where=trainer.setup.out,
                next="nothing was promoted, step checkpoints are kept: mend what writes these layers and run again, or allow "
                "more with check_export = {max_nats = ...}",
            )
    if found is None:
        return Checked({}, [])
    return Checked(found.facts, [] if asks.values or asks.labels else _samples(inputs, ours))


class _Found(NamedTuple):
    facts: dict[str, Any]
    worst: int
    """Number of the input that differs most."""


def _compared(trainer: Trainer, inputs: Sequence[Inputs], asks: Asks, ours: list[Any]) -> tuple[_Found, Any, str]:
    """On rank 0: what was found, the written model, and why it is refused; "" where it is not."""
    import torch

    from raylm.model.scores import ask

    engine, card = trainer.engine, trainer.cfg.check_export
    folder = on_this_machine(trainer.setup.out)
    tensors = read_headers(Path(folder))
    compute = trainer.cfg.dtype
    size = sum(math.prod(tensor.shape) for tensor in tensors.values()) * (4 if compute == "float32" else 2)
    if size > ROOM * (free := free_memory()):
        trainer.say(f"the checkpoint was not compared: {size / 1e9:.1f} GB, rank 0's machine has {free / 1e9:.1f} GB free")
        return _Found({"not_compared": "larger than the free memory of rank 0's machine"}, 0), None, ""
    # what takes minutes of silence
    trainer.heartbeat.mark(LOAD)
    model = _loaded(folder, "float32" if compute == "float32" else "bfloat16", asks)
    _place(model, engine.device, size)
    total, count, each = 0.0, 0, []
    with torch.no_grad():
        for one, mine_BT in zip(inputs, ours, strict=True):
            engine.tick()
            counts_BT = one.weight_BT != 0
            # NaN on either side is a difference too
            apart_N = (_values(ask(model, one, asks, "chunked"), asks) - mine_BT).abs()[counts_BT].double()
            # of the labels of a text the one that is furthest off
            apart_N = apart_N.amax(-1) if asks.labels else apart_N
            total, count = total + float(apart_N.sum()), count + int(counts_BT.sum())
            each.append(float(apart_N.mean()) if len(apart_N) else 0.0)
    if not count:
        return _Found({"not_compared": "no token of the samples counts"}, 0), None, ""
    nats, allowed = total / count, card.allowed(compute, usual_dtype(tensors))
    facts = {"samples": sum(len(one.weight_BT) for one in inputs), "tokens": count, "nats": nats, "allowed": allowed}
    if nats <= allowed:
        return _Found(facts, 0), None, ""
    what = "values" if asks.values else "labels" if asks.labels else "log-probabilities"
    words = (
        f"the checkpoint does not say what the trained model says: {what} of {count:,} tokens in {facts['samples']} sequences "
        f"differ by {nats:.3g} on average, allowed are {allowed:g} (computed in {compute}, stored in {usual_dtype(tensors)})"
    )
    # a NaN is larger than anything
    worst = max(range(len(each)), key=lambda at: each[at] if each[at] == each[at] else float("inf"))
    return _Found(facts, worst), model, words


def _loaded(folder: str, dtype: str, asks: Asks) -> Any:
    from raylm.model.value_head import with_value_head

    model: Any = load_model(folder, dtype, value_head=asks.values or asks.labels > 0)
    classes = [model.config.id2label[at] for at in range(asks.labels)]
    return (with_value_head(model, 0, classes) if asks.values or asks.labels else model).eval()


def _place(model: Any, device: torch.device, size: int) -> None:
    """Move the model to `device`; where its memory is too small, blocks come one by one and go again."""
    import torch

    if device.type == "cpu":
        return
    torch.cuda.empty_cache()
    if size <= ROOM * torch.cuda.mem_get_info(device)[0]:
        model.to(device)
        return
    from raylm.parallel.blocks import blocks

    def come(block: Any, given: Any) -> None:
        block.to(device)

    def go(block: Any, given: Any, made: Any) -> None:
        block.to("cpu")

    for block in blocks(model):
        block.register_forward_pre_hook(come)
        block.register_forward_hook(go)
    inside = {id(tensor) for block in blocks(model) for tensor in (*block.parameters(), *block.buffers())}
    for module in model.modules():
        for tensor in (*module.parameters(recurse=False), *module.buffers(recurse=False)):
            if id(tensor) not in inside:
                tensor.data = tensor.data.to(device)


def _values(scores: Scores, asks: Asks) -> torch.Tensor:
    return scores.value_BT if asks.values else scores.label_BTC if asks.labels else scores.logprob_BT


def _samples(inputs: Sequence[Inputs], ours: list[Any]) -> list[Sample]:
    """The samples of a model that predicts next tokens, for an engine."""
    found = []
    for one, ours_BT in zip(inputs, ours, strict=True):
        if "input_ids" not in one.feed or set(one.feed) - {"input_ids", "attention_mask"}:
            return []
        for tokens_T, weight_T, ours_T in zip(one.feed["input_ids"], one.weight_BT, ours_BT, strict=True):
            places = weight_T.nonzero()[:, 0].tolist()
            if places:
                # what position t is asked for is token t + 1; behind the last one that counts may be padding
                logprobs = {place + 1: float(ours_T[place]) for place in places}
                found.append(Sample(tokens_T[: places[-1] + 2].tolist(), logprobs))
    return found


def _of_rank_0(engine: Engine, words: str) -> str:
    import torch.distributed as dist

    said = [words]
    if engine.world > 1:
        dist.broadcast_object_list(said, src=0, device=engine.device)
    return said[0]
