"""An untrained Llama of a given shape."""

from __future__ import annotations

from typing import ClassVar, Literal

from raylm.model.shapes.shape import Decoder


class Llama(Decoder):
    """Llama (https://arxiv.org/abs/2302.13971): the plain decoder."""

    classes: ClassVar[tuple[str, str]] = ("LlamaConfig", "LlamaForCausalLM")

    kind: Literal["llama"] = "llama"
