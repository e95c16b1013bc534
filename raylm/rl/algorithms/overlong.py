"""Soft punishment of completions that come near the limit of tokens (DAPO's overlong reward shaping)."""

from __future__ import annotations

from pydantic import Field

from raylm.core.config import Config


class Overlong(Config):
    """The reward falls by up to `penalty` from `expected_tokens` on, over `buffer_tokens` (https://arxiv.org/abs/2503.14476,
    equation 13)."""

    expected_tokens: int = Field(gt=0)
    """Completions of so many tokens lose nothing. DAPO: max_tokens less the buffer."""
    buffer_tokens: int = Field(gt=0)
    """Tokens over which the punishment grows to its whole."""
    penalty: float = Field(default=1.0, gt=0, allow_inf_nan=False)
    """What a completion of `expected_tokens + buffer_tokens` or more loses."""

    def shaping(self, num_tokens: float) -> float:
        """What is added to the reward of a completion of so many tokens: -penalty to 0."""
        return -self.penalty * min(max((num_tokens - self.expected_tokens) / self.buffer_tokens, 0.0), 1.0)
