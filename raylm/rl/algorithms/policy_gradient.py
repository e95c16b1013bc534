"""What all policy-gradient algorithms share: how rewards are shaped, how losses of tokens are aggregated, KL, entropy, and the
correction for what the generator drew otherwise than the trainer would have.

rewards --overlong, KL--> estimate (the algorithm's own) --correction--> advantages, weights of tokens
log-probabilities --> gain (the algorithm's own) - KL + entropy --> loss

Shapes: B rows, T tokens of a row, N tokens after a sample's prompt.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from raylm.core.config import Config
from raylm.rl.algorithms import correction as corrections
from raylm.rl.algorithms.correction import Correction
from raylm.rl.algorithms.kl import Kl
from raylm.rl.algorithms.overlong import Overlong
from raylm.rl.types import Experience, LossInputs, Sample
from raylm.trainer.loss import Loss

if TYPE_CHECKING:
    import torch


class PolicyGradient(Config):
    """An algorithm whose loss is -gain summed over tokens. A card adds `estimate` and `gain`."""

    rewarded: ClassVar[bool] = True
    known_as = {
        "beta": "kl = {coefficient = ...}",
        "kl_coef": "kl = {coefficient = ...}",
        "epsilon": "clip",
        "epsilon_low": "clip",
        "cliprange": "clip",
        "epsilon_high": "clip_high",
        "delta": "dual_clip",
        "clip_ratio_c": "dual_clip",
        "loss_type": "aggregation, and the algorithm's kind",
        "loss_agg_mode": "aggregation",
        "entropy_coef": "entropy",
        "entropy_coeff": "entropy",
        "top_entropy_quantile": "missing: all tokens are learned from",
        "importance_sampling_level": "the kind: gspo has one ratio per completion",
        "num_iterations": "epochs of the stage",
        "mask_truncated_completions": "truncated = {action = ...} of the stage",
        "rollout_is": "correction = {mode = ...}",
        "rollout_is_threshold": "correction = {high = ...}",
        "vllm_importance_sampling_mode": "correction = {mode = ...}",
        "vllm_importance_sampling_correction": "correction",
    }

    num_generations: int = Field(default=8, gt=0)
    """Completions per prompt."""
    aggregation: Literal["token", "sequence", "group", "constant"] = "token"
    """What weighs the same in the loss of an optimizer step: each token (DAPO), each completion (GRPO's paper), each prompt's
    group of completions; or each token, divided not by their number but by completions times `constant_length` (Dr. GRPO)."""
    constant_length: int | None = Field(default=None, gt=0)
    """Of `aggregation = "constant"`: tokens that a completion is divided by; Dr. GRPO takes max_tokens."""
    old_logprobs: Literal["generator", "trainer"] = "generator"
    """What the ratio compares the policy with: the generator's log-probabilities, or the trainer's own before the first update of
    the iteration, which costs a forward pass. With a `correction` it is always the trainer's."""
    kl: Kl | None = None
    """Penalty on the distance to the model before the stage. None: there is no reference model."""
    entropy: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    """Coefficient of a bonus on the policy's entropy at each token; 0 computes none."""
    overlong: Overlong | None = None
    """Soft punishment of long completions."""
    correction: Correction | Literal["auto", "off"] = "auto"
    """Importance correction for the gap between generator and trainer. `auto`: truncated, token by token, at 2 where the stage is
    asynchronous, as its rollouts come from older weights, and off in a synchronous one, where the gap is rounding; `mismatch_kl`
    and its kin are measured in either case."""

    @model_validator(mode="after")
    def _check_aggregation(self) -> Self:
        if (self.aggregation == "constant") != (self.constant_length is not None):
            raise ValueError('aggregation = "constant" and constant_length go together: say both or neither')
        return self

    @property
    def needs(self) -> tuple[str, ...]:
        """What must come with the samples, or with the inputs of the loss."""
        asked = {
            "reference": self.kl is not None and self.kl.coefficient > 0,
            "trainer_logprobs": self.old_logprobs == "trainer" or isinstance(self.correction, Correction),
            "entropy": self.entropy > 0,
        }
        return tuple(need for need, is_asked in asked.items() if is_asked)

    def in_stage(self, asynchronous: bool) -> Self:
        """The card as a stage runs it: what is `auto` is decided."""
        if self.correction != "auto":
            return self
        return self.model_copy(update={"correction": Correction() if asynchronous else "off"})

    def estimate(self, samples: list[Sample]) -> tuple[list[Sample], dict[str, float]]:
        """The samples that teach, with advantages (and returns), from their rewards; and what is to be reported."""
        raise NotImplementedError

    def gain(self, inputs: LossInputs, log_ratio_BT: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """What is to be raised at each token, and where the ratio was clipped, both [B, T].

        Args:
            log_ratio_BT: log(policy / old), with gradient.
        """
        raise NotImplementedError

    def advantages(self, experience: Experience) -> Experience:
        """Sets advantages and weights. A pure function of the experience, its `state` included.

        Raises:
            StageError: samples lack what the algorithm needs.
        """
        state, metrics = dict(experience.state or {}), dict(experience.metrics or {})
        samples = experience.samples
        if "trainer_logprobs" in self.needs:
            metrics |= corrections.mismatch(samples)
        if self.overlong is not None:
            samples, found = self._shaped(samples, self.overlong)
            metrics |= found
        if self.kl is not None and self.kl.in_reward and self.kl.coefficient:
            samples, state, found = self._penalised(samples, self.kl, state)
            metrics |= found
        samples, found = self.estimate(samples)
        metrics |= found
        if isinstance(self.correction, Correction):
            samples, found = self.correction.weigh(samples)
            metrics |= found
        samples = self.weighed([sample for sample in samples if sample.num_learned])
        return experience._replace(samples=samples, state=state or experience.state, metrics=metrics or experience.metrics)

    def divisor(self, samples: list[Sample]) -> float:
        """What the loss of an optimizer step over `samples` is divided by; see `aggregation`."""
        if self.aggregation == "constant":
            return float(len(samples))
        return float(sum(sample.weight * sample.num_learned for sample in samples))

    def loss(self, inputs: LossInputs) -> Loss:
        """Sum over drawn tokens of -gain, the KL where it is in the loss, and the entropy bonus.

        Metrics: `clip_ratio`, share of tokens where the ratio was clipped; `nll`; `kl` and `entropy` where they are known; and
        where the trainer was not asked before the update, how far it is from the generator now: `mismatch_kl` (k3 of
        KL(generator || trainer), near 0 when both hold the same weights), `mismatch_ratio`, `mismatch_logprob`.
        """
        import torch

        mask_BT, logprob_BT = inputs.mask_BT, inputs.logprob_BT
        gain_BT, clipped_BT = self.gain(inputs, logprob_BT - inputs.old_BT)
        total, metrics = -(gain_BT * mask_BT).sum(), {}
        if self.kl is not None and self.kl.coefficient and not self.kl.in_reward:
            assert inputs.reference_BT is not None
            kl_BT = self.kl.estimate((logprob_BT - inputs.reference_BT) * (mask_BT > 0), torch.exp)
            total = total + self.kl.coefficient * (kl_BT * mask_BT).sum()
            metrics["kl"] = (kl_BT.detach() * mask_BT).sum()
        if inputs.entropy_BT is not None:
            if self.entropy:
                total = total - self.entropy * (inputs.entropy_BT * mask_BT).sum()
            metrics["entropy"] = (inputs.entropy_BT.detach() * mask_BT).sum()
        with torch.no_grad():
            metrics |= {"clip_ratio": (clipped_BT.float() * mask_BT).sum(), "nll": -(logprob_BT * mask_BT).sum()}
            if "trainer_logprobs" not in self.needs:
                metrics |= _mismatch(inputs)
        return Loss(total, {"loss": total.detach(), **metrics})

    def _shaped(self, samples: list[Sample], overlong: Overlong) -> tuple[list[Sample], dict[str, float]]:
        added = [overlong.shaping(sample.num_learned) for sample in samples]
        metrics = {"overlong_share": sum(value < 0 for value in added) / max(len(added), 1)}
        return [one._replace(reward=one.reward + value) for one, value in zip(samples, added, strict=True)], metrics

    def _penalised(
        self, samples: list[Sample], kl: Kl, state: dict[str, float]
    ) -> tuple[list[Sample], dict[str, float], dict[str, float]]:
        """KL taken from the rewards of tokens; the coefficient of the next iteration in the state."""
        import numpy as np

        coefficient, means, penalised = kl.coefficient_of(state), [], []
        for sample in samples:
            policy_N = sample.logprobs if sample.trainer_logprobs is None else sample.trainer_logprobs
            gap_N = np.asarray(policy_N, np.float64) - np.asarray(sample.reference_logprobs, np.float64)
            mask_N = np.asarray(sample.mask_or_ones, np.float64)
            kl_N = kl.estimate(gap_N * mask_N, np.exp)
            means.append(kl_N.sum() / max(mask_N.sum(), 1.0))
            earned_N = 0.0 if sample.token_rewards is None else np.asarray(sample.token_rewards, np.float64)
            penalised.append(sample._replace(token_rewards=earned_N - coefficient * kl_N))
        mean = float(np.mean(means)) if means else 0.0
        after = kl.follow(state, mean, len(samples)) if samples else state
        return penalised, after, {"kl": mean, "kl_coefficient": coefficient}

    def weighed(self, samples: list[Sample]) -> list[Sample]:
        """Weights by which the aggregation comes about, of samples that are all there is to learn from."""
        if self.aggregation == "token":
            return samples
        if self.aggregation == "constant":
            return [sample._replace(weight=1.0 / (self.constant_length or 1)) for sample in samples]
        if self.aggregation == "sequence":
            return [sample._replace(weight=1.0 / sample.num_learned) for sample in samples]
        tokens: dict[int, float] = {}
        for sample in samples:
            tokens[sample.row] = tokens.get(sample.row, 0.0) + sample.num_learned
        return [sample._replace(weight=1.0 / tokens[sample.row]) for sample in samples]


def ratio_of(log_ratio_BT: torch.Tensor) -> torch.Tensor:
    """exp, held where it can be multiplied."""
    return (log_ratio_BT.clamp(-corrections.MOST, corrections.MOST)).exp()


def _mismatch(inputs: LossInputs) -> dict[str, Any]:
    gap_BT = inputs.logprob_BT - (inputs.old_BT if inputs.generator_BT is None else inputs.generator_BT)
    ratio_BT, mask_BT = ratio_of(gap_BT), inputs.mask_BT
    return {
        "mismatch_kl": ((ratio_BT - 1.0 - gap_BT) * mask_BT).sum(),
        "mismatch_ratio": (ratio_BT * mask_BT).sum(),
        "mismatch_logprob": (gap_BT.abs() * mask_BT).sum(),
    }
