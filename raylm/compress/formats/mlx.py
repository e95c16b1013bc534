"""MLX: the folder that mlx_lm.load reads. Hugging Face's names are its own; weights are marked as those of its converter."""

from __future__ import annotations

import json
import os
import shlex
import struct
from pathlib import Path
from typing import Any, ClassVar, Literal

from raylm.compress.formats.source import Source, Written, weight_bytes
from raylm.core.config import Config
from raylm.core.errors import ConfigError
from raylm.core.storage import Folder

MODEL_TYPES = (
    "cohere", "cohere2", "exaone4", "gemma", "gemma2", "gemma3_text", "glm4", "gpt2", "gpt_neox", "gpt_oss", "granite", "helium",
    "lfm2", "llama", "mistral", "mixtral", "nemotron", "olmo", "olmo2", "olmo3", "phi", "phi3", "qwen2", "qwen2_moe", "qwen3",
    "qwen3_moe", "seed_oss", "smollm3", "stablelm", "starcoder2",
)  # fmt: skip
"""Of those that mlx-lm 0.32 has a class for, the language models that raylm trains."""


class Mlx(Config):
    """For Apple silicon: `mlx_lm.generate`, `mlx_lm.convert -q` for fewer bits, LM Studio's MLX engine."""

    takes: ClassVar[tuple[str, ...]] = ("plain",)
    variant: ClassVar[str] = "export:mlx"

    kind: Literal["mlx"] = "mlx"
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Dtype of the weights; `auto` leaves each as it is."""

    def check_config(self, config: dict[str, Any], where: str) -> None:
        """Raises ConfigError where mlx-lm has no such network."""
        if config.get("model_type") not in MODEL_TYPES:
            known = ", ".join(MODEL_TYPES)
            raise ConfigError(
                f"mlx-lm has no {config.get('model_type')!r}", where=where, next=f"export to gguf; it knows {known}"
            )

    def write(self, source: Source, out: Folder) -> Written:
        """Write config, tokenizer and weights. Raises ConfigError when they are quantized, or mlx-lm knows no such model."""
        import torch

        from raylm.model.checkpoint import write_checkpoint
        from raylm.model.load import load_model

        changed = source.changed
        model: Any = changed.model if changed else load_model(source.path, self.dtype, plain=True)
        self.check_config(model.config.to_dict(), source.path)
        if changed and self.dtype != "auto":
            model = model.to(getattr(torch, self.dtype))
        before = changed.bytes_before if changed else sum(p.numel() * p.element_size() for p in model.parameters())
        keep = self.dtype == "auto"
        write_checkpoint(out, model.config, model.state_dict(), source.path, mark, start=source.path, keep_dtypes=keep)
        facts = {"dtype": str(model.dtype).removeprefix("torch."), **(changed.facts if changed else {})}
        sizes = {"bytes_before": before, "bytes_after": weight_bytes(out, ".safetensors")}
        return Written(self.variant, facts, {**sizes, **(changed.metrics if changed else {})})

    def next_step(self, out: str) -> str:
        """What to do with `out`."""
        return f"mlx_lm.generate --model {shlex.quote(out)} --prompt 'Hello'"


def mark(folder: Path) -> None:
    """Write {"format": "mlx"} into the head of every safetensors file of the local `folder`; the tensors stay where they are."""
    for file in sorted(folder.glob("*.safetensors")):
        with file.open("rb") as read:
            (size,) = struct.unpack("<Q", read.read(8))
            header = json.loads(read.read(size))
            header["__metadata__"] = {**header.get("__metadata__", {}), "format": "mlx"}
            # spaces behind the JSON keep the tensors aligned
            said = json.dumps(header, separators=(",", ":")).encode()
            said += b" " * (-len(said) % 8)
            near = file.with_suffix(".marked")
            with near.open("wb") as write:
                write.write(struct.pack("<Q", len(said)) + said)
                while block := read.read(1 << 24):
                    write.write(block)
        os.replace(near, file)
