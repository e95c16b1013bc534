"""Two optimizers over different parameters of one model that step, save and load as one."""

from __future__ import annotations

from typing import Any

import torch


class ChainedOptimizer(torch.optim.Optimizer):
    """Shares parameter groups and state with its members: what is set in one is set in the other."""

    def __init__(self, *members: torch.optim.Optimizer) -> None:
        self.members = members
        super().__init__([group for member in members for group in member.param_groups], {})
        self._share()

    def step(self, closure: Any = None) -> None:
        """One update of every member."""
        for member in self.members:
            member.step()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over a saved state; members see it too."""
        super().load_state_dict(state_dict)
        self._share()

    def _share(self) -> None:
        at = 0
        for member in self.members:
            count = len(member.param_groups)
            member.param_groups, member.state = self.param_groups[at : at + count], self.state
            at += count
