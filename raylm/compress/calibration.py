"""Calibration: token rows run through a model, block after block, and what enters each of its linear layers.

rows of an artifact -> micro-batches of equal length -> embedding -> block 0 -> block 1 -> ...
                                                                     |
              one block's activations at a time: a method changes it, and the next is entered by what it gives then
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from raylm.compress.blocks import Block, check_chain, decoder_blocks, is_linear, record, texts
from raylm.core.errors import DataError

if TYPE_CHECKING:
    import torch

# tokens that run through a block at once
MICRO_BATCH = 4096


class Calibration:
    """Token rows, and the ways to run them through a model.

    Args:
        rows: token ids of each row: list, numpy array or tensor.
        held: rows that no method sees: what the changed model is compared on with the original.
        path: of the model, whose tokenizer lies there.
    """

    def __init__(self, rows: list[Any], held: list[Any] | None = None, path: str = "") -> None:
        self.rows, self.held, self.path = list(rows), list(held or ()), path

    @classmethod
    def open(cls, uri: str, path: str, config: Any, num_rows: int, num_held: int = 0) -> Calibration:
        """Rows of the artifact at `uri` for the model at `path`; what is compared on comes of its held-out rows, or of training
        rows behind those that are calibrated on.

        Raises:
            DataError: they are of another tokenizer than the model's, or there are none.
        """
        from raylm.core.storage import Folder
        from raylm.data.shards import Rows
        from raylm.model.limits import positions
        from raylm.model.load import load_tokenizer
        from raylm.model.same_tokens import other_tokens

        train, held_out = Rows.open(uri, "train"), Rows.open(uri, "held_out")
        picked = [train[index] for index in range(min(num_rows, len(train)))]
        behind = [train[index] for index in range(len(picked), min(len(picked) + num_held, len(train)))]
        held = [held_out[index] for index in range(min(num_held, len(held_out)))] or behind
        if why := other_tokens([*picked, *held], load_tokenizer(Folder(uri).path("tokenizer")), load_tokenizer(path)):
            raise DataError(f"calibration rows are of another tokenizer than the model's: {why}", where=uri)
        most = positions(config.to_dict())
        rows, kept = ([ids[:most] for row in each if len(ids := tokens_of(row))] for each in (picked, held))
        if not rows:
            raise DataError("there are no rows to calibrate on", where=uri)
        return cls(rows, kept, path)

    def batches(self, device: Any = "cpu", rows: list[Any] | None = None) -> list[torch.Tensor]:
        """Token ids [rows, tokens] of rows of equal length: nothing is padded, so that every position counts once."""
        import numpy as np
        import torch

        by_length: dict[int, list[Any]] = defaultdict(list)
        for row in self.rows if rows is None else rows:
            by_length[len(row)].append(np.asarray(row, dtype=np.int64))
        found = []
        for length, same in sorted(by_length.items()):
            size = max(1, MICRO_BATCH // length)
            found += [torch.tensor(np.stack(same[at : at + size])).to(device) for at in range(0, len(same), size)]
        return found

    def inputs(self, model: Any, note: Callable[[str, torch.Tensor], None], only: Any = None) -> None:
        """Run all rows through the whole `model`; `note(name, x)` is called with what enters each of its linear layers, [..., I].

        Args:
            only: which modules, by a test of (name, module); linear layers and Conv1D where it does not say.
        """
        import torch

        chosen = [(name, module) for name, module in model.named_modules() if (only or is_linear)(name, module)]
        hooks = [
            module.register_forward_pre_hook(lambda _, args, name=name: note(name, args[0].detach())) for name, module in chosen
        ]
        try:
            with torch.no_grad():
                for ids in self.batches(next(model.parameters()).device):
                    model(**texts(model, ids))
        finally:
            for hook in hooks:
                hook.remove()

    def absmax(self, model: Any) -> dict[str, float]:
        """Largest input magnitude of each linear layer of the whole model as it is; NaN where one was met."""
        import torch

        found: dict[str, float] = {}

        def note(name: str, x: torch.Tensor) -> None:
            # torch's maximum keeps NaN, Python's drops it
            found[name] = float(x.abs().max().float().cpu().maximum(torch.tensor(found.get(name, 0.0))))

        self.inputs(model, note)
        return found

    def blocks(self, model: Any, start: int = 0, hidden: list[torch.Tensor] | None = None) -> Iterator[Block]:
        """The decoder blocks of `model`, one after another, each with the hidden states that enter it: those that the blocks
        before give as they are when this one is asked for. Change `block.module` in place, or its layers.

        Args:
            start: the first block to give; earlier ones are run as they are, unless `hidden` says what they give.
            hidden: of an earlier walk, `Block.hidden` of that block.

        Raises:
            ConfigError: the blocks are no chain in which each takes what the one before gives (an encoder beside a decoder,
                states that pass by the blocks).
        """
        import torch

        prefix, blocks = decoder_blocks(model)
        device = next(model.parameters()).device
        ids = self.batches(device)
        entering, calls = record(model, blocks, ids)
        check_chain(model, blocks, ids, entering, calls)
        if hidden is not None:
            entering = [each.to(device) for each in hidden]
        for index, module in enumerate(blocks):
            block = Block(index, f"{prefix}.{index}", module, entering, [call[index] for call in calls])
            if index >= start:
                yield block
            if hidden is None or index >= start:
                with torch.no_grad():
                    entering = [block.run(at) for at in range(len(entering))]


def tokens_of(row: dict[str, Any]) -> list[int]:
    """The token ids of a row of any kind, prompt and (chosen) answer in one."""
    if "tokens" in row:
        return list(row["tokens"])
    parts = [row[name] for name in ("prompt", "chosen", "completion") if row.get(name) is not None]
    return [int(token) for part in parts for token in part]
