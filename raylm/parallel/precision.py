"""Float8 matrix products in transformer blocks: bfloat16 around them, float32 master weights.

Each operand has one scale, its largest value over the format's, found anew for each product (dynamic, per tensor:
https://arxiv.org/abs/2209.05433). Values and weights are e4m3, gradients e5m2, which has the wider range.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from raylm.core.errors import ConfigError
from raylm.model.torch_private import scaled_mm

# the kernels take sizes in these steps
STEP = 16


def check_float8(device: torch.device | str) -> None:
    """Raises ConfigError when `device` cannot multiply float8 faster than bfloat16."""
    device, lacks = torch.device(device), None
    if device.type != "cuda":
        lacks = f"on {device.type} float8 is slower than bfloat16"
    elif torch.cuda.get_device_capability(device) < (8, 9):
        lacks = f"{torch.cuda.get_device_name(device)} has no float8 (capability 8.9 or above has)"
    if lacks:
        raise ConfigError(f"dtype = 'float8' cannot run: {lacks}", next="set dtype = 'bfloat16'")


def narrow_products(blocks: Sequence[torch.nn.Module]) -> int:
    """Let the linear layers of `blocks` multiply in float8, in place; names and weights stay. Returns their number."""
    found = 0
    for block in blocks:
        for module in block.modules():
            if type(module) is torch.nn.Linear and module.in_features % STEP == module.out_features % STEP == 0:
                module.__class__ = Float8Linear
                found += 1
    return found


class Float8Linear(torch.nn.Linear):
    """A linear layer whose three products (output, gradients of input and weight) are of float8."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        kind, weight = input.device.type, self.weight
        if torch.is_autocast_enabled(kind):
            dtype = torch.get_autocast_dtype(kind)
            input, weight = input.to(dtype), weight.to(dtype)
        with torch.autocast(kind, enabled=False):
            made_MN: Any = _Product.apply(input.flatten(0, -2), weight)
            made = made_MN.unflatten(0, input.shape[:-1])
            return made if self.bias is None else made + self.bias.to(made.dtype)


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, input_MK: torch.Tensor, weight_NK: torch.Tensor) -> torch.Tensor:
        # zero rows change no product
        padded_MK = torch.nn.functional.pad(input_MK, (0, 0, 0, -len(input_MK) % STEP))
        ctx.save_for_backward(padded_MK, weight_NK)
        return product(padded_MK, weight_NK.t())[: len(input_MK)]

    @staticmethod
    def backward(ctx: Any, slope_MN: torch.Tensor) -> Any:
        padded_MK, weight_NK = ctx.saved_tensors
        num_rows = len(slope_MN)
        slope_MN = torch.nn.functional.pad(slope_MN, (0, 0, 0, len(padded_MK) - num_rows))
        of_input, of_weight = ctx.needs_input_grad
        input_grad = product(slope_MN, weight_NK, torch.float8_e5m2)[:num_rows] if of_input else None
        weight_grad = product(slope_MN.t(), padded_MK, torch.float8_e5m2) if of_weight else None
        return input_grad, weight_grad


def product(left_MK: torch.Tensor, right_KN: torch.Tensor, of_left: torch.dtype = torch.float8_e4m3fn) -> torch.Tensor:
    """`left @ right` with both rounded to float8; sizes are multiples of 16. In the dtype of `left`, which is bfloat16."""
    left, of_left_scale = _rounded(left_MK, of_left)
    right, of_right_scale = _rounded(right_KN, torch.float8_e4m3fn)
    # the kernels read the left operand by rows and the right one by columns
    right = right.t().contiguous().t()
    scales = (of_left_scale, of_right_scale)
    return scaled_mm(left.contiguous(), right, *scales, out_dtype=left_MK.dtype)


def _rounded(values: torch.Tensor, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """Values over their scale in `dtype`, and the scale."""
    scale = values.abs().amax().float().clamp_min(1e-12) / torch.finfo(dtype).max
    return (values.float() / scale).to(dtype), scale
