"""Takes an rl config and workers, leaves two of the parties that the loop talks to: generators and trainer. Only this file
and reward_workers.py know which process each of them lives in."""

from __future__ import annotations

from typing import Any

from raylm.core.context import Context
from raylm.core.errors import StageError
from raylm.inference.generator import Completion, Sampling, ask, start_generator
from raylm.model.load import checkpoint_path
from raylm.parallel.group.driver import RankGroup, hold_ranks
from raylm.rl import trainer
from raylm.rl.config import RL
from raylm.rl.types import Prompt, Sample


class Generators:
    """The vLLM engine that draws completions, in an actor of its own. Its methods raise GeneratorLost when that actor is dead or
    stands still; `replace` then starts a fresh one."""

    def __init__(self, cfg: RL, ctx: Context, longest_prompt: int) -> None:
        self._cfg, self._ctx, self._max_len = cfg, ctx, longest_prompt + cfg.max_tokens
        self._actor = self._start()

    def replace(self) -> None:
        """End the actor, if it is not dead, and start a fresh one, which holds the weights that the stage began with."""
        self._ctx.workers.release("generator")
        self._actor = self._start()

    def _start(self) -> Any:
        return start_generator(
            self._ctx.workers,
            checkpoint_path(self._ctx, self._cfg.model),
            max_len=self._max_len,
            gpus=self._cfg.generator.gpus,
            cpus=self._cfg.generator.cpus,
            dtype="float32" if self._cfg.dtype == "float32" else "bfloat16",
            seed=self._cfg.seed,
            hang_s=self._cfg.generator.hang_s,
        )

    def generate(self, prompts: list[Prompt], seeds: list[int], group: int, temperature: float) -> list[list[Completion]]:
        """`group` completions of each prompt."""
        sampling = Sampling(max_tokens=self._cfg.max_tokens, temperature=temperature, n=group)
        tokens = [prompt.tokens for prompt in prompts]
        return ask(self._actor, "generate", tokens, sampling, seeds=seeds, timeout_s=self._cfg.generator.hang_s)

    def load(self, weights: tuple[list[Any], str], version: int) -> None:
        """Hand over weights. Raises StageError when the generator holds others than the trainer sent."""
        (reference,), digest = weights
        held = ask(self._actor, "load", reference, version=version, timeout_s=self._cfg.generator.hang_s)
        if held != digest:
            raise StageError(
                f"the generator holds weights {held}, the trainer sent {digest}", where=f"weight sync, version {version}"
            )


class Trainer:
    """The ranks that update the weights."""

    def __init__(self, cfg: RL, ctx: Context, setup: trainer.Setup) -> None:
        self._cfg, self._setup = cfg, setup
        # ranks and generator together: two jobs that each hold one and wait for the other would wait for ever
        (together,) = cfg.together()
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

    def weights(self, averaged: bool = False) -> tuple[list[Any], str] | None:
        """The weights (a reference into the object store), or their averages, and their digest; None as in `update`."""
        return self._group.call(trainer.weights, self._setup, averaged)

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
