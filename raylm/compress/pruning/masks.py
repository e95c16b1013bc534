"""Which weights of a matrix become zero, by a score of each: a share of them, or n of every m that lie side by side stay.

Shapes: O outputs, I inputs.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

from raylm.core.errors import ConfigError

if TYPE_CHECKING:
    import torch

PATTERN = re.compile(r"^(\d+):(\d+)$")


class Sparsity(NamedTuple):
    """How many weights become zero."""

    share: float
    """Share of the weights that become zero."""
    keep: int = 0
    """Of every `of` weights side by side along the inputs, those that stay; 0 where they may lie anywhere."""
    of: int = 0

    @classmethod
    def read(cls, share: float, pattern: str | None) -> Sparsity:
        """Of `share`, or of a pattern as "2:4". Raises ValueError for another spelling."""
        if pattern is None:
            return cls(share)
        found = PATTERN.match(pattern)
        keep, of = (int(found[1]), int(found[2])) if found else (0, 0)
        if not 0 < keep < of:
            raise ValueError(f'pattern {pattern!r}: write how many of how many stay, as "2:4"')
        return cls(1 - keep / of, keep, of)

    def check(self, name: str, inputs: int) -> None:
        """Raises ConfigError when a layer's inputs cannot be divided so."""
        if self.of and inputs % self.of:
            raise ConfigError(
                f"{name} has {inputs} inputs, no multiple of {self.of}",
                next=f"take another pattern than {self.keep}:{self.of}, or a `share`",
            )

    def kept(self, score_OI: torch.Tensor, by_row: bool = True) -> torch.Tensor:
        """True for the weights that stay: those of the highest scores; of equal ones the later.

        Args:
            by_row: weights are compared with those of the same output; else with all.
        """
        import torch

        if self.of:
            groups = score_OI.reshape(-1, self.of)
            num_dropped = self.of - self.keep
        else:
            groups = score_OI if by_row else score_OI.reshape(1, -1)
            num_dropped = int(groups.shape[1] * self.share)
        order = groups.sort(dim=1, stable=True).indices[:, :num_dropped]
        return torch.ones_like(groups, dtype=torch.bool).scatter_(1, order, False).reshape(score_OI.shape)
