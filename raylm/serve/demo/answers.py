"""One answer of an OpenAI-compatible endpoint as it grows: text, tokens with probabilities, who answered, how fast, how it ended.

What terminal, Gradio page and Streamlit page stand on; knows none of them, and nothing else of raylm, so that a demo's folder can
hold a copy of it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

from .sampling import Sampling

ANSWER_S = 300.0
"""Most seconds without a word from the endpoint."""
TRIES = 4
FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 30.0
# the endpoint has no room or no replica just now; it says so before anything is computed
BUSY = (429, 502, 503, 504)
SERVED, DTYPE, REQUEST = "x-raylm-served", "x-raylm-dtype", "x-request-id"


class BrokenOff(Exception):
    """The stream of an answer ended before the answer did."""


@dataclass(frozen=True)
class Place:
    """An endpoint: its base URL, with /v1, and the key that its requests carry, which is in no repr. `name` stands for the URL in
    what is shown: a page need not tell it to everybody."""

    url: str
    key: str | None = field(default=None, repr=False)
    name: str = ""

    @property
    def shown(self) -> str:
        """What is said of it."""
        return self.name or self.url


@dataclass(frozen=True)
class Token:
    """A token of an answer, with the log-probabilities (natural logarithm) of itself and of the likeliest ones in its place.

    Example: Token(" Paris", -0.11, ((" Paris", -0.11), (" Lyon", -2.9)))
    """

    text: str
    logprob: float
    top: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True)
class Beam:
    """A further answer of a beam search; `logprob` is the sum over its tokens, where they were asked for."""

    text: str
    logprob: float | None = None


@dataclass
class Answer:
    """Grows while it streams.

    `state` is waiting, retrying, streaming, done, stopped (by the user), broken (the connection, or the endpoint, in the middle
    of the answer), refused (by the endpoint) or unreachable; `why` says more where it went wrong.
    """

    model: str
    sampling: Sampling = field(default_factory=Sampling)
    text: str = ""
    reasoning: str = ""
    tokens: list[Token] = field(default_factory=list)
    beams: list[Beam] = field(default_factory=list)
    state: str = "waiting"
    why: str = ""
    served: str = ""
    """Fingerprint of the weights that answered (x-raylm-served); empty where the endpoint tells none."""
    dtype: str = ""
    request_id: str = ""
    finish: str = ""
    """Why it ended: stop, length, ..."""
    prompt_tokens: int = 0
    num_tokens: int = 0
    """As the endpoint counted them; 0 where it did not tell."""
    first_s: float = 0.0
    seconds: float = 0.0

    @property
    def ended(self) -> bool:
        """Whether nothing more comes."""
        return self.state not in ("waiting", "retrying", "streaming")

    @property
    def failed(self) -> bool:
        """Whether it ended in another way than by itself or by the user."""
        return self.state in ("broken", "refused", "unreachable")

    @property
    def tokens_s(self) -> float:
        """Tokens per second after the first one; 0 where they were not counted."""
        drawing = self.seconds - self.first_s
        return (self.num_tokens - 1) / drawing if self.num_tokens > 1 and drawing > 0 else 0.0


async def ask(place: Place, model: str, messages: list[dict[str, str]], sampling: Sampling) -> AsyncIterator[Answer]:
    """The answer, again and again as it grows; failures are states of it and raise nothing. What fails before the first word
    is tried again, a broken connection and an endpoint that has no room alike. Closing this closes the connection, at which an
    endpoint ends its work."""
    from openai import AsyncOpenAI, OpenAIError

    answer, began = Answer(model, sampling), time.monotonic()
    async with AsyncOpenAI(base_url=place.url, api_key=place.key or "none", timeout=ANSWER_S, max_retries=0) as client:
        for tried in range(1, TRIES + 1):
            try:
                request = {"model": model, "messages": messages, **sampling.request()}
                async for _ in _read(client, request, answer, began):
                    answer.seconds = time.monotonic() - began
                    yield answer
                answer.state = "done"
                break
            except (OpenAIError, BrokenOff) as cause:
                answer.seconds = time.monotonic() - began
                answer.why = reason(cause, place.shown)
                in_middle = bool(answer.text or answer.reasoning)
                pause = None if in_middle or tried == TRIES else _pause(cause, tried)
                if pause is None:
                    answer.state = _state(cause, in_middle)
                    break
                answer.state, answer.why = "retrying", f"{answer.why} Trying again in {pause:g} s ({tried} of {TRIES - 1})."
            yield answer
            await asyncio.sleep(pause)
    yield answer


async def models(place: Place) -> list[str]:
    """Names of the models that an endpoint lists. Raises openai.OpenAIError."""
    from openai import AsyncOpenAI

    async with AsyncOpenAI(base_url=place.url, api_key=place.key or "none", timeout=30, max_retries=0) as client:
        return [model.id for model in (await client.models.list()).data]


async def _read(client: Any, request: dict[str, Any], answer: Answer, began: float) -> AsyncIterator[None]:
    """Takes what comes into `answer`. Raises BrokenOff when it ends and nothing said why the answer does."""
    import openai

    raw = await client.chat.completions.with_raw_response.create(**request)
    headers = raw.headers
    answer.served, answer.dtype = headers.get(SERVED, ""), headers.get(DTYPE, "")
    answer.request_id = headers.get(REQUEST, "")
    if not request.get("stream"):
        _take_whole(answer, raw.parse())
        answer.first_s = time.monotonic() - began
        yield
        return
    stream = raw.parse()
    try:
        async for chunk in stream:
            if chunk.usage is not None:
                answer.prompt_tokens, answer.num_tokens = chunk.usage.prompt_tokens, chunk.usage.completion_tokens
            for choice in chunk.choices:
                if _take(answer, choice) and not answer.first_s:
                    answer.first_s = time.monotonic() - began
                yield
    except openai.APITimeoutError:
        raise
    except (openai.APIConnectionError, ValueError) as cause:
        # ValueError: half an event, which is no JSON
        raise BrokenOff from cause
    finally:
        await stream.close()
    if not answer.finish:
        raise BrokenOff


def _take(answer: Answer, choice: Any) -> bool:
    """Add a piece of a stream; whether it held anything of the answer."""
    delta = choice.delta
    text, thought = delta.content or "", _thought(delta)
    answer.text += text
    answer.reasoning += thought
    answer.tokens += _tokens(choice.logprobs)
    answer.finish = choice.finish_reason or answer.finish
    if text or thought:
        answer.state = "streaming"
    return bool(text or thought)


def _take_whole(answer: Answer, completion: Any) -> None:
    """The best of the answers to one request, and the others beside it."""
    if not completion.choices:
        raise BrokenOff
    best, *others = completion.choices
    answer.text, answer.reasoning = best.message.content or "", _thought(best.message)
    answer.tokens, answer.finish = _tokens(best.logprobs), best.finish_reason or "stop"
    for other in others:
        tokens = _tokens(other.logprobs)
        answer.beams.append(Beam(other.message.content or "", sum(token.logprob for token in tokens) if tokens else None))
    if completion.usage is not None:
        # of all beams together; the answer's own are counted where its log-probabilities came
        answer.prompt_tokens = completion.usage.prompt_tokens
        answer.num_tokens = len(answer.tokens) or (completion.usage.completion_tokens if not others else 0)


def _thought(part: Any) -> str:
    """What a reasoning parser took out of the answer: vLLM's field, or the older one."""
    return getattr(part, "reasoning", None) or getattr(part, "reasoning_content", None) or ""


