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

MODEL_TYPES = ("llama", "mistral", "qwen2", "qwen3")
"""Those whose logits are the same in mlx-lm 0.32; it has classes for more, which nobody has tried here."""


class Mlx(Config):
    """For Apple silicon: `mlx_lm.generate`, `mlx_lm.convert -q` for fewer bits, LM Studio's MLX engine."""

    takes: ClassVar[tuple[str, ...]] = ("plain",)
    variant: ClassVar[str] = "export:mlx"

    kind: Literal["mlx"] = "mlx"
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Dtype of the weights; `auto` leaves each as it is."""

    def check_config(self, config: dict[str, Any], where: str) -> None:
        """Raises ConfigError for networks that nobody has run in mlx-lm here."""
        if config.get("model_type") not in MODEL_TYPES:
            known = ", ".join(MODEL_TYPES)
            said = f"exports to mlx are not proved for {config.get('model_type')!r}"
            raise ConfigError(said, where=where, next=f"export to hugging_face and try; proved are {known}")

    def write(self, source: Source, out: Folder) -> Written:
        """Write config, tokenizer and weights. Raises ConfigError when they are quantized, or of no type that was tried."""
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
    """Write {"format": "mlx"} into the head of every safetensors file of the local `folder`, and config.json as mlx-lm reads it;
    the tensors stay where they are."""
    settings = folder / "config.json"
    settings.write_text(json.dumps(flat(json.loads(settings.read_text())), indent=2) + "\n")
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


def flat(config: dict[str, Any]) -> dict[str, Any]:
    """A config.json with what transformers 5 nests or leaves out: mlx-lm would take its own default for it without a word."""
    rope = config.get("rope_parameters") or {}
    if any(isinstance(value, dict) for value in rope.values()):
        raise ConfigError("layers of this model turn by different angles, which mlx-lm reads under other names")
    found = {**config, **{key: rope[key] for key in ("rope_theta", "partial_rotary_factor") if key in rope}}
    if rope.get("rope_type", "default") != "default":
        found["rope_scaling"] = {key: value for key, value in rope.items() if key != "rope_theta"}
    return found
