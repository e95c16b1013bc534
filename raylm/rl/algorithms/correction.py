"""Rollout correction: what the generator drew is weighed, masked or rejected by the ratio of trainer to generator.

Shapes: N tokens after the prompt.
"""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import Field, model_validator

from raylm.core.config import Config
from raylm.core.errors import StageError
from raylm.rl.types import Sample

MOST = 20.0
Level = Literal["token", "sequence", "geometric"]


class Correction(Config):
    """Importance correction for the gap between the generator that drew a token (other kernels, other precision, older weights)
    and the trainer before the first update of the iteration. The ratio is trainer / generator. It costs a forward pass of the
    trainer. By their published names:

    TIS     mode = "token_truncate", high = 2      (https://fengyao.notion.site/off-policy-rl)
    IcePop  mode = "token_mask", low = 0.5, high = 5      (https://arxiv.org/abs/2510.18855)
    MIS     mode = "sequence_mask", high = 2       (https://richardli.xyz/rl-collapse)
    rejection   mode = "off", reject = "token" | "sequence" | "geometric"
    """

    mode: Literal["token_truncate", "token_mask", "sequence_truncate", "sequence_mask", "off"] = "token_truncate"
    """Weight of each token in the policy loss: its own ratio, or the product over its completion, cut to [low, high] or 0
    outside of it. Advantages are multiplied by it."""
    low: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    """Least weight; none where it is not said."""
    high: float = Field(default=2.0, gt=0, allow_inf_nan=False)
    """Greatest weight."""
    reject: Level | None = None
    """Leave out tokens (`token`) or whole completions (`sequence`: by the product of their ratios, `geometric`: by the geometric
    mean) whose ratio is outside [reject_low, reject_high]: they count in no mean, and no KL is taken on them."""
    reject_high: float = Field(default=2.0, gt=1, allow_inf_nan=False)
    """Greatest ratio that is kept."""
    reject_low: float | None = Field(default=None, gt=0, lt=1, allow_inf_nan=False)
    """Least ratio that is kept; 1 / reject_high where it is not said."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.low is not None and self.low > self.high:
            raise ValueError(f"low = {self.low:g} is above high = {self.high:g}")
        if self.mode == "off" and self.reject is None:
            raise ValueError('mode = "off" corrects nothing: say `reject`, or correction = "off"')
        return self

    def weigh(self, samples: list[Sample]) -> tuple[list[Sample], dict[str, float]]:
        """The samples with their advantages weighed and rejected tokens masked, and shares of their tokens: `correction_weight`
        (its mean), `correction_truncated` or `correction_masked`, and `correction_rejected`."""
        import numpy as np

        sums = {"tokens": 0.0, "weight": 0.0, "outside": 0.0, "rejected": 0.0}
        weighed = []
        for sample in samples:
            mask_N = np.asarray(sample.mask_or_ones, np.float64)
            gap_N = gap_of(sample)
            sums["tokens"] += mask_N.sum()
            if self.mode != "off":
                ratio_N = ratios(gap_N, mask_N, "sequence" if self.mode.startswith("sequence") else "token")
                weight_N, outside_N = self._weights(ratio_N)
                sums["weight"] += (weight_N * mask_N).sum()
                sums["outside"] += (outside_N * mask_N).sum()
                sample = sample._replace(advantages=np.asarray(sample.advantages, np.float64) * weight_N)
            if self.reject is not None:
                ratio_N = ratios(gap_N, mask_N, self.reject)
                low = 1.0 / self.reject_high if self.reject_low is None else self.reject_low
                kept_N = mask_N * ((ratio_N >= low) & (ratio_N <= self.reject_high))
                sums["rejected"] += (mask_N - kept_N).sum()
                sample = sample._replace(mask=kept_N)
            weighed.append(sample)
        return weighed, self._shares(sums)

    def _weights(self, ratio_N: Any) -> tuple[Any, Any]:
        """Weight of each token, and where the ratio was outside the bounds."""
        import numpy as np

        low = -np.inf if self.low is None else self.low
        outside_N = (ratio_N < low) | (ratio_N > self.high)
        return np.where(outside_N, 0.0, ratio_N) if self.mode.endswith("mask") else ratio_N.clip(low, self.high), outside_N

    def _shares(self, sums: dict[str, float]) -> dict[str, float]:
        tokens, found = max(sums["tokens"], 1.0), {}
        if self.mode != "off":
            done = "masked" if self.mode.endswith("mask") else "truncated"
            found = {"correction_weight": sums["weight"] / tokens, f"correction_{done}": sums["outside"] / tokens}
        return found if self.reject is None else {**found, "correction_rejected": sums["rejected"] / tokens}


def gap_of(sample: Sample) -> Any:
    """log(trainer / generator) of each token. Raises StageError where the trainer was not asked."""
    import numpy as np

    if sample.trainer_logprobs is None:
        raise StageError(
            "a completion came without the trainer's log-probabilities, which the algorithm needs",
            where=f"algorithm.advantages, prompt {sample.row}",
            next='give the algorithm `needs` with "trainer_logprobs"',
        )
    return np.asarray(sample.trainer_logprobs, np.float64) - np.asarray(sample.logprobs, np.float64)


def ratios(gap_N: Any, mask_N: Any, level: Level) -> Any:
    """exp of the gap of each token; or of its sum, or its mean, over the drawn tokens of the completion, at each of them."""
    import numpy as np

    if level == "token":
        return np.exp(gap_N.clip(-MOST, MOST))
    total = (gap_N * mask_N).sum() / (max(mask_N.sum(), 1.0) if level == "geometric" else 1.0)
    return np.full(len(gap_N), np.exp(np.clip(total, -MOST, MOST)))


def mismatch(samples: list[Sample]) -> dict[str, float]:
    """How far the trainer is from the generator on the drawn tokens, means: `mismatch_kl` (k3 of KL(generator || trainer)),
    `mismatch_ratio`, `mismatch_logprob` (of the absolute gap), and `mismatch_max`, the largest gap. Of a token whose weights both
    hold, in the same precision, the gap is rounding."""
    import numpy as np

    gaps = [gap_of(sample)[np.asarray(sample.mask_or_ones) > 0] for sample in samples]
    gap_M = np.concatenate(gaps) if gaps else np.zeros(0)
    if not len(gap_M):
        return {}
    ratio_M = np.exp(gap_M.clip(-MOST, MOST))
    return {
        "mismatch_kl": float((ratio_M - 1.0 - gap_M).mean()),
        "mismatch_ratio": float(ratio_M.mean()),
        "mismatch_logprob": float(np.abs(gap_M).mean()),
        "mismatch_max": float(np.abs(gap_M).max()),
    }
