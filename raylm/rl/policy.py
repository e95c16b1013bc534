"""The learner of RL on one rank: what it scores, and what it learns of an iteration's experience.

experience --scoring pass--> epochs x minibatches --> trainer.update(algorithm.loss) --> critic's step --> metrics

Iterations and optimizer steps are two numbers: the schedules of learning rates count optimizer steps, and those of an iteration
without samples are passed.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, ClassVar

from raylm.core.config import digest_of
from raylm.core.errors import StageError
from raylm.data.batch import Taught
from raylm.data.order import batch_indices
from raylm.model.head import Asks
from raylm.model.scores import Inputs, Scores
from raylm.parallel.engine import Engine
from raylm.rl.config import RL
from raylm.rl.critic import NAME, Critic, explained_variance, shares
from raylm.rl.minibatches import Laid, in_minibatches, lay_out, micros_of, pays
from raylm.rl.scoring import Scorer, lacking
from raylm.rl.types import CriticInputs, Experience, LossInputs, Sample
from raylm.trainer import setup as base
from raylm.trainer.loss import Loss
from raylm.trainer.teacher_scores import asked, taught
from raylm.trainer.trainer import LossOf, StepInputs, Trainer

STEPS_TAKEN = "optimizer_steps"
"""Metric and fact: updates that changed the weights."""
CRITIC_STEPS = "critic_steps"
"""Fact: steps of the critic's schedule."""
SUMS = ("step_s", "data_wait_s", "communication_s")
# of the samples of the first step alone: later ones would count what was learned in between
FIRST = ("mismatch_kl", "mismatch_ratio", "mismatch_logprob")
LAST = ("lr", "memory_gb", "slowest_rank", STEPS_TAKEN)


class Setup(base.Setup):
    """What the driver resolved for the ranks."""

    run: str
    """Name of this run: a group that still holds another one's trainer must not take it for this one."""
    prompt_rows: list[int]
    """Prompts that can be scored."""
    length: int
    """Most tokens of a prompt and its completion."""
    critic_path: str | None = None
    """Weights that the critic starts from; None: those of the policy."""

    def rows_at(self, cfg: RL, position: int) -> list[int]:
        """Rows of the prompts at `position` of their order; all of them, in an order of its own, where there are fewer than an
        iteration asks."""
        # a batch that reaches over the end of an epoch may name a row twice; asked once, its group stays one group
        size = min(cfg.prompts_per_iteration, len(self.prompt_rows))
        found = batch_indices(len(self.prompt_rows), size, position, cfg.seed)
        return [self.prompt_rows[index] for index in dict.fromkeys(found)]


