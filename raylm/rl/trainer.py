"""The trainer of RL: tasks that update the weights on a rank group, which keeps its state."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from raylm.core.config import resolve
from raylm.core.errors import GroupLost
from raylm.data.batch import Batch, Taught, pad, share_of
from raylm.data.order import batch_indices
from raylm.data.shards import Rows
from raylm.inference.weight_transfer import Sent, send_weights
from raylm.model.head import Asks
from raylm.model.leaks import check_documents
from raylm.model.preflight import Needs
from raylm.model.scores import Inputs, Scores, causal
from raylm.rl.config import RL
from raylm.rl.types import Experience, LossInputs, Sample
from raylm.trainer import setup as base
from raylm.trainer.build import build as build_engine
from raylm.trainer.build import flops_of, load_start
from raylm.trainer.exported import check_export
from raylm.trainer.loss import Loss
from raylm.trainer.teacher import build_teacher
from raylm.trainer.teacher_scores import asked, taught
from raylm.trainer.trainer import LossOf, StepInputs, Trainer

if TYPE_CHECKING:
    from raylm.parallel.group.ranks import Ranks

HELD = "trainer"
STEPS_TAKEN = "optimizer_steps"
"""Metric and fact: updates that changed the weights."""
# the generator takes weights by the names of a text model, and would not read a head that config.json calls tied
NEEDS = Needs("causal", plain=True, engine=True, text=True)


class Exported(NamedTuple):
    """What was written."""

    parameters: int
    """Number of the model's weights."""
    facts: dict[str, Any]
    """Of the comparison with the weights that were trained."""
    samples: list[Any]
    """What an engine is to be asked."""


class Setup(base.Setup):
    """What the driver resolved for the ranks."""

    run: str
    """Name of this run: a group that still holds another one's trainer must not take it for this one."""
    prompt_rows: list[int]
    """Prompts that can be scored."""
    length: int
    """Most tokens of a prompt and its completion."""

    def rows_at(self, cfg: RL, position: int) -> list[int]:
        """Rows of the prompts at `position` of their order."""
        # a batch that reaches over the end of an epoch may name a row twice; asked once, its group stays one group
        found = batch_indices(len(self.prompt_rows), cfg.prompts_per_iteration, position, cfg.seed)
        return [self.prompt_rows[index] for index in dict.fromkeys(found)]


@dataclass(kw_only=True)
class PolicyTrainer(Trainer):
    """Engine and algorithm of one run on one rank."""

    cfg: RL
    setup: Setup
    algorithm: Any
    parameters: int
    config: Any
    """The model's config, before the model was laid out."""
    sender: Any = None
    """What brings weights to generators, with what it knows of the last time; made by the first sync."""

    judges_loss: ClassVar[bool] = False

    def learn(self, iteration: int, experience: Experience) -> dict[str, Any]:
        """One optimizer step over all samples, none where there are no samples; its metrics, or the `decision` about a spike."""
        first = self.engine.grid.rank == 0  # every rank has the whole experience: one of them counts its rows
        learned = sorted({sample.row for sample in experience.samples})
        values: dict[str, Any] | None = {"finite": True}
        if experience.samples:
            values = self._step(iteration, experience, learned if first else [])
            if values is None:
                return {"decision": self.pass_over(iteration, experience.rows)}
            self.facts[STEPS_TAKEN] = self.facts.get(STEPS_TAKEN, 0) + values["finite"]
            values[STEPS_TAKEN] = self.facts[STEPS_TAKEN]
            self.check_skipped(iteration, values, lambda: experience.rows)
        else:
            # the schedule counts iterations: it would not come to its end
            self.engine.pass_step()
        rest = sorted(set(experience.rows) - set(learned)) if first else []
        self.ledger.add(iteration, experience.position, rest, trained=False)
        return values

    def _step(self, iteration: int, experience: Experience, rows: list[int]) -> dict[str, Any] | None:
        samples, grid = experience.samples, self.engine.grid
        self.meter.start()
        self.heartbeat.mark("data", iteration)
        micros = share_of(samples, grid.data_rank, grid.data_world, self.cfg.micro_batch)
        batches = [_batch(micro, self.setup.tokens["pad_token_id"], self.engine.device) for micro in micros]
        inputs = [causal(one) for one in batches]
        self.meter.read()
        asks, told = Asks(temperature=self.cfg.temperature), list[Taught | None]([None] * len(inputs))
        if self.teacher:
            asks, inputs, told = self._ask_teacher(asks, inputs)
        batch = StepInputs(
            inputs=inputs,
            weight=float(sum(len(sample.logprobs) for sample in samples)),
            unit="completion_tokens",
            tokens=float(sum(len(sample.tokens) for sample in samples)),
            counted_BT=[one.counted_BT for one in batches],
            position=experience.position,
            rows=rows,
        )

        def make_loss() -> LossOf:
            references: list[Any] = [None] * len(inputs)
            if _needs_reference(self.algorithm):
                references = self.forward_reference(inputs, asks)

            def loss(index: int, scores: Scores) -> Loss:
                made = _loss_inputs(micros[index], inputs[index], scores, references[index])
                return self.algorithm.loss(made._replace(taught=told[index], scores=scores))

            return loss

        with self.profiler.step(iteration):
            return self.update(iteration, batch, make_loss, asks)

    def _ask_teacher(self, asks: Asks, inputs: list[Inputs]) -> tuple[Asks, list[Inputs], list[Taught | None]]:
        """What the policy is asked of the teacher's likeliest tokens, and what the teacher says of them."""
        assert self.teacher is not None
        card, words = self.algorithm, self.setup.tokens["vocab_size"]
        count = min(card.top_k, words)
        found = [taught(each) for each in self.teacher.forward(inputs, asked(count, words, card.temperature))]
        more = [one._replace(id_BTK=each.id_BTK) for one, each in zip(inputs, found, strict=True)]
        return asks._replace(at_ids=count, at_temperature=card.temperature), more, [*found]


