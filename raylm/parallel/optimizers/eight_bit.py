"""bitsandbytes' 8-bit AdamW over the local shards of parameters.

Its state is saved as 32-bit moments by parameter, so a step checkpoint goes on under any layout and under 32-bit AdamW. The
way back is exact on the same layout.
"""

from __future__ import annotations

from typing import Any

import torch

BLOCK = 256
MOMENTS = (("exp_avg", "state1", "qmap1", "absmax1"), ("exp_avg_sq", "state2", "qmap2", "absmax2"))


class AdamW8(torch.optim.Optimizer):
    """AdamW with moments in blocks of 256 8-bit numbers; parameters below 4,096 numbers keep 32 bits."""

    def __init__(
        self, groups: list[dict[str, Any]], lr: float, betas: tuple[float, float], eps: float, paged: bool = False
    ) -> None:
        from bitsandbytes.optim.adamw import AdamW8bit, PagedAdamW8bit

        super().__init__(groups, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": 0.0})
        self._local = {p: torch.nn.Parameter(_local(p.detach())) for group in self.param_groups for p in group["params"]}
        inner = [{**group, "params": [self._local[p] for p in group["params"]]} for group in self.param_groups]
        self._inner = (PagedAdamW8bit if paged else AdamW8bit)(inner, lr=lr, betas=betas, eps=eps)

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        """One update of this rank's shards."""
        for group, inner in zip(self.param_groups, self._inner.param_groups, strict=True):
            inner |= {name: value for name, value in group.items() if name != "params"}
        for parameter, local in self._local.items():
            local.data = _local(parameter.detach())
            local.grad = None if parameter.grad is None else _local(parameter.grad)
        self._inner.step()
        for parameter, local in self._local.items():
            local.grad = None
            if "step" in self._inner.state[local]:
                self.state[parameter]["step"] = torch.tensor(float(self._inner.state[local]["step"]))

    def state_dict(self) -> dict[str, Any]:
        """Step and 32-bit moments of each parameter, cut as the parameter is."""
        for parameter, local in self._local.items():
            held = self._inner.state[local]
            for name, codes, table, largest in MOMENTS if "step" in held else ():
                self.state[parameter][name] = _like(parameter, _decoded(held, codes, table, largest))
        saved = super().state_dict()
        saved["state"] = {index: dict(state) for index, state in saved["state"].items()}
        for state in self.state.values():
            for name, *_ in MOMENTS:
                state.pop(name, None)
        return saved

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over what `state_dict` returned, here or on another layout, or 32-bit AdamW's."""
        super().load_state_dict(state_dict)
        for at, group in enumerate(self._inner.param_groups):
            for index, local in enumerate(group["params"]):
                parameter = self.param_groups[at]["params"][index]
                state = self.state.get(parameter)
                if not state:
                    continue
                local.data = _local(parameter.detach())
                self._inner.init_state(group, local, at, index)
                held = self._inner.state[local]
                held["step"] = int(state["step"])
                for name, codes, table, largest in MOMENTS:
                    _encode(held, codes, table, largest, _local(state.pop(name)).float().contiguous())
        # the inner one makes its first state when it first steps, unless told that there is one
        self._inner.initialized = True


def _decoded(held: dict[str, Any], codes: str, table: str, largest: str) -> torch.Tensor:
    from bitsandbytes.functional import dequantize_blockwise

    if held[codes].dtype == torch.float32:
        return held[codes].clone()
    return dequantize_blockwise(held[codes], absmax=held[largest], code=held[table], blocksize=BLOCK)


def _encode(held: dict[str, Any], codes: str, table: str, largest: str, moment: torch.Tensor) -> None:
    """Nearest codes of `moment`. A moment that was decoded gets back the very codes and scales it came from."""
    if held[codes].dtype == torch.float32:
        held[codes].copy_(moment)
        return
    table_C = held[table]
    blocks_NK = torch.nn.functional.pad(moment.flatten(), (0, -moment.numel() % BLOCK)).view(-1, BLOCK)
    # the signed table ends at 1 but begins above -1: a block's largest number may have stood for less than its scale
    scale_N = torch.maximum(blocks_NK.amax(1) / table_C[-1], blocks_NK.amin(1) / table_C[0].clamp(max=-1e-30)).clamp(min=0)
    codes_NK = torch.bucketize(blocks_NK / scale_N.clamp(min=1e-38)[:, None], (table_C[1:] + table_C[:-1]) / 2)
    # that division rounds: of the neighbouring scales take the one under which most numbers of the block come out exactly
    near = [scale_N]
    for end in (0.0, float("inf")):
        once = torch.nextafter(scale_N, torch.full_like(scale_N, end))
        near += [once, torch.nextafter(once, torch.full_like(scale_N, end))]
    exact = torch.stack([(table_C[codes_NK] * scale[:, None] == blocks_NK).sum(1) for scale in near])
    scale_N = torch.stack(near).gather(0, exact.argmax(0)[None])[0]
    held[codes].copy_(codes_NK.flatten()[: moment.numel()].view_as(moment))
    held[largest].copy_(scale_N)


def _local(tensor: Any) -> torch.Tensor:
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor


def _like(parameter: Any, local: torch.Tensor) -> Any:
    """`local` cut over ranks as `parameter` is."""
    if not hasattr(parameter, "device_mesh"):
        return local
    from torch.distributed.tensor import DTensor

    return DTensor.from_local(
        local, parameter.device_mesh, parameter.placements, run_check=False, shape=parameter.shape, stride=parameter.stride()
    )
