"""The update of Lion as a torch optimizer."""

from __future__ import annotations

from typing import Any

import torch


class SignMomentum(torch.optim.Optimizer):
    """p -= lr * (sign(b1 * m + (1 - b1) * g) + decay * p);  m = b2 * m + (1 - b2) * g."""

    def __init__(self, groups: list[dict[str, Any]], lr: float, betas: tuple[float, float]) -> None:
        super().__init__(groups, {"lr": lr, "betas": betas, "weight_decay": 0.0})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        """One update."""
        for group in self.param_groups:
            first, second = group["betas"]
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if not state:
                    state["exp_avg"] = torch.zeros_like(parameter)
                momentum = state["exp_avg"]
                update = momentum.lerp(parameter.grad, 1.0 - first).sign_()
                parameter.mul_(1.0 - group["lr"] * group["weight_decay"]).add_(update, alpha=-group["lr"])
                momentum.lerp_(parameter.grad, 1.0 - second)
