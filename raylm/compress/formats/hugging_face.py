"""Hugging Face's layout: config.json, safetensors and tokenizer alone, as a folder that can be published."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from raylm.compress.formats.source import Source, Written, weight_bytes
from raylm.core.config import Config
from raylm.core.storage import Folder


class HuggingFace(Config):
    """What transformers, vLLM and most others load; a copy, or in another dtype."""

    takes: ClassVar[tuple[str, ...]] = ("plain",)
    variant: ClassVar[str] = ""

    kind: Literal["hugging_face"] = "hugging_face"
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Dtype of the weights; `auto` leaves each as it is."""

    def write(self, source: Source, out: Folder) -> Written:
        """Write the plain checkpoint at `source.path`, or what a method has made of it, to `out`. Raises ConfigError when it is
        quantized."""
        import torch

        from raylm.compress.formats.compressed_tensors import check_reload
        from raylm.model.checkpoint import write_checkpoint
        from raylm.model.load import kind_of_model, load_model

        changed = source.changed
        model: Any = changed.model if changed else load_model(source.path, self.dtype, plain=True)
        if changed and self.dtype != "auto":
            model = model.to(getattr(torch, self.dtype))
        before = changed.bytes_before if changed else sum(p.numel() * p.element_size() for p in model.parameters())
        keep = self.dtype == "auto"
        check = (lambda at: check_reload(model, str(at))) if changed else None
        write_checkpoint(out, model.config, model.state_dict(), source.path, check, start=source.path, keep_dtypes=keep)
        facts = {"dtype": str(model.dtype).removeprefix("torch."), **(changed.facts if changed else {})}
        sizes = {"bytes_before": before, "bytes_after": weight_bytes(out, ".safetensors")}
        return Written(kind_of_model(model.config) or "", facts, {**sizes, **(changed.metrics if changed else {})})

    def next_step(self, out: str) -> str:
        """What to do with `out`."""
        return f"name {out} as `model` of a train, rl, compress, evaluate or serve stage"
