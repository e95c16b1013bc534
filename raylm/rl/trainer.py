"""The trainer of RL: tasks that update the weights on a rank group, which keeps its state."""

from __future__ import annotations

from collections import deque
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, NamedTuple

from raylm.core.config import Config, resolve
from raylm.core.storage import Folder
from raylm.data.batch import pad, share_of
from raylm.inference.weight_transfer import Sent, send_weights
from raylm.model.head import Asks
from raylm.model.leaks import check_documents
from raylm.model.load import load_model
from raylm.model.preflight import Needs
from raylm.model.scores import Inputs, Scores, causal
from raylm.parallel.assemble import assemble
from raylm.parallel.checkpoints.saver import Saver
from raylm.parallel.checkpoints.steps import Keeping
from raylm.parallel.engine import Engine
from raylm.parallel.group.hang import LOAD
from raylm.rl.types import Sample

if TYPE_CHECKING:
    from raylm.parallel.group.ranks import Ranks
    from raylm.rl.config import RL

STATE = "rl trainer"
# the generator takes weights by the names of a text model, and would not read a head that config.json calls tied
NEEDS = Needs("causal", plain=True, engine=True, text=True)


class Setup(Config):
    """What the driver resolved for the ranks."""

    run: str
    """Fingerprint of the stage: a group that still holds another stage's trainer must not take it for this one."""
    model_path: str
    pad_id: int
    out: str
    work: str


class Held(NamedTuple):
    """What a group of ranks keeps from task to task."""

    run: str
    engine: Engine
    config: Any
    saver: Saver


def build(ranks: Ranks, cfg: RL, setup: Setup) -> dict[str, Any] | None:
    """Make the engine and load the newest step checkpoint; returns that checkpoint's facts, or None at a fresh start."""
    # here, because the driver imports this file and needs no torch
    from raylm.parallel.start import begin

    def make() -> Any:
        ranks.heartbeat.mark(LOAD)
        model = load_model(setup.model_path, "float32", plain=True)
        if cfg.mesh.context > 1:
            check_documents(model, "mesh.context")
        return model

    model, weight_loader = begin(make, ranks.rank, ranks.world, ranks.device)
    ranks.heartbeat.mark("start")
    # the generator drops nothing out: with dropout the ratio of new to old probability would be noise at equal weights
    engine = assemble(
        model.train(), cfg, cfg.iterations, rank=ranks.rank, world=ranks.world, weight_loader=weight_loader
    ).drop_nothing()
    if weight_loader:
        weight_loader.close()
    engine.tick = ranks.heartbeat.tick
    if STATE in ranks.held:
        ranks.held[STATE].saver.close()
    ranks.held[STATE] = Held(setup.run, engine, model.config, Saver(engine, Folder(setup.work), Keeping(cfg.keep)))
    return ranks.held[STATE].saver.load()


def update(ranks: Ranks, cfg: RL, setup: Setup, samples: list[Sample]) -> dict[str, float] | None:
    """One optimizer step over all samples; None when this group is a fresh one and holds no trainer."""
    engine = _engine(ranks, setup)
    if engine is None:
        return None
    algorithm: Any = resolve(cfg.algorithm)
    weight = float(sum(len(sample.logprobs) for sample in samples))
    micros = share_of(samples, engine.grid.data_rank, engine.grid.data_world, cfg.micro_batch)
    inputs = [_inputs(micro, setup.pad_id, ranks.device) for micro in micros]

    def loss(index: int, scores: Scores) -> Any:
        ranks.heartbeat.mark("backward", engine.done)
        made = algorithm.loss(scores.logprob_BT, *_credits(micros[index], inputs[index]))
        return made._replace(total=made.total / weight)

    sums = engine.accumulate(inputs, loss, Asks(temperature=cfg.temperature))
    ranks.heartbeat.mark("optimizer", engine.done)
    stats = engine.step()
    means = {name: total / weight for name, total in sums.items()}
    return {**means, "grad_norm": stats.grad_norm, "lr": stats.lr, "finite": stats.finite}


def _inputs(micro: list[tuple[Sample, float]], pad_id: int, device: Any) -> Inputs:
    import numpy as np

    tokens = [np.asarray(sample.tokens) for sample, _ in micro]
    return causal(pad(tokens, [_mask(sample, counts) for sample, counts in micro], pad_id, device))


def _credits(micro: list[tuple[Sample, float]], inputs: Inputs) -> tuple[Any, Any, Any]:
    """The generator's log-probabilities [B, T] where their tokens are asked for, advantages [B], mask [B, T]."""
    import torch

    old_BT = torch.zeros_like(inputs.weight_BT)
    for row, (sample, _) in enumerate(micro):
        # token t is asked for at position t - 1
        old_BT[row, sample.num_prompt - 1 : len(sample.tokens) - 1] = torch.tensor(sample.logprobs)
    advantage_B = torch.tensor([sample.advantage for sample, _ in micro], device=old_BT.device)
    return old_BT, advantage_B, inputs.weight_BT


def skip(ranks: Ranks, cfg: RL, setup: Setup) -> dict[str, float] | None:
    """Count a iteration without samples (every group scored alike), so that schedule and step numbers go on. Nothing was learned,
    so there is no loss, gradient or rate to tell."""
    engine = _engine(ranks, setup)
    if engine is None:
        return None
    engine.done += 1
    return {"finite": True}


def send(
    ranks: Ranks, setup: Setup, generators: list[Any], version: int, deadline_s: float, averaged: bool = False
) -> Sent | None:
    """Send all weights from rank 0 to `generators`, see `send_weights`. None in a fresh group.

    Args:
        averaged: their moving averages, where these are kept.
    """
    engine = _engine(ranks, setup)
    if engine is None:
        return None
    sent = None
    with engine.averages() if averaged else nullcontext():
        stream = engine.stream()
        try:
            if ranks.rank == 0:
                sent = send_weights(stream, generators, version, deadline_s, tick=ranks.heartbeat.tick)
        finally:
            # all ranks must come to the end: they meet in each tensor
            deque(stream, maxlen=0)
    return sent


def save(ranks: Ranks, cfg: RL, setup: Setup, facts: dict[str, Any]) -> None:
    """One step checkpoint, written in the background; none in a fresh group, whose next update says that there is no trainer."""
    held = _held(ranks, setup)
    if held is not None:
        _, before = held.saver.copy()
        if before and before.failure:
            ranks.say(before.failure.what)
        held.saver.write(facts)


def export(ranks: Ranks, setup: Setup) -> bool:
    """Write the trained weights, or their moving averages, as a checkpoint and let the trainer go; False in a fresh group."""
    from raylm.trainer.export import write_streamed

    engine = _engine(ranks, setup)
    if engine is None:
        return False
    held = ranks.held.pop(STATE)
    held.saver.wait()
    held.saver.check_owner()
    held.saver.close()
    with engine.averages():
        write_streamed(engine, Folder(setup.out), held.config, setup.model_path, base=setup.model_path)
    return True


def _engine(ranks: Ranks, setup: Setup) -> Any:
    """The engine that `build` made for this run in this group, or None."""
    held = _held(ranks, setup)
    return None if held is None else held.engine


def _held(ranks: Ranks, setup: Setup) -> Held | None:
    held = ranks.held.get(STATE)
    return None if held is None or held.run != setup.run else held


def _mask(sample: Sample, counts: float) -> Any:
    import numpy as np

    mask = np.zeros(len(sample.tokens), dtype=np.float32)
    mask[sample.num_prompt :] = counts
    return mask
