"""How an answer is drawn: what a chat lets its user set, as fields of an OpenAI request."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

MOST_LOGPROBS = 20
MOST_BEAMS = MOST_LOGPROBS // 2
"""vLLM's beam search asks the engine for twice as many log-probabilities as it has beams."""
# (least, most) that is taken; None: no end
RANGES: dict[str, tuple[float, float | None]] = {
    "temperature": (0, 2),
    "top_p": (0.001, 1),
    "top_k": (0, None),
    "min_p": (0, 1),
    "repetition_penalty": (0.01, 2),
    "seed": (0, 2**63 - 1),
    "max_tokens": (1, None),
    "beam_width": (1, MOST_BEAMS),
    "top_logprobs": (0, MOST_LOGPROBS),
}
WHOLE = ("top_k", "seed", "max_tokens", "beam_width", "top_logprobs")
# fields that OpenAI's API does not know and vLLM does
BEYOND = ("top_k", "min_p", "repetition_penalty")


@dataclass(frozen=True)
class Sampling:
    """What is None is left to the endpoint: its own default, from the model's generation config.

    Args:
        temperature: 0 takes the most likely token (greedy).
        top_p: the smallest set of tokens with this probability together is drawn from.
        top_k: this many most likely tokens are drawn from; 0 is all.
        min_p: tokens with less than this part of the likeliest one's probability are left out.
        repetition_penalty: above 1 makes tokens that stand in prompt or answer less likely.
        beam_width: beams of vLLM's beam search, whose answer comes as a whole; nothing is drawn then.
        top_logprobs: alternatives whose log-probabilities are asked for, for each token; None asks for none.
    """

    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    seed: int | None = None
    max_tokens: int | None = None
    beam_width: int | None = None
    top_logprobs: int | None = None

    def __post_init__(self) -> None:
        for name, (least, most) in RANGES.items():
            value = getattr(self, name)
            if value is not None and not (least <= value and (most is None or value <= most)):
                raise ValueError(f"{name} is {value:g}; it goes from {least:g}" + (f" to {most:g}" if most is not None else ""))

    @property
    def streams(self) -> bool:
        """Whether the answer comes token by token: vLLM finds the best beam only at the end."""
        return self.beam_width is None

    def request(self) -> dict[str, Any]:
        """Fields for `client.chat.completions.create`, without model and messages."""
        drawn = ("max_tokens",) if self.beam_width else ("max_tokens", "temperature", "top_p", "seed")
        asked: dict[str, Any] = {name: getattr(self, name) for name in drawn if getattr(self, name) is not None}
        beyond = {} if self.beam_width else {name: getattr(self, name) for name in BEYOND if getattr(self, name) is not None}
        if self.beam_width:
            # the width is `n`: as many answers come back, the best one first
            asked |= {"n": self.beam_width, "temperature": 0.0}
            beyond = {"use_beam_search": True}
        if self.top_logprobs is not None:
            asked |= {"logprobs": True, "top_logprobs": self.top_logprobs}
        asked |= {"stream": True, "stream_options": {"include_usage": True}} if self.streams else {}
        return asked | ({"extra_body": beyond} if beyond else {})

    def setting(self, name: str, text: str) -> Sampling:
        """With one value from a text; `default`, or nothing, leaves it to the endpoint.

        Raises:
            ValueError: no such value, or none that is taken; the message says which are.
        """
        if name not in RANGES:
            raise ValueError(f"no setting {name!r}; there are {', '.join(RANGES)}")
        if text in ("", "default", "none"):
            return replace(self, **{name: None})
        try:
            value = int(text) if name in WHOLE else float(text)
        except ValueError:
            raise ValueError(f"{name} takes a {'whole ' if name in WHOLE else ''}number, not {text!r}") from None
        return replace(self, **{name: value})

    def chosen(self) -> dict[str, Any]:
        """What is not left to the endpoint."""
        return {each.name: getattr(self, each.name) for each in fields(self) if getattr(self, each.name) is not None}