def _tokens(logprobs: Any) -> list[Token]:
    if logprobs is None:
        return []
    return [
        Token(each.token, each.logprob, tuple((other.token, other.logprob) for other in each.top_logprobs or ()))
        for each in logprobs.content or ()
    ]


def _pause(cause: Exception, tried: int) -> float | None:
    """Seconds until the next try; None where another would fare no better."""
    import openai

    doubling = FIRST_PAUSE_S * 2 ** (tried - 1)
    if isinstance(cause, openai.APITimeoutError):
        return None
    if isinstance(cause, openai.APIStatusError):
        if cause.status_code not in BUSY:
            return None
        wish = cause.response.headers.get("retry-after", "")
        wanted = float(wish) if wish.replace(".", "", 1).isdigit() else doubling
        return wanted if wanted <= LONGEST_PAUSE_S else None
    return doubling if isinstance(cause, (openai.APIConnectionError, BrokenOff)) else None


def _state(cause: Exception, in_middle: bool) -> str:
    import openai

    if isinstance(cause, openai.APIStatusError):
        return "refused"
    return "unreachable" if isinstance(cause, openai.APIConnectionError) and not in_middle else "broken"


def reason(cause: Exception, name: str) -> str:
    """One sentence for what went wrong, and what to do about it where that is known; `name` says which endpoint."""
    said = _reason(cause, name)
    return said if said.startswith("http") else said[:1].upper() + said[1:]


def _reason(cause: Exception, url: str) -> str:
    import openai

    if isinstance(cause, openai.AuthenticationError):
        return f"{url} does not accept this key; it lies in the file `key` of the endpoint's artifact."
    if isinstance(cause, openai.APITimeoutError):
        return f"{url} did not answer within {ANSWER_S:g} seconds."
    if isinstance(cause, openai.APIConnectionError):
        return f"Nothing answers at {url}; is the endpoint running?"
    if isinstance(cause, openai.APIStatusError):
        return f"The endpoint refused ({cause.status_code}): {_message(cause)}"
    if isinstance(cause, IndexError):
        return f"{url} lists no model; name one."
    if isinstance(cause, BrokenOff):
        return f"{url} broke off in the middle of the answer."
    return f"The endpoint broke off: {cause}"


def _message(refusal: Any) -> str:
    body = refusal.body
    return str(body.get("message", body)) if isinstance(body, dict) else str(body or refusal.message)
