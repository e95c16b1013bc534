"""A model behind any OpenAI-compatible endpoint: answers to texts and messages, and log-probabilities where it gives them."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from textwrap import shorten
from typing import Any

from pydantic import Field, model_validator

from raylm.core.artifact import Artifact
from raylm.core.config import Config
from raylm.core.errors import PlacementError
from raylm.core.workers import KEY_VARIABLE
from raylm.evaluate.backends.backend import Answer, Score
from raylm.inference.client import Client, Reply
from raylm.inference.completions import Sampling

MOST_UNANSWERED = 20
"""Requests in a row without any answer, after which the endpoint is taken for down."""


class EndpointSpec(Config):
    """An entry of `endpoints`: a model that runs elsewhere, named in `models` as a stage is."""

    placement = frozenset({"key_env", "concurrency", "deadline_s"})

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")
    """What `models` calls it."""
    url: str
    """Base URL, with /v1."""
    model: str
    """Name to ask for."""
    key_env: str = "OPENAI_API_KEY"
    """Environment variable that holds the key; without it `none` is sent."""
    logprobs: bool = False
    """It gives log-probabilities of given tokens (/v1/completions with `echo`, as vLLM and llama.cpp have it): tasks that ask for
    these may ask it too. Needs `tokenizer`."""
    tokenizer: str | None = None
    """Folder or hub name of the model's tokenizer: prompts then go out as token ids."""
    max_length: int | None = Field(default=None, ge=2)
    """Most tokens of a text that is scored; default: what the endpoint takes."""
    concurrency: int = Field(default=16, ge=1)
    """Requests that are under way at the same time."""
    deadline_s: float = Field(default=120.0, gt=0)
    """Seconds after which a request counts as unanswered, with everything tried again until then."""

    @model_validator(mode="after")
    def _scores_tokens(self) -> EndpointSpec:
        if self.logprobs and self.tokenizer is None:
            raise ValueError("logprobs = true needs `tokenizer`: which tokens are the continuation is known by their ids")
        return self


class Endpoint:
    """Scorer and answerer of one model.

    Args:
        key: without one, `none` is sent.
    """

    def __init__(self, spec: EndpointSpec, key: str | None) -> None:
        self.spec = spec
        hint = f"check `url` and `model` of endpoint {spec.name!r}, and the key in ${spec.key_env}"
        self._client = Client(spec.url, spec.model, key, deadline_s=spec.deadline_s, concurrency=spec.concurrency, hint=hint)
        self._tokenizer: Any = None
        self.room: int | None = None
        self.reads_tokens = False

    @property
    def tokenizer(self) -> Any:
        """By `tokenizer`; None where the spec names none."""
        if self._tokenizer is None and self.spec.tokenizer is not None:
            from raylm.model.load import load_tokenizer

            self._tokenizer = load_tokenizer(self.spec.tokenizer)
        return self._tokenizer

    def positions(self) -> int | None:
        return self.spec.max_length

    def vocabulary(self) -> int | None:
        return None

    def complete(
        self, prompts: Sequence[Any], sampling: Sampling, seeds: Sequence[int]
    ) -> Iterator[tuple[int, list[Answer] | str]]:
        """Messages by /v1/chat/completions, texts and token ids by /v1/completions.

        Raises:
            ConfigError: the endpoint refuses the key or does not know the model.
            PlacementError: it answers nothing any more.
        """

        def ask(at: int) -> list[Answer] | str | Reply:
            found: list[Answer] = []
            # some servers read `n` and give one answer all the same: the others are asked for with seeds of their own
            while len(found) < sampling.n:
                made = once(at, sampling.n - len(found), seeds[at] + len(found))
                if isinstance(made, Reply):
                    return made
                if not made:
                    return "to which the endpoint gave no answer"
                found += made
            return found[: sampling.n]

        def once(at: int, n: int, seed: int) -> list[Answer] | Reply:
            began, prompt = time.monotonic(), prompts[at]
            options = {**sampling.params(), "n": n, "seed": seed}
            # vLLM's own names, which other endpoints refuse where they do not know them
            further = {name: options.pop(name) for name in (*_NEUTRAL, "structured_outputs") if name in options}
            changed = {name: value for name, value in further.items() if value != _NEUTRAL.get(name)}
            options.pop("detokenize", None)
            chat = not isinstance(prompt, str) and bool(prompt) and isinstance(prompt[0], dict)
            made = self._client.made(
                "chat" if chat else "text", prompt, **options, **({"extra_body": changed} if changed else {})
            )
            return made if isinstance(made, Reply) else _answers(made, time.monotonic() - began)

        yield from self._each(len(prompts), ask)

    def scores(self, rows: Sequence[Any], masks: Sequence[Any], greedy: bool) -> Iterator[tuple[int, Score | str]]:
        """By `echo`: the log-probabilities of the prompt itself.

        Raises:
            ConfigError, PlacementError: as `complete`.
        """

        def ask(at: int) -> Score | str | Reply:
            began, tokens = time.monotonic(), [int(token) for token in rows[at]]
            # not every server takes max_tokens = 0; what is drawn comes last and is left out
            made = self._client.made("text", tokens, echo=True, logprobs=1, max_tokens=1, temperature=0.0)
            return made if isinstance(made, Reply) else _score(made, len(tokens), masks[at], time.monotonic() - began)

        yield from self._each(len(rows), ask)

    def _each(self, count: int, ask: Callable[[int], Any]) -> Iterator[tuple[int, Any]]:
        silent = 0
        with ThreadPoolExecutor(self.spec.concurrency) as threads:
            asked = {threads.submit(ask, at): at for at in range(count)}
            try:
                for one in as_completed(asked):
                    found = one.result()
                    silent = silent + 1 if isinstance(found, Reply) and found.failed == "unanswered" else 0
                    if silent >= MOST_UNANSWERED:
                        raise PlacementError(
                            f"{silent} requests in a row were not answered: {found.why}",
                            where=self.spec.url,
                            next="is it up? the same command goes on with what is missing",
                        )
                    yield asked[one], _reason(found) if isinstance(found, Reply) else found
            finally:
                threads.shutdown(wait=False, cancel_futures=True)


