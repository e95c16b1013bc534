"""Hugging Face's layout: config.json, safetensors and tokenizer alone, as a folder that can be published."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from raylm.compress.formats.source import Source, Written, weight_bytes
from raylm.core.config import Config
from raylm.core.storage import Folder


class HuggingFace(Config):
    """What transformers, vLLM and most others load; a copy, or in another dtype."""

    rounded: ClassVar[bool] = False
    variant: ClassVar[str] = ""

    kind: Literal["hugging_face"] = "hugging_face"
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Dtype of the weights; `auto` leaves each as it is."""

    def write(self, source: Source, out: Folder) -> Written:
        """Write the plain checkpoint at `source.path` to `out`. Raises ConfigError when it is quantized."""
        from raylm.model.checkpoint import write_checkpoint
        from raylm.model.load import kind_of_model, load_model

        model: Any = load_model(source.path, self.dtype, plain=True)
        before = sum(p.numel() * p.element_size() for p in model.parameters())
        write_checkpoint(out, model.config, model.state_dict(), source.path, start=source.path, keep_dtypes=self.dtype == "auto")
        facts = {"dtype": str(model.dtype).removeprefix("torch.")}
        after = weight_bytes(out, ".safetensors")
        return Written(kind_of_model(model.config) or "", facts, {"bytes_before": before, "bytes_after": after})

    def next_step(self, out: str) -> str:
        """What to do with `out`."""
        return f"name {out} as `model` of a train, rl, compress, evaluate or serve stage"
