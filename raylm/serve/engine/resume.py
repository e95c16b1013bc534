"""An answer that began in another engine goes on in this one, behind the tokens that it had: for every API alike, because what is
told of those tokens passes vLLM's own parsers and shapes once more.

door --Turn--> vLLM's app -> generate, wrapped by `follow`: tokens made elsewhere one by one, then those that the engine makes
  `<- `: raylm-tokens 5,6` between the events: which tokens the text that follows is of, for a gateway that may have to go on
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import AsyncIterator, Callable, Iterable
from contextvars import ContextVar
from typing import Any

RESUME = "x-raylm-resume"
"""Header of a request: tokens of its answer that another engine has made."""
COMMENT = b": raylm-tokens "
MOST_TOKENS = 8000
"""Of a header, which has its limits."""
_IDS = re.compile(rb"\d{1,9}(?:,\d{1,9})*")


class Turn:
    """One answer of an engine.

    Args:
        given: tokens that it has already.
    """

    def __init__(self, given: tuple[int, ...] = ()) -> None:
        self.given = given
        self.calls = 0
        """How often the engine was asked for it: tokens of several calls are not one answer's."""
        self._new: list[int] = []

    def made(self, ids: Iterable[int]) -> None:
        """These leave the engine."""
        self._new.extend(ids)

    def take(self) -> bytes:
        """Those that left since, as a comment between two events; b"" where there are none."""
        ids, self._new = self._new, []
        return comment_of(ids) if ids and self.calls == 1 else b""


TURN: ContextVar[Turn | None] = ContextVar("turn", default=None)


def comment_of(ids: Iterable[int]) -> bytes:
    """Tokens as a comment of a stream."""
    return COMMENT + ",".join(map(str, ids)).encode() + b"\n\n"


def ids_of(text: bytes) -> tuple[int, ...]:
    """Tokens of a comment or a header; none where it has another form."""
    text = text.removeprefix(COMMENT).strip()
    return tuple(map(int, text.split(b","))) if _IDS.fullmatch(text) else ()


def follow(engine: Any) -> None:
    """Wrap `generate` of an AsyncLLM: what is asked for within a `Turn` leaves its tokens there, and begins with those given."""
    generate: Callable[..., Any] = engine.generate

    def followed(prompt: Any, sampling_params: Any, *args: Any, **options: Any) -> AsyncIterator[Any]:
        turn = TURN.get()
        if turn is None:
            return generate(prompt, sampling_params, *args, **options)
        turn.calls += 1
        if turn.given and turn.calls == 1:
            from raylm.inference.vllm_serving_private import continued

            made = continued(generate, engine.get_tokenizer(), turn.given, prompt, sampling_params, *args, **options)
        else:
            made = generate(prompt, sampling_params, *args, **options)
        return _told(turn, made)

    engine.generate = followed


async def _told(turn: Turn, made: Any) -> AsyncIterator[Any]:
    async with contextlib.aclosing(made):
        async for output in made:
            for one in output.outputs[:1]:
                turn.made(one.token_ids)
            yield output
