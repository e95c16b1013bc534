"""Linear layers whose frozen matrix is stored in 4 bits (NF4 or FP4 of bitsandbytes), as one vector of bytes.

matrix_OI -> quantize (blocks of 64 numbers, each with a scale; the scales in 8 bits, in blocks of 256) -> bytes_N
bytes_N   =  [scales of scales, offset: float32 | scales: 8 bits (float32 without double quantization) | two numbers per byte]

One vector of bytes holds all that a matrix is, so who cuts, gathers, sends or skips frozen parameters knows of no 4 bits.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch.nn import functional

if TYPE_CHECKING:
    from collections.abc import Iterable

BLOCK = 64
"""Numbers that share a scale; that of bitsandbytes, as is `SCALES`."""
SCALES = 256
"""Scales that share one."""


class Quantization(NamedTuple):
    """How matrices are stored (https://arxiv.org/abs/2305.14314)."""

    quant_type: str = "nf4"
    """`nf4` (levels for normally distributed weights) or `fp4` (a sign, two bits of exponent, one of mantissa)."""
    double_quant: bool = True
    """Whether scales are stored in 8 bits, in place of 32."""

    def num_bytes(self, num_weights: int) -> int:
        """Bytes of a matrix of so many numbers."""
        floats, scales, codes = self._sizes(num_weights)
        return 4 * floats + scales + codes

    def pack(self, matrix_OI: torch.Tensor) -> torch.Tensor:
        """`matrix_OI` in 4 bits, rounded by bitsandbytes: bytes_N, uint8, on its device."""
        from bitsandbytes.functional import quantize_4bit

        found: Any = quantize_4bit(
            matrix_OI.contiguous(), blocksize=BLOCK, compress_statistics=self.double_quant, quant_type=self.quant_type
        )
        return self.pack_state(*found)

    def pack_state(self, codes: torch.Tensor, state: Any) -> torch.Tensor:
        """The bytes of what bitsandbytes made of a matrix: its codes, and their QuantState."""
        if not self.double_quant:
            parts = [state.absmax.float()]
        else:
            parts = [state.state2.absmax, state.offset.reshape(1).float(), state.absmax]
        return torch.cat([part.detach().contiguous().reshape(-1).view(torch.uint8) for part in (*parts, codes)])

    def unpack(self, bytes_N: torch.Tensor, shape: tuple[int, int], dtype: torch.dtype) -> torch.Tensor:
        """The matrix that `bytes_N` stands for, in `dtype`: each level times the scale of its 64 numbers, which follow each other
        row by row. bitsandbytes dequantizes the same where rows are whole blocks, see `_rows`."""
        from bitsandbytes.functional import QuantState, dequantize_4bit

        floats, scales, codes = self._sizes(shape[0] * shape[1])
        # gathered bytes may begin anywhere; float32 may not
        head_F = _floats(bytes_N[: 4 * floats])
        codes_N1 = bytes_N[4 * floats + scales :].view(-1, 1)
        assert len(codes_N1) == codes, f"{len(bytes_N)} bytes are no matrix of {shape[0]} x {shape[1]}"
        how: dict[str, Any] = {"shape": _rows(*shape), "dtype": dtype, "blocksize": BLOCK, "quant_type": self.quant_type}
        if not self.double_quant:
            return dequantize_4bit(codes_N1, QuantState(absmax=head_F, **how)).view(shape)
        outer = QuantState(absmax=head_F[:-1], code=_levels(bytes_N.device), blocksize=SCALES, dtype=torch.float32)
        scales_N = bytes_N[4 * floats : 4 * floats + scales]
        return dequantize_4bit(codes_N1, QuantState(absmax=scales_N, offset=head_F[-1], state2=outer, **how)).view(shape)

    def _sizes(self, num_weights: int) -> tuple[int, int, int]:
        """Float32 numbers, scales of 8 bits, bytes of two numbers each."""
        blocks, codes = -(-num_weights // BLOCK), -(-num_weights // 2)
        return (-(-blocks // SCALES) + 1, blocks, codes) if self.double_quant else (blocks, 0, codes)


class Linear4bit(torch.nn.Linear):
    """A linear layer that stores its matrix in 4 bits and multiplies with what these stand for, in the dtype of its input.

    Gradients pass through it to its input; it learns nothing itself. `weight` is a vector of bytes.
    """

    def __init__(self, bytes_N: torch.Tensor, bias: torch.nn.Parameter | None, shape: tuple[int, int], how: Quantization) -> None:
        torch.nn.Module.__init__(self)
        self.out_features, self.in_features = shape
        self.how = how
        self.weight = torch.nn.Parameter(bytes_N, requires_grad=False)
        self.bias = None if bias is None else torch.nn.Parameter(bias.detach(), requires_grad=False)

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        kind = input.device.type
        if torch.is_autocast_enabled(kind):
            input = input.to(torch.get_autocast_dtype(kind))
        if not input.is_floating_point():
            # some classes cast what they feed a layer to the dtype of its weight
            raise TypeError(f"a layer of 4-bit weights was fed {input.dtype}")
        bias = None if self.bias is None else self.bias.to(input.dtype)
        with torch.autocast(kind, enabled=False):
            made: Any = _Product.apply(input, self.weight, bias, self)
        return made

    def matrix(self, bytes_N: torch.Tensor | None = None, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        """What `weight` stands for, [out, in].

        Args:
            bytes_N: the layer's bytes, where its own are cut over ranks.
        """
        found = self.weight.detach() if bytes_N is None else bytes_N
        return self.how.unpack(found, (self.out_features, self.in_features), dtype)

    # peft asks layers of its own that are quantized in this way
    dequantize = matrix

    @property
    def W_q(self) -> torch.Tensor:
        return self.weight

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, {self.how.quant_type}"


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, input: torch.Tensor, bytes_N: torch.Tensor, bias: torch.Tensor | None, layer: Linear4bit) -> Any:
        # the bytes are saved, not the matrix: this is what the memory is saved by
        ctx.save_for_backward(bytes_N)
        ctx.layer = layer
        return functional.linear(input, layer.matrix(bytes_N, input.dtype), bias)

    @staticmethod
    def backward(ctx: Any, slope: torch.Tensor) -> Any:
        (bytes_N,) = ctx.saved_tensors
        return slope.matmul(ctx.layer.matrix(bytes_N, slope.dtype)), None, None, None


def quantize_layers(model: torch.nn.Module, names: Iterable[str], how: Quantization) -> None:
    """Put the linear layers called `names` into 4 bits, in place, one after the other."""
    for name in names:
        plain: Any = model.get_submodule(name)
        made = Linear4bit(how.pack(plain.weight.detach()), plain.bias, tuple(plain.weight.shape), how)
        model.set_submodule(name, made.train(plain.training))


def layers_of(model: torch.nn.Module) -> dict[str, Linear4bit]:
    """The 4-bit layers of a model, by the name of their weight."""
    return {f"{name}.weight": module for name, module in model.named_modules() if isinstance(module, Linear4bit)}


def _rows(num_out: int, num_in: int) -> torch.Size:
    """The shape that bitsandbytes is told: rows of whole blocks, or one row. Where a block reaches into the next row its kernel
    for CPUs (0.50.2, AVX-512) takes the wrong scales: 0.25 of relative error in place of 0.09, and no word."""
    if num_in % BLOCK == 0:
        return torch.Size((num_out, num_in))
    size = num_out * num_in
    return torch.Size((size // BLOCK, BLOCK) if size % BLOCK == 0 else (1, size))


def _floats(bytes_N: torch.Tensor) -> torch.Tensor:
    return (bytes_N.clone() if bytes_N.storage_offset() % 4 else bytes_N).view(torch.float32)


@cache
def _levels(device: torch.device) -> torch.Tensor:
    """What the 256 values of a scale stand for."""
    from bitsandbytes.functional import create_dynamic_map

    return create_dynamic_map().to(device)
