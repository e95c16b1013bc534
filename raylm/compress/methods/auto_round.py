"""The `auto_round` method: 4-bit weights tuned block by block by the AutoRound library (W4A16)."""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from raylm.compress.methods.applied import Applied
from raylm.compress.methods.grid import Grid
from raylm.compress.methods.rounding import round_weights, to_half
from raylm.compress.methods.sequential import grids_of
from raylm.core.config import Config
from raylm.core.errors import ConfigError
from raylm.model.load import load_tokenizer

if TYPE_CHECKING:
    import torch

    from raylm.compress.calibration import Calibration


class AutoRound(Config):
    """Signed gradient descent on roundings and ranges (https://arxiv.org/abs/2309.05516), by Intel's library; written in the same
    format as int4. `gptq` takes a small part of its time, `qad` is nearer to the original."""

    needs: ClassVar[tuple[str, ...]] = ("calibration",)
    scheme: ClassVar[str] = "W4A16"
    makes: ClassVar[Literal["rounded", "plain"]] = "rounded"

    kind: Literal["auto_round"] = "auto_round"
    group_size: int = Field(default=128, gt=0, multiple_of=2)
    """Weights that share a scale; must divide every layer's input width. GPUs take 32, 64 and 128."""
    steps: int = Field(default=200, ge=1)
    """Steps per block; the library calls them iters."""
    batch_size: int = Field(default=8, ge=1)
    """Rows of a step."""

    def apply(self, model: torch.nn.Module, calibration: Calibration | None) -> Applied:
        """Round `model` in place. Raises ConfigError where the library is absent or a layer does not fit."""
        assert calibration is not None
        if importlib.util.find_spec("auto_round") is None:
            raise ConfigError("method auto_round needs the package auto-round", next='install it, or say {kind = "gptq"}')
        grid = Grid(4, self.group_size, half=True)
        grids, _ = grids_of(model, grid)
        for name in grids:
            grid.check(name, model.get_submodule(name))
        rows, length = equal_rows(calibration)
        scales = self._tuned(model, load_tokenizer(calibration.path), rows, length, list(grids))
        to_half(model)
        return Applied(round_weights(model, grid.arguments(), None, {}, scales), facts={"calibrated_on": [len(rows), length]})

    def _tuned(
        self, model: Any, tokenizer: Any, rows: list[torch.Tensor], length: int, names: list[str]
    ) -> dict[str, torch.Tensor]:
        """Scales by layer; the weights of `model` lie on their grid then."""
        from auto_round import AutoRound as Library

        asked: dict[str, Any] = {"bits": 4, "group_size": self.group_size, "sym": True, "iters": self.steps}
        sizes: dict[str, Any] = {"nsamples": len(rows), "seqlen": length, "batch_size": self.batch_size}
        # compiling takes a C++ compiler, and longer than it saves on models of this size
        sizes["enable_torch_compile"] = False
        device = str(next(model.parameters()).device)
        library: Any = Library(model, tokenizer=tokenizer, dataset=rows, device_map=device, **asked, **sizes)
        tuned, _ = library.quantize()
        scales = {}
        for name in names:
            layer = tuned.get_submodule(name)
            if not hasattr(layer, "scale"):
                raise ConfigError(f"auto-round left {name} as it is", next='say {kind = "gptq"}')
            # the library gives matrices of its own
            model.get_submodule(name).weight.data = layer.weight.data
            scales[name] = layer.scale.detach().reshape(layer.weight.shape[0], -1)
        return scales


def equal_rows(calibration: Calibration) -> tuple[list[torch.Tensor], int]:
    """Rows [1, length] of one length, and that length: a quarter of the rows may be shorter and are left out, longer ones are
    cut. The library drops rows that are shorter than the length it is told."""
    import torch

    lengths = sorted(len(row) for row in calibration.rows)
    length = lengths[len(lengths) // 4]
    return [torch.as_tensor(row)[None, :length].long() for row in calibration.rows if len(row) >= length], length
