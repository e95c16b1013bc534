"""Prompts that faults of an export show in, and what transformers says of them."""

from __future__ import annotations

from functools import cache

from raylm.compress.consumers.consumer import Prompt, Ran
from raylm.compress.consumers.transformers import Transformers
from tests.model.gguf.small import small

PROMPTS: list[Prompt] = [
    [{"role": "user", "content": "It's 12345 o'clock."}],
    [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "def f(x):\n    return (x)\n\n"}],
    "two  spaces, naïve café 日本 👍🏽 1,000:\n\n- x",
    "<|user|>I'LL say 2024<|end|>",
]


@cache
def reference(kind: str) -> list[Ran]:
    return Transformers().run(small(kind), PROMPTS, 8)
