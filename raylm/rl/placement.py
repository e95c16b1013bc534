"""The parties of the RL loop, generators and trainer, and their placement. Only this file and reward_workers.py know in which
process each of them runs."""

from __future__ import annotations

from typing import Any

from raylm.core.context import Context
from raylm.core.errors import GroupLost, StageError
from raylm.core.room import phases
from raylm.inference.generator import Completion, Sampling
from raylm.inference.pool import Send, hold_pool
from raylm.inference.weight_transfer import Sent
from raylm.model.load import checkpoint_path
from raylm.parallel.group.driver import RankGroup, hold_ranks
from raylm.rl import trainer
from raylm.rl.config import RL
from raylm.rl.types import Prompt, Sample


class Generators:
    """The vLLM engines that generate completions, each in an actor of its own."""

    def __init__(self, cfg: RL, ctx: Context, longest_prompt: int) -> None:
        self._max_tokens = cfg.max_tokens
        self._pool = hold_pool(ctx.workers, cfg.generator)
        self._pool.start(
            checkpoint_path(ctx, cfg.model),
            max_len=longest_prompt + cfg.max_tokens,
            dtype="float32" if cfg.dtype == "float32" else "bfloat16",
            seed=cfg.seed,
        )

    def generate(
        self, prompts: list[Prompt], seeds: list[int], num_generations: int, temperature: float
    ) -> list[list[Completion]]:
        """`num_generations` completions of each prompt, by the weights of the last `sync`, whatever becomes of generators.

        Raises:
            GroupLost: a generator was lost, and the trainer whose weights a fresh one needs is lost too.
        """
        sampling = Sampling(max_tokens=self._max_tokens, temperature=temperature, n=num_generations)
        return self._pool.generate([prompt.tokens for prompt in prompts], sampling, seeds)

    def sync(self, send: Send, version: int) -> None:
        """Let all generators hold the weights that `send` brings. Raises GroupLost as `generate` does."""
        self._pool.sync(send, version)


class Trainer:
    """The ranks that update the weights."""

    def __init__(self, cfg: RL, ctx: Context, setup: trainer.Setup) -> None:
        self._cfg, self._setup = cfg, setup
        # ranks and generator together: two jobs that each hold one and wait for the other would wait for ever
        (together,) = phases(cfg.roles())
        ctx.workers.reserve(together, ctx.stage)
        if len(cfg.sizes()) > 1:
            # ranks of several sizes are no part of a reservation: there was room for the fewest, they take what is left now
            ctx.workers.give_back()
            ctx.workers.reserve({"generator": together["generator"]}, ctx.stage)
        self._group: RankGroup = hold_ranks(ctx.workers, cfg.workers, cfg.sizes())

    def restore(self) -> dict[str, Any] | None:
        """Build the trainer, from the newest step checkpoint if there is one; its facts, or None."""
        return self._group.call(trainer.build, self._cfg, self._setup)

    def update(self, samples: list[Sample]) -> dict[str, float] | None:
        """One step; None when a rank died since `restore`, and its group began anew without a trainer."""
        if not samples:
            return self._group.call(trainer.skip, self._cfg, self._setup)
        return self._group.call(trainer.update, self._cfg, self._setup, samples)

    def send(self, generators: list[Any], version: int, averaged: bool = False) -> Sent:
        """Send the weights, or their averages, to generators. Raises GroupLost when a rank died since `restore`."""
        sent = self._group.call(trainer.send, self._setup, generators, version, self._cfg.generator.hang_s, averaged)
        if sent is None:
            raise GroupLost("the ranks that held the weights died", next="the loop goes on from the last step checkpoint")
        return sent

    def save(self, facts: dict[str, Any]) -> None:
        """One step checkpoint that carries `facts`."""
        self._group.call(trainer.save, self._cfg, self._setup, facts)

    def export(self) -> None:
        """Write the checkpoint's files; a group that began anew takes the last iteration's step checkpoint first.

        Raises:
            StageError: that checkpoint was not whole when the group before was lost.
        """
        if not self._group.call(trainer.export, self._setup):
            step = (self.restore() or {"step": 0})["step"]
            if step != self._cfg.iterations:
                raise StageError(
                    f"the ranks were lost before the step checkpoint of iteration {self._cfg.iterations} was whole",
                    next=f"run the same command: it goes on from iteration {step}",
                )
            self._group.call(trainer.export, self._setup)
