"""Megatron-LM's layout, sharded over its ranks, and back; see `raylm.model.megatron.convert`."""

from __future__ import annotations

import shlex
from typing import ClassVar, Literal

from raylm.compress.formats.source import Source, Written, weight_bytes
from raylm.core.storage import Folder
from raylm.model.megatron.shape import Layout


class Megatron(Layout):
    """Checkpoint of Megatron-LM's GPTModel: weights are bit-equal both ways. Config and tokenizer lie beside it in `hf/`."""

    takes: ClassVar[tuple[str, ...]] = ()
    variant: ClassVar[str] = "export:megatron"

    kind: Literal["megatron"] = "megatron"
    ckpt_format: Literal["torch", "torch_dist"] = "torch"
    """Megatron's --ckpt-format: files of ranks, or one distributed checkpoint."""

    def write(self, source: Source, out: Folder) -> Written:
        """Write the checkpoint at `source.path` to `out`. Raises ConfigError when the model has no such layout."""
        from raylm.model.load import folder_of
        from raylm.model.megatron.convert import to_megatron

        to_megatron(source.path, out.uri, self, self.ckpt_format)
        folder = folder_of(source.path)
        sizes = {"bytes_after": weight_bytes(out, (".pt", ".distcp"))}
        return Written(self.variant, {}, {"bytes_before": weight_bytes(Folder(folder)) if folder else 0, **sizes})

    def read(self, folder: str, out: Folder, like: str | None) -> None:
        """Write Megatron's newest checkpoint in `folder` to `out` in Hugging Face's layout."""
        from raylm.model.megatron.convert import from_megatron

        from_megatron(folder, out.uri, like)

    def next_step(self, out: str) -> str:
        """What to do with `out`."""
        flags = f"--load {shlex.quote(out)} --ckpt-format {self.ckpt_format} --use-checkpoint-args --finetune"
        return f"in Megatron-LM, add to pretrain_gpt.py: {flags}"