@dataclass(kw_only=True)
class PolicyTrainer(Trainer):
    """Engines and algorithm of one run on one rank."""

    cfg: RL
    setup: Setup
    algorithm: Any
    parameters: int
    config: Any
    """The model's config, before the model was laid out."""
    sender: Any = None
    """What brings weights to generators, with what it knows of the last time; made by the first sync."""
    shares_prompts: bool = False
    """Whether a prompt may be computed once for all its completions, see `raylm.rl.minibatches`."""

    judges_loss: ClassVar[bool] = False

    @property
    def critic(self) -> Engine | None:
        """Who says values."""
        return self.beside.get(NAME)

    @property
    def shares_backbone(self) -> bool:
        """Whether values come from the policy's own backbone."""
        return shares(self.cfg)

    def resume(self, step: int | None = None) -> dict[str, Any] | None:
        """See `Trainer.resume`."""
        found = super().resume(step)
        if self.critic:
            self.critic.done = (found or {}).get(CRITIC_STEPS, 0)
        return found

    def score(self, experience: Experience, needs: Collection[str]) -> Experience:
        """The experience with what `needs` asks of trainer, reference and critic (see `Scorer.scored`). Every rank must call."""
        self.heartbeat.mark("score")
        forward: dict[str, Any] = {"trainer_logprobs": self.engine.forward, "reference": self.forward_reference}
        if self.critic:
            forward[NAME] = self.critic.forward
        elif self.shares_backbone:
            forward[NAME] = lambda inputs, asks: self.engine.forward(inputs, Asks(beside=True))
        scorer = Scorer(
            forward,
            self.engine.grid,
            self.saver.group,
            self.engine.device,
            self.cfg.temperature,
            self.cfg.micro_batch,
            self.setup.tokens["pad_token_id"],
            self._shares(experience.samples),
        )
        return experience._replace(samples=scorer.scored(experience.samples, needs))

    def learn(self, iteration: int, experience: Experience) -> dict[str, Any]:
        """The optimizer steps of one iteration, none where there are no samples.

        Returns:
            Means of the metrics over the steps, weighed as the steps' samples are (`mismatch_*`: of the first step's);
            `finite`: some step's gradient was; `changed`: so were the policy's weights; `untaught`: why no step learned from a
            sample, by its row and place, where there is such a one. Or the `decision` about a spike in the first step: then
            nothing was changed.
        """
        rows: list[dict[str, Any]] = []
        taught, untaught = set[tuple[int, int]](), dict[tuple[int, int], str]()
        if experience.samples:
            experience = self.score(experience, lacking(experience.samples, getattr(self.algorithm, "needs", ())))
            with self.profiler.step(iteration):
                for epoch in range(self.cfg.epochs):
                    seed = int(digest_of([self.cfg.seed, "minibatches", iteration, epoch])[:12], 16)
                    for samples in in_minibatches(experience.samples, self.cfg.minibatches, seed):
                        row = self._minibatch(iteration, samples, experience)
                        if row is None and not rows:
                            return {"decision": self.pass_over(iteration, experience.rows)}
                        if row is None:
                            self._pass_minibatch(iteration, experience)
                        rows += [row] if row else []
                        of = [(sample.row, sample.place) for sample in samples]
                        if row and row["finite"]:
                            taught.update(of)
                        else:
                            untaught |= dict.fromkeys(of, "passed_over" if row is None else "not_finite" if row else "no_signal")
        else:
            # the schedule counts their steps: it would not come to its end
            for _ in range(self.cfg.steps_per_iteration):
                self._pass_step()
        finite = any(row["finite"] for row in rows) or not rows
        learned = {row for row, _ in taught}
        untaught = {sample: why for sample, why in untaught.items() if sample not in taught}
        if self.engine.grid.rank == 0:  # every rank has the whole experience: one of them counts its rows
            for position, asked in experience.at_positions.items():
                self.ledger.add(iteration, position, sorted(learned & set(asked)), trained=True)
                self.ledger.add(iteration, position, sorted(set(asked) - learned), trained=False)
        if not rows:
            return {"finite": True, **({"changed": False} if experience.samples else {}), **_named(untaught)}
        explained = explained_variance(experience.samples)
        return {
            **_combined(rows),
            **({} if explained is None else {"explained_variance": explained}),
            "finite": finite,
            "changed": any(row["changed"] for row in rows),
            **_named(untaught),
        }

    def _minibatch(self, iteration: int, samples: list[Sample], experience: Experience) -> dict[str, Any] | None:
        """One optimizer step of policy and critic: its metrics, {} where nothing is to be learned, None at a spike."""
        weight = _weight(samples)
        divisor = _divisor(self.algorithm, samples) if samples else 0.0
        if not divisor or not weight:
            self._pass_step()
            return {}
        self.meter.start()
        self.heartbeat.mark("data", iteration)
        grid, pad_id = self.engine.grid, self.setup.tokens["pad_token_id"]
        shared = self._shares(samples)
        micros = micros_of(samples, grid.data_rank, grid.data_world, self.cfg.micro_batch, shared)
        laid = [lay_out(micro, pad_id, self.engine.device, shared) for micro in micros]
        inputs = [one.asking(_weights(sample) for sample in one.micro.samples) for one in laid]
        self.meter.read()
        step = StepInputs(
            inputs=inputs,
            weight=weight,
            unit="completion_tokens",
            tokens=float(sum(len(sample.tokens) for sample in samples)),
            counted_BT=[one.batch.counted_BT for one in laid],
            position=experience.position,
            rows=None,
            divisor=divisor,
            counted=float(sum(sample.num_learned for sample in samples)),
        )
        row: dict[str, Any] = {"finite": True, "weight": weight}
        alone = self.critic is not None and iteration < (self.cfg.critic or Critic()).warmup_iterations
        if alone:
            self.engine.pass_step()
        else:
            values = self._policy_step(iteration, step, laid)
            if values is None:
                return None
            row |= values
            self.facts[STEPS_TAKEN] = self.facts.get(STEPS_TAKEN, 0) + values["finite"]
            self.check_skipped(iteration, values, lambda: experience.rows)
        if self.critic:
            row |= self._critic_step(iteration, step, laid)
            row["finite"] = row["critic_finite"] if alone else row["finite"]
        return {**row, "changed": not alone and row["finite"], STEPS_TAKEN: self.facts.get(STEPS_TAKEN, 0)}

    def _shares(self, samples: list[Sample]) -> bool:
        return self.shares_prompts and (self.cfg.padding_free is True or pays(samples, self.cfg.micro_batch))

    def _policy_step(self, iteration: int, step: StepInputs, laid: list[Laid]) -> dict[str, Any] | None:
        needs = getattr(self.algorithm, "needs", ())
        asks = Asks(temperature=self.cfg.temperature, entropy="entropy" in needs, beside=self.shares_backbone)
        told = list[Taught | None]([None] * len(laid))
        if self.teacher:
            asks, inputs, told = self._ask_teacher(asks, step.inputs)
            step = step._replace(inputs=inputs)

        def loss(index: int, scores: Scores) -> Loss:
            made = _loss_inputs(laid[index], step.inputs[index], scores, needs)
            found: Loss = self.algorithm.loss(made._replace(taught=told[index], scores=scores))
            return self._with_values(found, laid[index], step, index, scores) if self.shares_backbone else found

        def make_loss() -> LossOf:
            return loss

        return self.update(iteration, step, make_loss, asks)

    def _critic_step(self, iteration: int, step: StepInputs, laid: list[Laid]) -> dict[str, Any]:
        """One optimizer step of the critic; its metrics, what the whole minibatch cost among them."""
        assert self.critic is not None and step.divisor
        divisor, weight = step.divisor, step.weight
        self.heartbeat.mark("critic", iteration)

        def loss(index: int, scores: Scores) -> Loss:
            made = self._critic_loss(laid[index], step.inputs[index].weight_BT, scores)
            return made._replace(total=made.total / divisor)

        sums = self.critic.accumulate(step.inputs, loss, Asks(values=True))
        stats = self.critic.step()
        self.facts[CRITIC_STEPS] = self.critic.done
        finite = stats.finite and all(total == total for total in sums.values())
        self.facts["skipped"] += not finite
        found = {f"critic_{name}": total / (divisor if name == "loss" else weight) for name, total in sums.items()}
        cost = self.meter.values(step.tokens, step.counted or weight, step.unit)
        return {**found, "critic_grad_norm": stats.grad_norm, "critic_lr": stats.lr, "critic_finite": finite, **cost}

    def _critic_loss(self, one: Laid, mask_BT: Any, scores: Scores) -> Loss:
        old_BT, return_BT = (one.spread(_column(sample, name) for sample in one.micro.samples) for name in ("values", "returns"))
        return self.algorithm.critic_loss(CriticInputs(scores.value_BT, old_BT, return_BT, mask_BT))

    def _with_values(self, found: Loss, one: Laid, step: StepInputs, index: int, scores: Scores) -> Loss:
        """The policy's loss and that of the values beside it. Its metrics are what a critic of its own tells."""
        made = self._critic_loss(one, step.inputs[index].weight_BT, scores)
        card, scale = self.cfg.critic or Critic(), step.weight / (step.divisor or step.weight)
        told = {f"critic_{name}": value * scale if name == "loss" else value for name, value in made.metrics.items()}
        return Loss(found.total + card.coefficient * made.total, {**found.metrics, **told})

    def _pass_step(self) -> None:
        """Count a step in which nothing is learned."""
        self.engine.pass_step()
        if self.critic:
            self.critic.pass_step()
            self.facts[CRITIC_STEPS] = self.critic.done

    def _pass_minibatch(self, iteration: int, experience: Experience) -> None:
        """A minibatch was a spike after others of its iteration had moved weights: it alone is passed over."""
        assert self.cfg.spikes is not None
        if self.cfg.spikes.action == "stop":
            self.pass_over(iteration, experience.rows)  # raises
        self.events.append(f"spike in iteration {iteration}: one of its minibatches is passed over")
        self.say(self.events[-1])
        self._pass_step()

    def _ask_teacher(self, asks: Asks, inputs: list[Inputs]) -> tuple[Asks, list[Inputs], list[Taught | None]]:
        """What the policy is asked of the teacher's likeliest tokens, and what the teacher says of them."""
        assert self.teacher is not None
        card, words = self.algorithm, self.setup.tokens["vocab_size"]
        count = min(card.top_k, words)
        found = [taught(each) for each in self.teacher.forward(inputs, asked(count, words, card.temperature))]
        more = [one._replace(id_BTK=each.id_BTK) for one, each in zip(inputs, found, strict=True)]
        return asks._replace(at_ids=count, at_temperature=card.temperature), more, [*found]


