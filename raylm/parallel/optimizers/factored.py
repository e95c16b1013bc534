"""The update of Adafactor as a torch optimizer, also for sharded matrices.

torch's own cannot run on cut matrices: it works in place on sums that are not whole yet.
"""

from __future__ import annotations

from typing import Any

import torch

SMALLEST = torch.finfo(torch.float32).eps


class Factored(torch.optim.Optimizer):
    """Second moments of a matrix as the product of a row and a column (https://arxiv.org/abs/1804.04235).

    The numbers are those of `torch.optim.Adafactor`.
    """

    def __init__(self, groups: list[dict[str, Any]], lr: float, beta2_decay: float) -> None:
        super().__init__(groups, {"lr": lr, "beta2_decay": beta2_decay, "weight_decay": 0.0, "eps": 1e-3, "clip": 1.0})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        """One update."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, parameter.grad.float(), group)

    def _update(self, parameter: Any, grad: Any, group: dict[str, Any]) -> None:
        state = self.state[parameter]
        state["step"] = state.get("step", torch.zeros(())) + 1
        step = float(state["step"])
        fresh = step ** group["beta2_decay"]
        size = _rms(parameter).clamp(min=group["eps"]) * min(group["lr"], step**-0.5)
        parameter.mul_(1.0 - group["lr"] * group["weight_decay"])
        if grad.dim() > 1:
            row = _moved(state, "row_var", grad.square().mean(-1, keepdim=True), fresh)
            column = _moved(state, "col_var", grad.square().mean(-2, keepdim=True), fresh)
            variance = (row / _whole(row.mean(-2, keepdim=True), row).clamp(min=SMALLEST)) * column
        else:
            variance = _moved(state, "variance", grad.square(), fresh)
        update = variance.clamp(min=SMALLEST**2).rsqrt() * grad
        # tensors, not floats: a float would make the host wait for the device at each parameter
        parameter.sub_((update * (size / (_rms(update) / group["clip"]).clamp(min=1.0))).to(parameter.dtype))


def _moved(state: dict[str, Any], name: str, value: Any, share: float) -> Any:
    """The moving average `name` after `value`; it is kept whole or cut as its first value was."""
    value = _whole(value, value)
    state[name] = state[name].lerp(value, share) if name in state else value * share
    return state[name]


def _whole(value: Any, like: Any) -> Any:
    """`value` without sums that are still spread over ranks; cuts stay cuts."""
    if not hasattr(value, "placements"):
        return value
    from torch.distributed.tensor import Replicate

    return value.redistribute(like.device_mesh, [Replicate() if p.is_partial() else p for p in value.placements])


def _rms(tensor: Any) -> Any:
    mean = tensor.float().square().mean()
    return _whole(mean, mean).sqrt()
