"""torch.compile per transformer block: blocks of one kind share their code."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from raylm.core.errors import ConfigError
from raylm.model.compiler import compiler_missing

if TYPE_CHECKING:
    import torch


def compile_blocks(blocks: Sequence[torch.nn.Module], device: str) -> None:
    """Compile the forward of each block in place; hooks (of FSDP) stay outside.

    Raises:
        ConfigError: torch.compile has no compiler to make code for `device` with.
    """
    import torch

    if lacks := compiler_missing(device):
        raise ConfigError(f"compile = true compiles kernels: there is {lacks}", next="install it, or drop `compile`")
    for block in blocks:
        forward: Any = torch.compile(block.forward, dynamic=None)
        block.forward = forward
