"""Compares a running endpoint with transformers' answers."""

from __future__ import annotations

from typing import Any, NamedTuple

from raylm.core.errors import StageError
from raylm.serve.config import Serve
from raylm.serve.updates.reference import GREEDY_TOKENS, Expected

REQUEST_S = 300.0


# two that compute in 16 bits, or with rounded activations, part at near-ties; other weights, or none, are farther away
NEAR_TIE_NATS = 1.0

ALLOWED = {"float32": 1e-4, "16 bits": 2e-2}
"""Largest mean absolute difference of log-probabilities."""


class Answer(NamedTuple):
    """What an endpoint made of a probe: tokens of the prompt and of the greedy answer, and their log-probabilities."""

    prompt: list[int]
    tokens: list[int]
    logprobs: list[float]


class Verdict(NamedTuple):
    """How many probes agree, as "8/8"; `greedy` says why where nothing was compared. `differ` names the first that does not.
    `nats_short`: how far below transformers' likeliest token the endpoint's was, where they part; the largest of all probes.
    `nats`: mean absolute difference of the log-probabilities of tokens on which both agree; None where none was compared."""

    chat: bool
    template: str
    greedy: str
    differ: str
    nats_short: float
    nats: float | None = None


def compare(endpoint: Any, model_name: str, expected: list[Expected], logprobs: bool = True) -> Verdict:
    """Ask every probe greedily and compare prompt tokens, answer tokens and the answers' log-probabilities.

    Args:
        logprobs: whether the endpoint tells these.
    """
    chat = _has_chat(endpoint, model_name, expected[0].text)
    got = [_tokens(endpoint, model_name, probe.text, chat, logprobs) for probe in expected]
    pairs = list(zip(got, expected, strict=True))
    same_prompt = [answer.prompt == probe.prompt for answer, probe in pairs]
    same_greedy = [bool(probe.greedy) and answer.tokens == probe.greedy.tokens for answer, probe in pairs]
    short = [probe.greedy.nats_short(answer.tokens) for answer, probe in pairs if probe.greedy]
    apart = [nats for answer, probe in pairs if probe.greedy for nats in probe.greedy.apart(answer.tokens, answer.logprobs)]
    differ = ""
    for (prompt, tokens, _), probe in pairs:
        if prompt != probe.prompt:
            differ = differ or f"prompt {probe.text!r}: endpoint {prompt}, transformers {probe.prompt}"
        elif probe.greedy is not None and tokens != probe.greedy.tokens:
            differ = differ or f"answer to {probe.text!r}: endpoint {tokens}, transformers {probe.greedy.tokens}"
    compared = all(probe.greedy is not None for probe in expected)
    greedy = f"{sum(same_greedy)}/{len(expected)}" if compared else "not compared: larger than compare_up_to_gb"
    mean = sum(apart) / len(apart) if apart else None
    return Verdict(chat, f"{sum(same_prompt)}/{len(expected)}", greedy, differ, round(max(short, default=0.0), 4), mean)


def refuse_unequal(verdict: Verdict, dtype: str, quantized: bool, where: str) -> None:
    """Raises StageError when prompts differ, or answers do: in float32 any greedy token, in 16 bits and with quantized layers
    one that is no near-tie; or, of layers that are not quantized, log-probabilities."""
    if not _whole(verdict.template):
        raise StageError(
            f"the endpoint does not see the prompt that the model was trained on ({verdict.template} equal): {verdict.differ}",
            where=where,
            next="compare tokenizer and chat template of the checkpoint",
        )
    exact = dtype == "float32" and not quantized
    if exact and "/" in verdict.greedy and not _whole(verdict.greedy):
        raise StageError(
            f"greedy tokens in float32 differ from transformers' ({verdict.greedy} equal): {verdict.differ}",
            where=where,
            next="vLLM loads other weights than lie on disk, or treats this network otherwise",
        )
    if verdict.nats_short > NEAR_TIE_NATS:
        raise StageError(
            f"the endpoint answers with a token that is {verdict.nats_short:.1f} nats less likely than transformers' own, "
            f"which computes in {dtype} too: {verdict.differ}",
            where=where,
            next="vLLM loads other weights than lie on disk, or treats this network otherwise",
        )
    allowed = ALLOWED["float32" if dtype == "float32" else "16 bits"]
    if verdict.nats is not None and not quantized and not verdict.nats <= allowed:
        raise StageError(
            f"the endpoint's log-probabilities differ from transformers' by {verdict.nats:.3g} on average, allowed are "
            f"{allowed:g} in {dtype}",
            where=where,
            next="vLLM loads other weights than lie on disk, or treats this network otherwise",
        )


def ask(endpoint: Any, cfg: Serve, chat: bool) -> list[dict[str, str]]:
    """Put the job's questions to the endpoint, streamed where it chats, and print question and answer."""
    answers = []
    for prompt in cfg.prompts:
        print(f"  > {prompt}\n  < ", end="", flush=True)
        text = ""
        for piece in _pieces(endpoint, cfg, prompt, chat):
            text += piece
            print(piece, end="", flush=True)
        print(flush=True)
        answers.append({"prompt": prompt, "answer": text})
    return answers


def _pieces(endpoint: Any, cfg: Serve, prompt: str, chat: bool) -> Any:
    options: Any = {"model": cfg.model_name, "max_tokens": cfg.answer_tokens, "temperature": 0, "stream": True}
    if chat:
        for chunk in endpoint.chat.completions.create(messages=[{"role": "user", "content": prompt}], **options):
            yield from (choice.delta.content or "" for choice in chunk.choices)
    else:
        for chunk in endpoint.completions.create(prompt=prompt, **options):
            yield from (choice.text for choice in chunk.choices)


def _has_chat(endpoint: Any, model_name: str, text: str) -> bool:
    """Whether the checkpoint chats: vLLM refuses a chat request (400) when there is no template."""
    from openai import BadRequestError

    try:
        endpoint.chat.completions.create(model=model_name, messages=[{"role": "user", "content": text}], max_tokens=1)
    except BadRequestError as refusal:
        if "template" not in str(refusal):
            raise StageError(f"the endpoint refused a chat request: {refusal}", where=str(endpoint.base_url)) from refusal
        return False
    return True


def _tokens(endpoint: Any, model_name: str, text: str, chat: bool, logprobs: bool) -> Answer:
    """The prompt as the endpoint saw it, and its greedy answer."""
    options: Any = {"model": model_name, "max_tokens": GREEDY_TOKENS, "temperature": 0, "extra_body": {"return_token_ids": True}}
    if logprobs:
        options["logprobs"] = True if chat else 0
    if chat:
        reply = endpoint.chat.completions.create(messages=[{"role": "user", "content": text}], **options)
        choice = reply.choices[0]
        said = [each.logprob for each in choice.logprobs.content or []] if choice.logprobs else []
        return Answer(reply.prompt_token_ids, choice.token_ids, said)
    choice = endpoint.completions.create(prompt=text, **options).choices[0]
    return Answer(
        choice.prompt_token_ids, choice.token_ids, list(choice.logprobs.token_logprobs or []) if choice.logprobs else []
    )


def _whole(count: str) -> bool:
    same, _, of = count.partition("/")
    return same == of