def build(ranks: Ranks, cfg: RL, setup: Setup) -> dict[str, Any]:
    """Make the trainer, from the newest step checkpoint if there is one; returns what `resume` does."""
    if HELD in ranks.held:
        ranks.held.pop(HELD).saver.close()
    algorithm = resolve(cfg.algorithm)

    def load() -> Any:
        model = load_start(cfg, str(setup.model_path))
        if cfg.mesh.context > 1:
            check_documents(model, "mesh.context")
        return model

    engine, reference, parameters, config = build_engine(ranks, cfg, setup.steps, load, _needs_reference(algorithm))
    teacher = build_teacher(ranks, cfg, setup.steps, setup.teacher) if setup.teacher else None
    ranks.held[HELD] = PolicyTrainer(
        cfg=cfg,
        setup=setup,
        # the generator drops nothing out: with dropout the ratio of new to old probability would be noise at equal weights
        engine=engine.drop_nothing(),
        reference=reference,
        teacher=teacher,
        say=ranks.say,
        heartbeat=ranks.heartbeat,
        flops=flops_of(cfg, config.to_dict(), setup.length, ranks.world, 1 + _needs_reference(algorithm)),
        algorithm=algorithm,
        parameters=parameters,
        config=config,
    )
    return resume(ranks, setup)


def resume(ranks: Ranks, setup: Setup, iteration: int | None = None) -> dict[str, Any]:
    """Go on from the step checkpoint of `iteration`, or the newest: its facts, the iteration (0 at a fresh start) and the
    decisions about spikes so far."""
    trainer = _trainer(ranks, setup)
    found = trainer.resume(iteration) or {}
    return {**found, "iteration": trainer.saver.newest, "decisions": trainer.course.decisions}


def update(ranks: Ranks, setup: Setup, iteration: int, experience: Experience) -> dict[str, Any]:
    """See `PolicyTrainer.learn`."""
    return _trainer(ranks, setup).learn(iteration, experience)


def send(ranks: Ranks, setup: Setup, generators: list[Any], version: int, deadline_s: float, averaged: bool) -> Sent | None:
    """Send all weights from rank 0 to `generators`, see `send_weights`; rank 0's count.

    Args:
        averaged: their moving averages, where these are kept.
    """
    trainer = _trainer(ranks, setup)
    stream, sent = trainer.weights(averaged), None
    try:
        if ranks.rank == 0:
            trainer.sender = trainer.sender or trainer.cfg.generator.sync.sender()
            sent = send_weights(stream, generators, version, deadline_s, tick=ranks.heartbeat.tick, sender=trainer.sender)
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
    trainer.finish(trainer.cfg.iterations, lambda position: setup.rows_at(trainer.cfg, position))
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


def _needs_reference(algorithm: Any) -> bool:
    return "reference" in getattr(algorithm, "needs", ())


def _batch(micro: list[tuple[Sample, float]], pad_id: int, device: Any) -> Batch:
    import numpy as np

    masks = [np.arange(len(sample.tokens)) >= sample.num_prompt for sample, _ in micro]
    tokens = [np.asarray(sample.tokens) for sample, _ in micro]
    return pad(tokens, masks, pad_id, device, row_weights=[weight for _, weight in micro])


def _loss_inputs(micro: list[tuple[Sample, float]], inputs: Inputs, scores: Scores, reference: Scores | None) -> LossInputs:
    import torch

    old_BT, advantage_BT = torch.zeros_like(inputs.weight_BT), torch.zeros_like(inputs.weight_BT)
    for row, (sample, _) in enumerate(micro):
        # token t is asked for at position t - 1
        at = slice(sample.num_prompt - 1, len(sample.tokens) - 1)
        old_BT[row, at], advantage_BT[row, at] = torch.tensor(sample.logprobs), torch.tensor(sample.advantages)
    reference_BT = None if reference is None else reference.logprob_BT
    return LossInputs(scores.logprob_BT, old_BT, reference_BT, advantage_BT, inputs.weight_BT)
