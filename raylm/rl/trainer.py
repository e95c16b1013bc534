"""The trainer of RL: tasks that update the weights on a rank group, which keeps its state."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection
from typing import TYPE_CHECKING, Any, NamedTuple

from raylm.core.config import resolve
from raylm.core.errors import GroupLost
from raylm.data.batch import pad
from raylm.data.shards import Rows
from raylm.inference.weight_transfer import Sent
from raylm.model.head import Asks
from raylm.model.leaks import check_documents
from raylm.model.preflight import Needs
from raylm.model.scores import Inputs, causal
from raylm.model.value_beside import with_value_beside
from raylm.rl.config import RL
from raylm.rl.critic import NAME, Critic, build_critic, needs_critic, shares
from raylm.rl.policy import STEPS_TAKEN, PolicyTrainer, Setup
from raylm.rl.probes import probes_of
from raylm.rl.types import Experience
from raylm.trainer.build import build as build_engine
from raylm.trainer.build import flops_of, load_start
from raylm.trainer.exported import check_export
from raylm.trainer.padding import PaddingFree
from raylm.trainer.teacher import build_teacher

if TYPE_CHECKING:
    from raylm.parallel.group.ranks import Ranks

__all__ = ["CRITIC_NEEDS", "HELD", "NEEDS", "STEPS_TAKEN", "Setup"]

HELD = "trainer"
# the generator takes weights by the names of a text model, and would not read a head that config.json calls tied
NEEDS = Needs("causal", plain=True, engine=True, text=True)
CRITIC_NEEDS = Needs("causal", plain=True, text=True, value_head=True)


class Exported(NamedTuple):
    """What was written."""

    parameters: int
    """Number of the model's weights."""
    facts: dict[str, Any]
    """Of the comparison with the weights that were trained."""
    samples: list[Any]
    """What an engine is to be asked."""


def build(ranks: Ranks, cfg: RL, setup: Setup) -> dict[str, Any]:
    """Make the trainer, from the newest step checkpoint if there is one; returns what `resume` does."""
    if HELD in ranks.held:
        ranks.held.pop(HELD).saver.close()
    algorithm = resolve(cfg.algorithm)
    steps, padding = setup.steps * cfg.steps_per_iteration, _padding(cfg, algorithm)

    def load() -> Any:
        model = load_start(cfg, str(setup.model_path))
        if cfg.mesh.context > 1:
            check_documents(model, "mesh.context")
        padding.look_at(model)
        return with_value_beside(model, cfg.seed) if shares(cfg) else model

    engine, reference, parameters, config = build_engine(ranks, cfg, steps, load, _needs_reference(algorithm))
    teacher = build_teacher(ranks, cfg, steps, setup.teacher) if setup.teacher else None
    beside = {}
    if needs_critic(algorithm) and not shares(cfg):
        path = str(setup.critic_path or setup.model_path)
        beside[NAME] = build_critic(ranks, cfg, cfg.critic or Critic(), steps, path, padding.look_at)
    ranks.held[HELD] = PolicyTrainer(
        cfg=cfg,
        setup=setup,
        # the generator drops nothing out: with dropout the ratio of new to old probability would be noise at equal weights
        engine=engine.drop_nothing(),
        reference=reference,
        teacher=teacher,
        beside=beside,
        say=ranks.say,
        heartbeat=ranks.heartbeat,
        flops=flops_of(cfg, config.to_dict(), setup.length, ranks.world, 1 + 3 * bool(beside)),
        algorithm=algorithm,
        parameters=parameters,
        config=config,
        shares_prompts=padding.agreed(engine, ranks.say),
    )
    return resume(ranks, setup)


def resume(ranks: Ranks, setup: Setup, iteration: int | None = None) -> dict[str, Any]:
    """Go on from the step checkpoint of `iteration`, or the newest: its facts, the iteration (0 at a fresh start) and the
    decisions about spikes so far."""
    trainer = _trainer(ranks, setup)
    found = trainer.resume(iteration) or {}
    return {**found, "iteration": trainer.saver.newest, "decisions": trainer.course.decisions}


def score(ranks: Ranks, setup: Setup, experience: Experience, needs: Collection[str]) -> Experience:
    """See `PolicyTrainer.score`."""
    return _trainer(ranks, setup).score(experience, needs)


