"""The `mixed` method: bits per layer, searched under a budget of divergence or of bytes (W4A16, W8A8 and whole layers)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, model_validator

from raylm.compress.methods.applied import Applied
from raylm.compress.methods.grid import Grid
from raylm.compress.methods.int8 import eight_bit_inputs
from raylm.compress.methods.rounding import Rounding, round_layers, to_half
from raylm.compress.methods.sequential import Recipe, grids_of, round_blocks
from raylm.core.config import Config
from raylm.core.errors import ConfigError

if TYPE_CHECKING:
    import torch

    from raylm.compress.calibration import Calibration
    from raylm.compress.methods.budget import Choice

# searches again where the layers together cost more than the sum of what each costs alone
TRIES = 4


class Mixed(Config):
    """Each layer, or layers that engines fuse, in 4, 8 or 16 bits: where what a layer costs in divergence is much for its bytes,
    it gets more bits. 4 bits are fitted as by gptq; 8 bits are those of int8 with scales per token."""

    needs: ClassVar[tuple[str, ...]] = ("calibration",)
    scheme: ClassVar[str] = "W4A16"
    second_scheme: ClassVar[str] = "W8A8"
    makes: ClassVar[Literal["rounded", "plain"]] = "rounded"

    kind: Literal["mixed"] = "mixed"
    max_kl: float | None = Field(default=None, gt=0)
    """Mean KL divergence per token from the original, in nats on the calibration rows, that may not be exceeded."""
    max_mb: float | None = Field(default=None, gt=0)
    """Megabytes of weights that may not be exceeded."""
    group_size: int = Field(default=128, gt=0, multiple_of=2)
    """Weights of 4 bits that share a scale; must divide every layer's input width."""
    reduce_range: bool = False
    """8-bit weights within -64 and 64, which engines on x86 CPUs without VNNI instructions need; see the int8 method."""

    @model_validator(mode="after")
    def _budget(self) -> Mixed:
        if self.max_kl is None and self.max_mb is None:
            raise ValueError("mixed needs a budget: max_kl, max_mb or both")
        return self

    def apply(self, model: torch.nn.Module, calibration: Calibration | None) -> Applied:
        """Round `model` in place. Raises ConfigError where the budget cannot be kept, with what can be had."""
        from raylm.compress.methods.budget import choose, divergence, kept_bytes, originals, units_of

        assert calibration is not None
        whole: Any = model
        four = Grid(4, self.group_size, half=True)
        grids, kept = grids_of(model, four)
        for name in grids:
            four.check(name, model.get_submodule(name))
        own = originals(whole, calibration)
        units = units_of(whole, list(grids), four, own)
        rest = kept_bytes(whole, grids)
        aim, allowed = self.max_kl, None if self.max_mb is None else self.max_mb * 1e6 - rest
        weights = {name: whole.get_submodule(name).weight.data.clone() for name in grids}
        for _ in range(TRIES):
            choice = choose(units, aim, allowed)
            found = round_blocks(
                model, calibration, {n: self._grid(bits, four) for n, bits in choice.bits.items() if bits < 16}, Recipe()
            )
            cost = divergence(whole, own)
            size = (choice.bytes + rest) / 1e6
            if self.max_mb is not None and size > self.max_mb:
                raise ConfigError(
                    f"at most {self.max_mb:g} MB cannot be had"
                    + (f" with a KL of at most {self.max_kl:g}" if self.max_kl else "")
                    + f": the smallest choice takes {size:.1f} MB",
                    next="allow more of either",
                )
            if self.max_kl is None or cost <= self.max_kl:
                break
            # together they cost more than alone: aim lower by as much
            aim = 0.9 * (aim or 0.0) * self.max_kl / cost
            for name, weight in weights.items():
                whole.get_submodule(name).weight.data.copy_(weight)
        else:
            raise ConfigError(
                f"a KL of at most {self.max_kl:g} was not reached in {TRIES} searches ({cost:.4g})", next="allow more"
            )
        return self._written(model, choice, {n: each.scale_OG for n, each in found.fitted.items()}, kept, four, cost)

    def _written(self, model: Any, choice: Choice, scales: dict[str, Any], kept: list[str], four: Grid, cost: float) -> Applied:
        to_half(model)
        ways = {4: Rounding(four.arguments()), 8: Rounding(self._grid(8, four).arguments(), eight_bit_inputs(True))}
        roundings = {name: ways[bits]._replace(scale=scales[name]) for name, bits in choice.bits.items() if bits < 16}
        plain = [name for name, bits in choice.bits.items() if bits == 16]
        if not roundings:
            raise ConfigError("within this budget no layer can be rounded", next="allow a larger max_kl")
        counts = {f"layers_{bits}_bits": sum(each == bits for each in choice.bits.values()) for bits in (4, 8, 16)}
        return Applied(round_layers(model, roundings, [*kept, *plain], {}), {"bits": counts}, {"kl_calibration": cost})

    def _grid(self, bits: int, four: Grid) -> Grid:
        return four if bits == 4 else Grid(8, half=True, reduced=self.reduce_range)