def _named(untaught: dict[tuple[int, int], str]) -> dict[str, Any]:
    return {"untaught": untaught} if untaught else {}


def _weights(sample: Sample) -> Any:
    """Of each of its tokens in the loss."""
    import numpy as np

    return sample.weight * np.asarray(sample.mask_or_ones, dtype=np.float32)


def _weight(samples: list[Sample]) -> float:
    return float(sum(sample.weight * sample.num_learned for sample in samples))


def _divisor(algorithm: Any, samples: list[Sample]) -> float:
    """What the sums of one optimizer step are divided by: the weight of its tokens, where the algorithm does not say."""
    said = getattr(algorithm, "divisor", None)
    return float(said(samples)) if said else _weight(samples)


def _column(sample: Sample, name: str) -> Any:
    """A field of its tokens. Raises StageError where nobody filled it."""
    found = getattr(sample, name)
    if found is None or len(found) != len(sample.logprobs):
        raise StageError(
            f"a sample has {'no' if found is None else len(found)} {name} for {len(sample.logprobs)} tokens",
            where=f"algorithm.advantages, prompt {sample.row}",
            next=f"set `{name}` of each sample, one per token after the prompt",
        )
    return found


def _loss_inputs(laid: Laid, inputs: Inputs, scores: Scores, needs: Collection[str]) -> LossInputs:
    def spread(name: str) -> Any:
        return laid.spread(_column(sample, name) for sample in laid.micro.samples)

    generator_BT = spread("logprobs")
    return LossInputs(
        scores.logprob_BT,
        spread("trainer_logprobs") if "trainer_logprobs" in needs else generator_BT,
        spread("reference_logprobs") if "reference" in needs else None,
        spread("advantages"),
        inputs.weight_BT,
        generator_BT=generator_BT,
        entropy_BT=scores.entropy_BT,
        sample_BT=laid.sample_BT,
    )


def _combined(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Metrics of an iteration from those of its steps, of which the finite ones count, where there are any."""
    if len(rows) == 1:
        return {name: value for name, value in rows[0].items() if name != "weight"}
    whole = [row for row in rows if row["finite"]] or rows
    found: dict[str, Any] = {}
    for name in dict.fromkeys(name for row in whole for name in row if name != "weight"):
        having = [row for row in whole if name in row]
        values = [row[name] for row in having]
        if name in SUMS:
            found[name] = sum(row[name] for row in rows if name in row)
        elif name in LAST:
            found[name] = values[-1]
        elif name in FIRST:
            found[name] = values[0]
        elif isinstance(values[0], bool):
            found[name] = all(values)
        else:
            by = "step_s" if name.endswith("_per_s") or name == "mfu" else "weight"
            found[name] = sum(value * row[by] for value, row in zip(values, having, strict=True)) / sum(row[by] for row in having)
    return {**found, **({"skipped_steps": len(rows) - len(whole)} if len(whole) < len(rows) else {})}
