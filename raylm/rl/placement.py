"""Takes an rl config and workers, leaves three parties that the loop talks to: samplers, judges, learners. Only this file
knows which process each of them lives in."""

from __future__ import annotations

from typing import Any

from raylm.core.config import resolve
from raylm.core.context import Context
from raylm.core.errors import StageError
from raylm.model.load import checkpoint_path
from raylm.model.sampler import Completion, Sampling, ask, start_sampler
from raylm.parallel.ranks import RankGroup, hold_ranks
from raylm.rl import learner
from raylm.rl.config import RL
from raylm.rl.types import Prompt, Rollout, Sample, Score


class Samplers:
    """The vLLM engine that draws completions, in an actor of its own."""

    def __init__(self, cfg: RL, ctx: Context, longest_prompt: int) -> None:
        self._cfg = cfg
        self._actor = start_sampler(
            ctx.workers,
            checkpoint_path(ctx, cfg.model),
            max_len=longest_prompt + cfg.max_tokens,
            gpus=cfg.sampler.gpus,
            cpus=cfg.sampler.cpus,
            dtype=cfg.dtype,
            seed=cfg.seed,
        )

    def draw(self, prompts: list[Prompt], seeds: list[int], group: int, temperature: float) -> list[list[Completion]]:
        """`group` completions of each prompt."""
        sampling = Sampling(max_tokens=self._cfg.max_tokens, temperature=temperature, n=group)
        return ask(self._actor, "generate", [prompt.tokens for prompt in prompts], sampling, seeds=seeds)

    def load(self, weights: tuple[list[Any], str], version: int) -> None:
        """Hand over weights. Raises StageError when the sampler holds others than the learner sent."""
        (reference,), digest = weights
        held = ask(self._actor, "load", reference, version=version)
        if held != digest:
            raise StageError(
                f"the sampler holds weights {held}, the learner sent {digest}", where=f"weight sync, version {version}"
            )


class Judges:
    """Rewards, in processes that can be killed: a reward that hangs costs its prompt, not the run."""

    def __init__(self, cfg: RL) -> None:
        self._rewards = [resolve(card) for card in cfg.rewards]
        self._timeout_s = cfg.reward_timeout_s

    def score(self, prompts: list[Prompt], completions: list[list[Completion]]) -> list[Rollout]:
        """Every completion with the sum of its rewards, or without a score when its judge did not answer in time."""
        import ray

        judge = ray.remote(num_cpus=0.5, max_retries=1)(score_group)
        running = [
            judge.remote(self._rewards, prompt, [c.text for c in group])
            for prompt, group in zip(prompts, completions, strict=True)
        ]
        ray.wait(running, num_returns=len(running), timeout=self._timeout_s)
        rollouts = []
        for prompt, group, task in zip(prompts, completions, running, strict=True):
            ready, _ = ray.wait([task], timeout=0)
            scores: Any = ray.get(task) if ready else [None] * len(group)
            if not ready:
                ray.cancel(task, force=True)
            rollouts += [
                Rollout(prompt, c.tokens, c.logprobs, c.text, c.finish_reason == "stop", score)
                for c, score in zip(group, scores, strict=True)
            ]
        return rollouts


class Learners:
    """The ranks that update the weights."""

    def __init__(self, cfg: RL, ctx: Context, setup: learner.Setup) -> None:
        self._cfg, self._setup = cfg, setup
        self._group: RankGroup = hold_ranks(ctx.workers, cfg.workers)

    def restore(self) -> dict[str, Any] | None:
        """Build the learner, from the newest step checkpoint if there is one; its facts, or None."""
        return self._group.call(learner.build, self._cfg, self._setup)

    def update(self, samples: list[Sample]) -> dict[str, float] | None:
        """One step; None when a rank died since `restore`, and its group began anew without a learner."""
        if not samples:
            return self._group.call(learner.skip, self._cfg, self._setup)
        return self._group.call(learner.update, self._cfg, self._setup, samples)

    def weights(self) -> tuple[list[Any], str] | None:
        """The weights (a reference into the object store) and their digest; None as in `update`."""
        return self._group.call(learner.weights, self._setup)

    def save(self, facts: dict[str, Any]) -> None:
        """One step checkpoint that carries `facts`."""
        self._group.call(learner.save, self._cfg, self._setup, facts)

    def export(self) -> None:
        """Write the checkpoint's files."""
        self._group.call(learner.export, self._setup)


def score_group(rewards: list[Any], prompt: Prompt, texts: list[str]) -> list[Score]:
    """The sum of all rewards for each completion of one prompt."""
    totals = []
    for text in texts:
        scores = [reward.score(prompt.messages, text, prompt.truth) for reward in rewards]
        totals.append(Score(sum(score.value for score in scores), "; ".join(score.reason for score in scores)))
    return totals