def _reason(reply: Reply) -> str:
    """Why there is no answer, in words that are the same for requests with the same fault."""
    if reply.failed != "refused":
        return f"that the endpoint left {reply.failed}"
    return f"that the endpoint refused ({re.sub(r'[0-9]+', 'N', shorten(reply.why, 120, placeholder=' ...'))})"


def served(made: Artifact, name: str) -> Endpoint:
    """The endpoint of a serve stage; its key is read where it lies."""
    import os
    from pathlib import Path

    facts = made.facts
    spec = EndpointSpec(name="served", url=facts["url"], model=facts["model_name"], key_env=KEY_VARIABLE)
    file = facts.get("key_file")
    return Endpoint(
        spec.model_copy(update={"name": name}), Path(file).read_text().strip() if file else os.environ.get(spec.key_env)
    )


_NEUTRAL = {"top_k": 0, "min_p": 0.0, "repetition_penalty": 1.0}


def _answers(made: Any, seconds: float) -> list[Answer]:
    usage = getattr(made, "usage", None)
    # the API counts the tokens of all choices together
    drawn = (getattr(usage, "completion_tokens", 0) or 0) // max(len(made.choices), 1)
    found = []
    for choice in made.choices:
        text = choice.message.content if hasattr(choice, "message") else choice.text
        found.append(Answer(text or "", [], choice.finish_reason or "stop", seconds, drawn))
    return found


def _score(made: Any, count: int, mask: Any, seconds: float) -> Score | str:
    told = made.choices[0].logprobs if made.choices else None
    logprobs = list(getattr(told, "token_logprobs", None) or [])
    if len(logprobs) < count:
        return "whose log-probabilities the endpoint does not give"
    # one that puts a begin token before what it is sent would be read one place off
    read = getattr(getattr(made, "usage", None), "prompt_tokens", 0) or count
    if read != count or len(logprobs) > count + 1:
        return "of which the endpoint read other tokens than it was sent"
    tops = list(getattr(told, "top_logprobs", None) or [])
    counted = [at for at in range(1, count) if mask[at]]
    nats = math.fsum(math.nan if logprobs[at] is None else logprobs[at] for at in counted)
    likeliest = len(tops) >= count and all(tops[at] and logprobs[at] >= max(tops[at].values()) for at in counted)
    return Score(nats, likeliest, seconds)
