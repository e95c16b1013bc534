"""The `engine_judge` reward: a language model in a vLLM engine of our own judges the answers."""

from __future__ import annotations

import asyncio
import threading
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from raylm.core.config import EngineUse, Refers, Role, digest_of
from raylm.core.errors import ConfigError
from raylm.inference.client import Reply
from raylm.inference.completions import Sampling
from raylm.inference.config import MEMORY_SHARE
from raylm.rl.rewards.role_worker import Where
from raylm.rl.rewards.verdicts import Verdicts
from raylm.rl.types import Prompt, Score, Trajectory, Unscored


class EngineJudge(Verdicts):
    """A judge that the cluster holds itself: a checkpoint in one vLLM engine per process, on a role of its own. It is asked by
    its own chat template."""

    placement = frozenset({"count", "cpus", "gpus", "timeout_s", "start_s"})
    depth: ClassVar[int] = 8
    """Prompts whose answers one engine judges at the same time."""

    kind: Literal["engine_judge"] = "engine_judge"
    model: Annotated[str, Refers(("Checkpoint",), ("causal", "quantized"))]
    """The judge's weights, with a tokenizer that has a chat template."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """What it computes in."""
    max_len: int = Field(default=8192, ge=16)
    """Most tokens of a request and its reply; a longer one is refused, and counted."""
    count: int = Field(default=1, ge=1)
    """Engines."""
    cpus: float = Field(default=1.0, ge=0, allow_inf_nan=False)
    """CPU cores that each reserves."""
    gpus: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    """GPUs that each reserves."""
    timeout_s: float = Field(default=600.0, gt=0, allow_inf_nan=False)
    """Seconds for the answers to one prompt, after which the engine is made again."""
    start_s: float = Field(default=3600.0, gt=0, allow_inf_nan=False)
    """Seconds in which the engine must have started."""

    def role(self) -> Role | None:
        """What its engines ask a cluster for."""
        return Role(count=self.count, cpus=self.cpus, gpus=self.gpus)

    def engines(self) -> list[EngineUse]:
        """What they ask a machine's kernels for."""
        return [EngineUse(self.model, self.dtype, "auto", self.gpus > 0)]

    def scorer(self, where: Where) -> Engine:
        """The started engine. Raises RaylmError where it cannot hold the checkpoint."""
        return Engine(self, where)


class Engine:
    """A judge in its process. `score` may be called from several threads."""

    def __init__(self, card: EngineJudge, where: Where) -> None:
        from raylm.inference.generator import Generator
        from raylm.model.limits import config_of, positions
        from raylm.model.load import load_tokenizer

        self._card, self._tokenizer = card, load_tokenizer(where.model)
        if not self._tokenizer.chat_template:
            raise ConfigError("a judge is asked by its chat template, and its tokenizer has none", where=where.model)
        most = positions(config_of(where.model))
        self._max_len = card.max_len if most is None else min(card.max_len, most)
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, daemon=True).start()
        self._generator = Generator(card.gpus > 0)
        share = MEMORY_SHARE * min(1.0, card.gpus or 1.0)
        self._wait(self._generator.start(where.model, self._max_len, card.dtype, memory_share=share))

    def score(self, prompt: Prompt, drawn: list[Trajectory]) -> list[Score | Unscored]:
        """The judge's score of each answer."""
        asked: dict[int, asyncio.Future[Reply]] = {}

        async def once(messages: list[dict[str, str]], temperature: float) -> Reply:
            # small groups of short answers say the same again and again; so would the judge, for its draw depends on the request
            seed = _seed(messages, temperature)
            if seed not in asked:
                asked[seed] = asyncio.ensure_future(self.ask(messages, temperature))
            return await asked[seed]

        return self._wait(self._card.verdicts(prompt, drawn, once))

    async def ask(self, messages: list[dict[str, str]], temperature: float) -> Reply:
        """The engine's reply."""
        tokens = self._tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=True, return_dict=False)
        room = self._max_len - len(tokens)
        if room < 1:
            return Reply("", "refused", f"the request has {len(tokens)} tokens, the judge takes {self._max_len - 1}")
        sampling = Sampling(max_tokens=min(self._card.max_tokens, room), temperature=temperature)
        seed = _seed(messages, temperature)
        (reply,) = await self._generator.generate(list(tokens), sampling, seed, self._card.timeout_s)
        return Reply(reply.text)

    def _wait(self, what: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(what, self._loop).result()


def _seed(messages: list[dict[str, str]], temperature: float) -> int:
    return int(digest_of([messages, temperature])[:12], 16)
