"""Takes an rl config and workers, leaves three parties that the loop talks to: samplers, judges, learners. Only this file
knows which process each of them lives in."""

from __future__ import annotations

from typing import Any

from raylm.core.config import digest_of, resolve
from raylm.core.context import Context
from raylm.core.errors import StageError
from raylm.core.workers import Workers
from raylm.model.load import checkpoint_path
from raylm.model.sampler import Completion, Sampling, ask, start_sampler
from raylm.parallel.group.driver import RankGroup, hold_ranks
from raylm.rl import learner
from raylm.rl.config import RL
from raylm.rl.types import Prompt, Rollout, Sample, Score

MOST_KILLED = 3
START_S = 30.0


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
            dtype="float32" if cfg.dtype == "float32" else "bfloat16",
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
    """Rewards, in a process that can be killed: a reward that hangs or crashes costs its prompt, not the run."""

    def __init__(self, cfg: RL, workers: Workers) -> None:
        self._rewards = [resolve(card) for card in cfg.rewards]
        self._timeout_s, self._workers = cfg.reward_timeout_s, workers
        self._key = f"judge:{digest_of([card.identity() for card in cfg.rewards])}"

    def score(self, prompts: list[Prompt], completions: list[list[Completion]]) -> list[Rollout]:
        """Every completion with the sum of its rewards, or without a score when its judge had to be killed."""
        scores: list[list[Score] | None] = []
        for _ in range(MOST_KILLED + 1):
            scores += self._ask(prompts[len(scores) :], completions[len(scores) :])
            if len(scores) == len(prompts):
                break
            # the judge answers in order: the first prompt without an answer is the one it hangs on
            scores.append(None)
            self._workers.release(self._key)
        scores += [None] * (len(prompts) - len(scores))
        return [
            Rollout(prompt, c.tokens, c.logprobs, c.text, c.finish_reason == "stop", found[place] if found else None)
            for prompt, group, found in zip(prompts, completions, scores, strict=True)
            for place, c in enumerate(group)
        ]

    def _make(self) -> Any:
        import ray

        remote: Any = ray.remote(Judge)
        return remote.options(num_cpus=0).remote(self._rewards)

    def _ask(self, prompts: list[Prompt], completions: list[list[Completion]]) -> list[list[Score] | None]:
        """Scores of the first prompts, up to one that does not answer in time or kills its judge."""
        import ray
        from ray.exceptions import RayActorError, RayTaskError

        judge = self._workers.hold(self._key, self._make, ray.kill)
        asked = [judge.score.remote(prompt, [c.text for c in group]) for prompt, group in zip(prompts, completions, strict=True)]
        found: list[list[Score] | None] = []
        for task in asked:
            # one after the other, so each has the whole time for itself; the first also for the start of the process
            if not ray.wait([task], timeout=self._timeout_s + (START_S if not found else 0.0))[0]:
                break
            try:
                found.append(ray.get(task))
            except RayActorError:
                break
            except RayTaskError as cause:
                raise StageError(f"a reward raised {type(cause.cause).__name__}: {cause.cause}", where="rewards") from cause
        return found


class Judge:
    """All rewards, in a process of their own."""

    def __init__(self, rewards: list[Any]) -> None:
        self._rewards = rewards

    def score(self, prompt: Prompt, texts: list[str]) -> list[Score]:
        """The sum of all rewards for each completion of one prompt."""
        return score_group(self._rewards, prompt, texts)


class Learners:
    """The ranks that update the weights."""

    def __init__(self, cfg: RL, ctx: Context, setup: learner.Setup) -> None:
        self._cfg, self._setup = cfg, setup
        self._group: RankGroup = hold_ranks(ctx.workers, cfg.workers, cfg.sizes())

    def restore(self) -> dict[str, Any] | None:
        """Build the learner, from the newest step checkpoint if there is one; its facts, or None."""
        return self._group.call(learner.build, self._cfg, self._setup)

    def update(self, samples: list[Sample]) -> dict[str, float] | None:
        """One step; None when a rank died since `restore`, and its group began anew without a learner."""
        if not samples:
            return self._group.call(learner.skip, self._cfg, self._setup)
        return self._group.call(learner.update, self._cfg, self._setup, samples)

    def weights(self, averaged: bool = False) -> tuple[list[Any], str] | None:
        """The weights (a reference into the object store), or their averages, and their digest; None as in `update`."""
        return self._group.call(learner.weights, self._setup, averaged)

    def save(self, facts: dict[str, Any]) -> None:
        """One step checkpoint that carries `facts`."""
        self._group.call(learner.save, self._cfg, self._setup, facts)

    def export(self) -> None:
        """Write the checkpoint's files; a group that began anew takes the last round's step checkpoint first.

        Raises:
            StageError: that checkpoint was not whole when the group before was lost.
        """
        if not self._group.call(learner.export, self._setup):
            step = (self.restore() or {"step": 0})["step"]
            if step != self._cfg.steps:
                raise StageError(
                    f"the ranks were lost before the step checkpoint of round {self._cfg.steps} was whole",
                    next=f"run the same command: it goes on from round {step}",
                )
            self._group.call(learner.export, self._setup)


def score_group(rewards: list[Any], prompt: Prompt, texts: list[str]) -> list[Score]:
    """The sum of all rewards for each completion of one prompt."""
    totals = []
    for text in texts:
        scores = [reward.score(prompt.messages, text, prompt.truth) for reward in rewards]
        totals.append(Score(sum(score.value for score in scores), "; ".join(score.reason for score in scores)))
    return totals
