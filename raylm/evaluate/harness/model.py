"""A model as lm-eval's tasks see it: their three kinds of requests are asked of an LM."""

from __future__ import annotations

import math
from collections import defaultdict
from typing import TYPE_CHECKING, Any

from lm_eval.api.model import LM as HarnessLM

from raylm.core.errors import ConfigError, DataError
from raylm.inference.completions import BatchSampling

if TYPE_CHECKING:
    from raylm.evaluate.lm import LM

_KNOWN = {"do_sample", "temperature", "top_p", "top_k", "min_p", "repetition_penalty", "until"}
_LENGTHS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")
"""Names of the longest answer, in the order in which lm-eval takes them."""


class Harness(HarnessLM):
    """What lm-eval calls.

    Args:
        max_tokens: longest answer where a task says nothing, and longest one that it may ask for.
    """

    def __init__(self, lm: LM, max_tokens: int) -> None:
        super().__init__()
        self._lm, self._max_tokens = lm, max_tokens
        self.left_out: set[tuple[str, int]] = set()
        """(task, document) with a request that has no answer."""
        self.cost: dict[tuple[str, int], tuple[int, float]] = defaultdict(lambda: (0, 0.0))
        """(task, document) -> tokens that were drawn, seconds."""

    @property
    def tokenizer_name(self) -> str:
        """For lm-eval's own caches, which are not used."""
        return ""

    def loglikelihood(self, requests: list[Any], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """(nats, would be drawn greedily) of each continuation."""
        found = self._lm.loglikelihood([request.args for request in requests])
        self._count(requests, [nats for nats, _ in found])
        # with NaN lm-eval would take some choice for the best; what it makes of these is left out afterwards
        return [(nats if math.isfinite(nats) else -math.inf, greedy) for nats, greedy in found]

    def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = False) -> list[float]:
        """Nats of each whole text."""
        found = self._lm.loglikelihood_rolling([request.args[0] for request in requests], special_tokens=True)
        self._count(requests, found)
        return found

    def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
        """The answer to each prompt, up to the first of its stop texts."""
        found = [""] * len(requests)
        alike: dict[str, list[int]] = defaultdict(list)
        samplings = [self._sampling(request.args[1], request.task_name) for request in requests]
        for at, sampling in enumerate(samplings):
            alike[sampling.model_dump_json()].append(at)
        for places in alike.values():
            sampling = samplings[places[0]]
            prompts = [self._prompt(requests[at].args[0], sampling.max_tokens) for at in places]
            for at, answer in zip(places, self._answers(prompts, sampling), strict=True):
                key = _key(requests[at])
                if answer is None:
                    self.left_out.add(key)
                    continue
                found[at] = answer.text
                tokens, seconds = self.cost[key]
                self.cost[key] = (tokens + answer.num_tokens, seconds + answer.seconds)
        return found

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """The turns as the model's tokenizer renders them."""
        tokenizer = self._lm.tokenizer
        if tokenizer is None or not tokenizer.chat_template:
            raise ConfigError(
                "this model has no chat template", next="leave apply_chat_template out; an endpoint needs `tokenizer` for it"
            )
        return tokenizer.apply_chat_template(
            chat_history,
            tokenize=False,
            add_generation_prompt=add_generation_prompt,
            continue_final_message=not add_generation_prompt,
        )

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        """Its template."""
        return getattr(self._lm.tokenizer, "chat_template", None)

    def _count(self, requests: list[Any], nats: list[float]) -> None:
        for request, value, seconds in zip(requests, nats, self._lm.seconds, strict=True):
            key = _key(request)
            if not math.isfinite(value):
                self.left_out.add(key)
            tokens, before = self.cost[key]
            self.cost[key] = (tokens, before + seconds)

    def _answers(self, prompts: list[Any], sampling: BatchSampling) -> list[Any]:
        if sampling.temperature == 0:
            return self._lm.complete(prompts, sampling)
        # a task with repeats asks the same several times and wants as many draws
        seen: dict[str, int] = defaultdict(int)
        names = [repr(prompt) for prompt in prompts]
        for name in names:
            seen[name] += 1
        most = max(seen.values())
        drawn = dict(zip(seen, self._lm.samples([_first(prompts, names, name) for name in seen], sampling, most), strict=True))
        taken: dict[str, int] = defaultdict(int)
        found = []
        for name in names:
            group = drawn[name]
            found.append(group[taken[name]] if group else None)
            taken[name] += 1
        return found

    def _sampling(self, given: dict[str, Any], task: str) -> BatchSampling:
        table = dict(given)
        lengths = [table.pop(name, None) for name in _LENGTHS]
        length = int(next((each for each in lengths if each is not None), self._max_tokens))
        if length > self._max_tokens:
            raise ConfigError(
                f"the task {task} asks for answers of up to {length} tokens, there is room for {self._max_tokens}",
                next=f"say max_tokens = {length}",
            )
        if unknown := sorted(set(table) - _KNOWN):
            raise ConfigError(f"the task {task} asks for {', '.join(unknown)} of generation, which is not known here")
        until = table.get("until") or []
        stop = [word for word in ([until] if isinstance(until, str) else until) if word]
        sampled = table.get("do_sample", bool(table.get("temperature")))
        options = {name: table[name] for name in ("top_p", "top_k", "min_p", "repetition_penalty") if name in table}
        temperature = float(table.get("temperature", 1.0)) if sampled else 0.0
        return BatchSampling(max_tokens=length, temperature=temperature, stop=stop, **options)

    def _prompt(self, text: str, max_tokens: int) -> Any:
        """The prompt; one that is too long loses its first tokens, as lm-eval has it."""
        tokenizer, room = self._lm.tokenizer, self._lm.room
        if not self._lm.reads_tokens:
            return text
        # what a chat template begins with is not begun twice
        begun = bool(tokenizer.bos_token) and text.startswith(tokenizer.bos_token)
        tokens = tokenizer(text, **({"add_special_tokens": False} if begun else {}))["input_ids"]
        if room is None or len(tokens) <= room - max_tokens:
            return tokens
        if room <= max_tokens:
            raise DataError(f"there is room for {room} tokens, answers alone may have {max_tokens}", next="lower max_tokens")
        return tokens[max_tokens - room :]


def _first(prompts: list[Any], names: list[str], name: str) -> Any:
    return prompts[names.index(name)]


def _key(request: Any) -> tuple[str, int]:
    return request.task_name, request.doc_id
