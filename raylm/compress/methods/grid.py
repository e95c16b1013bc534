"""The numbers that a rounded weight can be: whole multiples of one scale for each group of inputs, or for each output channel.

O outputs, I inputs, G groups of inputs. Scales below 8 bits may be negative: 4 bits hold -8 to 7, and the side of a group that
has the largest weight gets the eighth step.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from raylm.core.errors import ConfigError, DataError

if TYPE_CHECKING:
    import torch

# parts of the largest weight that a search tries as the edge of the grid
EDGES = tuple(1 - 0.04 * step for step in range(11))
# vLLM's kernel on CPUs refuses 4-bit layers of other widths
WIDTH = 32


class Grid(NamedTuple):
    """Symmetric integers of `bits` bits."""

    bits: int
    group_size: int | None = None
    """Inputs that share a scale; None for one scale per output channel."""
    half: bool = False
    """Whether scales are stored in bfloat16."""
    reduced: bool = False
    """Whether weights stay within half of the range, and lose one bit: -64 to 64 of 8 bits. See `Int8.reduce_range`."""

    @property
    def low(self) -> int:
        return -(2 ** (self.bits - 1 - self.reduced))

    @property
    def high(self) -> int:
        return -self.low if self.reduced else -self.low - 1

    def arguments(self) -> Any:
        """As compressed-tensors says it; `observer_kwargs` tells engines of a reduced range."""
        from compressed_tensors.quantization import QuantizationArgs, QuantizationStrategy, QuantizationType

        if self.group_size is None:
            span: dict[str, Any] = {"strategy": QuantizationStrategy.CHANNEL}
        else:
            span = {"strategy": QuantizationStrategy.GROUP, "group_size": self.group_size}
        told: dict[str, Any] = {"observer_kwargs": {"reduce_range": True}} if self.reduced else {}
        return QuantizationArgs(num_bits=self.bits, type=QuantizationType.INT, symmetric=True, **span, **told)

    def check(self, name: str, layer: Any) -> None:
        """Raises ConfigError when the layer's shape does not fit, DataError when its weights are not finite."""
        if self.group_size is not None and layer.in_features % self.group_size:
            raise ConfigError(
                f"{name} has {layer.in_features} inputs, no multiple of group_size {self.group_size}",
                next="choose a group_size that divides it (32, 64, 128)",
            )
        if self.bits == 4 and (layer.in_features % WIDTH or layer.out_features % WIDTH):
            raise ConfigError(
                f"{name} is {layer.in_features} wide and leaves {layer.out_features}; vLLM's 4-bit kernels take multiples "
                f"of {WIDTH}",
                next='round to 8 bits: method = {kind = "int8"}',
            )
        if not bool(layer.weight.isfinite().all()):
            raise DataError(f"the weights of {name} are not all finite", next="find out in which training stage they broke")

    def stored(self, scale_OG: torch.Tensor) -> torch.Tensor:
        """Scales as the file will hold them, in float32."""
        import torch

        return scale_OG.to(torch.bfloat16).float() if self.half else scale_OG.float()

    def spread(self, scale_OG: torch.Tensor, width: int) -> torch.Tensor:
        """The scale of every weight, [O, I]."""
        return scale_OG.repeat_interleave(width // scale_OG.shape[1], dim=1)

    def integers(self, weight_OI: torch.Tensor, scale_OG: torch.Tensor) -> torch.Tensor:
        """The nearest whole numbers, as floats."""
        return (weight_OI / self.spread(scale_OG, weight_OI.shape[1])).round().clamp(self.low, self.high)

    def snap(self, weight_OI: torch.Tensor, scale_OG: torch.Tensor) -> None:
        """Put every weight on the grid, in place: a writer that knows the scale and `bits` alone finds the same integers."""
        weight_OI.copy_(self.integers(weight_OI.float(), scale_OG) * self.spread(scale_OG, weight_OI.shape[1]))

    def widest(self, weight_OI: torch.Tensor) -> torch.Tensor:
        """Scales [O, G] whose grid ends at the largest weight, as compressed-tensors' min-max observer sets them."""
        groups = weight_OI.float().unflatten(1, (-1, self.group_size or weight_OI.shape[1]))
        most = groups.abs().amax(-1)
        return self.stored((most / ((self.high - self.low) / 2)).clamp(min=1e-10))

    def search(self, weight_OI: torch.Tensor, importance_I: torch.Tensor | None = None) -> torch.Tensor:
        """Scales [O, G] of the smallest squared error of the weights, each weighted by the importance of its input.

        Edges within the largest weight, of both signs, then the closed-form scale of the integers that the best one gives.
        """
        import torch

        size = self.group_size or weight_OI.shape[1]
        groups = weight_OI.float().unflatten(1, (-1, size))
        weights = torch.ones_like(groups[:1]) if importance_I is None else importance_I.float().view(1, -1, size)
        at = groups.abs().argmax(-1, keepdim=True)
        most = groups.gather(-1, at).squeeze(-1) / self.low
        # 8-bit kernels are not known to take negative scales, and 127 steps are no fewer than 128
        most = most.abs() if self.bits == 8 else most
        most = torch.where(most.abs() < 1e-10, torch.full_like(most, 1e-10), most)
        best, lowest = self.stored(most), torch.full_like(most, torch.inf)

        def judge(scale_OG: torch.Tensor) -> torch.Tensor:
            nonlocal best, lowest
            scale_OG = self.stored(scale_OG)
            whole = (groups / scale_OG[..., None]).round_().clamp_(self.low, self.high)
            wrong = ((whole * scale_OG[..., None]).sub_(groups).square_().mul_(weights)).sum(-1)
            better = wrong < lowest
            best, lowest = torch.where(better, scale_OG, best), torch.where(better, wrong, lowest)
            return whole

        for edge in EDGES:
            judge(most * edge)
            judge((most if self.bits == 8 else -most) * edge * self.low / -self.high)
        whole = (groups / best[..., None]).round().clamp(self.low, self.high)
        under = (whole.square() * weights).sum(-1)
        fitted = (groups * whole * weights).sum(-1) / under.clamp(min=1e-30)
        judge(torch.where((under > 0) & (fitted.abs() > 1e-10), fitted, best))
        return best
