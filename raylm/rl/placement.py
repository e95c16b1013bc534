"""The parties of the RL loop, generators and trainer, and their placement. Only this file and reward_workers.py know in which
process each of them runs."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Hashable
from typing import Any

from raylm.core.context import Context
from raylm.core.errors import StageError
from raylm.core.room import phases
from raylm.inference.completions import Quarantined
from raylm.inference.generator import Completion, Sampling
from raylm.inference.pool import Send, hold_pool
from raylm.inference.weight_transfer import Sent
from raylm.model.load import checkpoint_path
from raylm.parallel.group.driver import RankGroup, hold_ranks
from raylm.rl import trainer
from raylm.rl.config import RL
from raylm.rl.scoring import lacking
from raylm.rl.types import Experience, packed


class Generators:
    """The vLLM engines that generate completions, each in an actor of its own."""

    def __init__(self, cfg: RL, ctx: Context, longest_prompt: int) -> None:
        self._max_tokens = cfg.max_tokens
        self._pool = hold_pool(ctx.workers, cfg.generator)
        self._pool.start(
            checkpoint_path(ctx, cfg.model),
            max_len=longest_prompt + cfg.max_tokens,
            dtype=cfg.engine_dtype,
            seed=cfg.seed,
        )

    def submit(
        self, key: Hashable, tokens: list[int], num: int, temperature: float, seed: int, max_tokens: int | None = None
    ) -> None:
        """Ask for `num` completions of these tokens; `wait` answers under `key`.

        Args:
            max_tokens: most tokens of one, where it is not the stage's `max_tokens`.
        """
        sampling = Sampling(max_tokens=max_tokens or self._max_tokens, temperature=temperature, n=num)
        self._pool.submit(key, tokens, sampling, seed)

    def wait(self, timeout_s: float) -> list[tuple[Hashable, list[Completion] | Quarantined]]:
        """What was answered since the last call, as soon as there is something; whatever becomes of single generators.
        `Quarantined` is a prompt that ended one generator after the other.

        Raises:
            GroupLost: a generator was lost, and the trainer whose weights a fresh one needs is lost too.
        """
        return self._pool.wait(timeout_s)

    def cancel(self, key: Hashable) -> None:
        """Drop what was asked under `key`."""
        self._pool.cancel(key)

    def sync(self, send: Send, version: int) -> None:
        """Let all generators hold the weights that `send` brings. Raises GroupLost as `wait` does."""
        self._pool.sync(send, version)

    def sleep(self) -> None:
        """Let them give back their GPUs' memory until `wake`, or the next `sync`. Nobody is asked meanwhile."""
        self._pool.sleep()

    def wake(self) -> None:
        """Let them take the weights of the last `sync` again."""
        self._pool.wake()


def check_versions(groups: list[list[Completion]], version: int, oldest: int | None = None) -> None:
    """Raises StageError where a completion was drawn by weights that it cannot be of.

    Args:
        version: of the newest weights; of the ones that drew its last token, where no `oldest` is named.
        oldest: of the oldest weights that may have drawn any of its tokens.
    """
    lowest = version if oldest is None else oldest
    for spans in [one.versions for group in groups for one in group if one.versions]:
        drawn = [span.version for span in (spans if oldest is not None else spans[-1:])]
        if min(drawn) < lowest or max(drawn) > version:
            wrong = min(drawn) if min(drawn) < lowest else max(drawn)
            sent = f"version {version}" if lowest == version else f"versions {lowest} to {version} since it was asked"
            raise StageError(
                f"completions were drawn by version {wrong} of the weights, the trainer sent {sent}",
                where="generator.generate",
                next="run the same command: it goes on from the last step checkpoint",
            )


class TrainerGroup:
    """The ranks that update the weights. Every method but `restore` raises GroupLost where the group died since then."""

    def __init__(self, cfg: RL, ctx: Context, setup: trainer.Setup) -> None:
        self._cfg, self._setup, self._out, self._reached = cfg, setup, ctx.out, -1
        self._calls = threading.Lock()
        # ranks and generator together: two jobs that each hold one and wait for the other would wait for ever
        (together,) = phases(cfg.roles())
        ctx.workers.reserve(together, ctx.stage)
        if len(cfg.sizes()) > 1:
            # ranks of several sizes are no part of a reservation: there was room for the fewest, they take what is left now
            ctx.workers.give_back()
            ctx.workers.reserve({"generator": together["generator"]}, ctx.stage)
        self._group: RankGroup = hold_ranks(ctx.workers, cfg.workers, cfg.sizes())

    def rows_at(self, position: int) -> list[int]:
        """Rows of the prompts at `position` of their order."""
        return self._setup.rows_at(self._cfg, position)

    def restore(self) -> dict[str, Any]:
        """Build the trainer, from the newest step checkpoint if there is one; see `trainer.resume`."""
        return self._call(trainer.build, self._cfg, self._setup)

    def resume(self, iteration: int) -> dict[str, Any]:
        """Go back to the step checkpoint of `iteration`."""
        return self._call(trainer.resume, self._setup, iteration)

    def score(self, experience: Experience, needs: Collection[str]) -> Experience:
        """The experience with what trainer, reference and critic say of it, as far as `needs` asks."""
        if not experience.samples or not lacking(experience.samples, needs):
            return experience
        return self._call(trainer.score, self._setup, packed(experience), needs)

    def update(self, iteration: int, experience: Experience) -> dict[str, Any]:
        """All optimizer steps of an iteration, if there are samples; their metrics, or the `decision` about a spike."""
        self._reached = iteration
        return self._call(trainer.update, self._setup, iteration, packed(experience))

    def send(self, generators: list[Any], version: int, averaged: bool = False) -> Sent:
        """Send the weights, or their averages, to generators."""
        return self._call(trainer.send, self._setup, generators, version, self._cfg.generator.hang_s, averaged)

    def save(self, iteration: int, facts: dict[str, Any], rows: list[dict[str, Any]]) -> None:
        """One step checkpoint that carries `facts`, and the metrics rows since the one before."""
        self._call(trainer.save, self._setup, iteration, facts, rows)

    def export(self) -> trainer.Exported:
        """Write the artifact's files, and compare them with the weights that were trained."""
        return self._call(trainer.export, self._setup)

    def _call(self, function: Callable[..., Any], *args: Any) -> Any:
        # a generator that starts meanwhile is sent the weights from a thread of the pool, between two calls of the loop
        with self._calls:
            return self._group.call(function, *args, aside=self._out, run=self._setup.run, step=self._reached)