def update(ranks: Ranks, setup: Setup, iteration: int, experience: Experience) -> dict[str, Any]:
    """See `PolicyTrainer.learn`."""
    return _trainer(ranks, setup).learn(iteration, experience)


def send(ranks: Ranks, setup: Setup, generators: list[Any], version: int, deadline_s: float, averaged: bool) -> Sent | None:
    """Send all weights from rank 0 to `generators`, see `send_weights`; rank 0's count.

    Args:
        averaged: their moving averages, where these are kept.
    """
    trainer = _trainer(ranks, setup)
    probe = probes_of(trainer, setup.rows_uris[0], setup.tokens["pad_token_id"], averaged)
    sync = trainer.cfg.generator.sync
    # generators merge where they get the adapter alone
    layers = trainer.engine.bare.adapted if getattr(sync, "adapter", False) else None
    stream, sent = trainer.weights(averaged, merged=layers is None), None
    try:
        if ranks.rank == 0:
            trainer.sender = trainer.sender or sync.sender()
            sent = trainer.sender.send(stream, generators, version, deadline_s, tick=ranks.heartbeat.tick, layers=layers)
            sent = sent._replace(probe=probe)
    finally:
        # all ranks must come to the end: they meet in each tensor
        deque(stream, maxlen=0)
    return sent


def save(ranks: Ranks, setup: Setup, iteration: int, facts: dict[str, Any], rows: list[dict[str, Any]]) -> None:
    """One step checkpoint, written in the background.

    Args:
        facts: what it says beside its tensors.
        rows: metrics of the iterations since the one before.
    """
    trainer = _trainer(ranks, setup)
    _, before = trainer.saver.copy()
    if before and before.failure:
        ranks.say(before.failure.what)
    trainer.facts |= facts
    for row in rows:
        trainer.history.add(row)
    trainer.write(iteration)


def export(ranks: Ranks, setup: Setup) -> Exported:
    """Write ledger and checkpoint, compare it with the weights that were trained, and let the trainer go."""
    trainer = _trainer(ranks, setup)
    trainer.saver.wait()
    trainer.finish(trainer.cfg.iterations, lambda position: setup.rows_at(trainer.cfg, position), trainer.cfg.in_order)
    trainer.export(trainer.config)
    checked = check_export(trainer, _samples(trainer, setup), Asks())
    samples = checked.samples if trainer.cfg.check_export.vllm else []
    return Exported(ranks.held.pop(HELD).parameters, checked.facts, samples)


def _samples(trainer: PolicyTrainer, setup: Setup) -> list[Inputs]:
    """Prompts on which the exported checkpoint is compared, the same on every rank: held-out ones where there are any."""
    import numpy as np

    uri, count = setup.rows_uris[0], trainer.cfg.check_export.samples
    if not count:
        return []
    held_out = Rows.open(uri, "held_out")
    rows = held_out if len(held_out) else Rows.open(uri, "train")
    tokens = [np.asarray(rows[index]["tokens"]) for index in range(min(count, len(rows)))]
    size, pad_id = trainer.cfg.micro_batch, setup.tokens["pad_token_id"]
    parts = [tokens[at : at + size] for at in range(0, len(tokens), size)]
    return [causal(pad(part, [np.ones(len(each)) for each in part], pad_id, trainer.engine.device)) for part in parts]


def _trainer(ranks: Ranks, setup: Setup) -> PolicyTrainer:
    """The trainer that `build` made for this run. Raises GroupLost where this group holds none, or another run's."""
    trainer = ranks.recall(HELD)
    if trainer.setup.run != setup.run:
        raise GroupLost("this group of ranks holds another run's trainer")
    return trainer


def _padding(cfg: RL, algorithm: Any) -> PaddingFree:
    """Whether completions share the computation of their prompts: `auto` does so where there are several of a prompt."""
    refused = None
    if cfg.balance:
        refused = "`balance` is of whole rows"
    elif "teacher" in getattr(algorithm, "needs", ()):
        refused = "a teacher answers padded rows"
    return PaddingFree(cfg.padding_free, algorithm.num_generations > 1, refused)


def _needs_reference(algorithm: Any) -> bool:
    return "reference" in getattr(algorithm, "needs", ())
