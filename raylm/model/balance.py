"""Load balancing of experts: an auxiliary loss, a bias, and the measured load.

forward: hooks see logits and choices of each router --> term: the row-wise loss of the micro batch, choices counted
end of the step: choices of all ranks --> max_expert_load; the bias of experts with too much to do falls, of others it rises

Shapes: B rows, T tokens, N experts, K experts per token, L layers with experts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from pydantic import Field

from raylm.core.config import Config
from raylm.core.errors import ConfigError
from raylm.model.transformers_private import recorded_routers

if TYPE_CHECKING:
    import torch

BIAS = "e_score_correction_bias"
# all-reduces numbers over the ranks that read different rows
Sum = Callable[[Iterable[float]], list[float]]


class Balance(Config):
    """How experts are kept evenly busy."""

    auxiliary: float = Field(default=0.0, ge=0)
    """Weight of a loss on uneven load within each row, summed over layers; 1 is an even layer (DeepSeek-V3: 1e-4)."""
    bias_rate: float = Field(default=0.0, ge=0)
    """Step by which the routers' bias follows the load of each batch, where the family has one (DeepSeek-V3: 1e-3)."""


class Balancer:
    """Watches the routers of one model on one rank.

    The loss is that of DeepSeek-V3 (https://arxiv.org/abs/2412.19437, eq. 17 to 20): for each row, N / K times the sum over
    experts of the share of its choices and its mean probability. As a mean over rows it is the same for every micro batch and
    number of ranks; a loss over whole batches would not be, for it is no sum. Padding and rows that only fill up do not count.
    The bias is moved as in https://arxiv.org/abs/2408.15664 by the sign of the load's error over the global batch.

    Args:
        routers: modules that return (logits, weights, choices) of their tokens.
    """

    def __init__(self, routers: Sequence[Any], balance: Balance) -> None:
        self._routers, self._balance = list(routers), balance
        self._counted: list[torch.Tensor] | None = None
        self._seen: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
        self._loads: dict[int, torch.Tensor] = {}
        self._micro, self._rows = 0, 1.0
        for layer, router in enumerate(self._routers):
            router.register_forward_hook(self._hook(layer))

    def begin(self, counted: list[torch.Tensor], total: Sum) -> None:
        """Watch a step whose micro batches count the tokens where `counted` [B, T] is not 0. Every rank must call."""
        (self._rows,) = total([float(sum((mask_BT.sum(1) > 0).sum() for mask_BT in counted))])
        self._counted, self._micro, self._loads, self._seen = counted, 0, {}, {}

    def term(self) -> torch.Tensor | None:
        """What the micro batch that went through the model adds to the loss: this rank's share of the mean over all rows.
        None outside of a step, and where there is no auxiliary loss."""
        import torch

        if self._counted is None:
            return None
        mask_BT, terms = self._counted[self._micro], []
        for layer, (logits, choices) in self._seen.items():
            load_BN = _load(choices, mask_BT, logits.shape[-1])
            self._loads[layer] = self._loads.get(layer, 0) + load_BN.sum(0)
            if self._balance.auxiliary:
                share_BTN = self._shares(layer, logits).view(*mask_BT.shape, -1)
                terms.append(_row_losses(share_BTN, load_BN, mask_BT, choices.shape[-1]).sum())
        self._micro, self._seen = self._micro + 1, {}
        return self._balance.auxiliary * torch.stack(terms).sum() / max(self._rows, 1.0) if terms else None

    def end(self, total: Sum) -> dict[str, float]:
        """`max_expert_load`: the busiest expert's load over the mean of its layer, 1 when all are even. Every rank must call."""
        import torch

        self._counted = None
        shape = (len(self._routers), -1)
        own_LN = torch.stack([self._loads[layer] for layer in range(len(self._routers))])
        load_LN = torch.tensor(total(own_LN.double().flatten().tolist()), dtype=torch.float64).view(shape)
        self._loads = dict(enumerate(load_LN))
        mean_L = load_LN.mean(1).clamp(min=1e-9)
        return {"max_expert_load": float((load_LN.amax(1) / mean_L).max())}

    def shift(self) -> None:
        """Move the routers' bias by what `end` found; call it after an update that was taken."""
        import torch

        if not self._balance.bias_rate:
            return
        for layer, router in enumerate(self._routers):
            load_N = self._loads[layer]
            bias_N = getattr(router, BIAS)
            with torch.no_grad():
                bias_N += self._balance.bias_rate * (load_N.mean() - load_N).sign().to(bias_N)

    def _hook(self, layer: int) -> Any:
        from raylm.model.torch_private import in_backward

        def hook(router: Any, args: Any, made: tuple[torch.Tensor, torch.Tensor, torch.Tensor]) -> None:
            if self._counted is not None and not in_backward():
                self._seen[layer] = (made[0], made[2])

        return hook

    def _shares(self, layer: int, logits: torch.Tensor) -> torch.Tensor:
        """What each expert has of each token, as the router sees it; the experts' shares sum to 1."""
        if not hasattr(self._routers[layer], BIAS):
            return logits.float().softmax(-1)
        scores = logits.float().sigmoid()
        return scores / (scores.sum(-1, keepdim=True) + 1e-20)


def _load(choices: torch.Tensor, mask_BT: torch.Tensor, num_experts: int) -> torch.Tensor:
    """How many tokens of each row were sent to each expert, float32 [B, N]."""
    import torch

    picked = choices.shape[-1]
    choices_BC = choices.reshape(len(mask_BT), -1)
    counted_BC = mask_BT.float().repeat_interleave(picked, 1)
    return torch.zeros(len(mask_BT), num_experts, device=choices.device).scatter_add_(1, choices_BC, counted_BC)


def _row_losses(share_BTN: torch.Tensor, load_BN: torch.Tensor, mask_BT: torch.Tensor, picked: int) -> torch.Tensor:
    """The loss of each row [B], 0 for rows that do not count."""
    length_B1 = mask_BT.sum(1, keepdim=True).clamp(min=1)
    probability_BN = (share_BTN * mask_BT[..., None]).sum(1) / length_B1
    return (load_BN.shape[1] / picked * load_BN / length_B1 * probability_BN).sum(-1)


def balancer_of(model: Any, balance: Balance | None) -> Balancer | None:
    """What watches the routers of `model`; None for a model without.

    Raises:
        ConfigError: `balance` asks for what the model's routers do not have.
    """
    routers = _routers(model)
    if balance is not None and not routers:
        raise ConfigError("`balance` stands beside a model whose routers are not known: it has no experts", next="drop `balance`")
    if balance is not None and balance.bias_rate and not all(hasattr(router, BIAS) for router in routers):
        raise ConfigError(
            "balance.bias_rate needs routers with a bias, as DeepSeek-V3 has", next="set balance.auxiliary in its place"
        )
    return Balancer(routers, balance or Balance()) if routers else None


def _routers(model: Any) -> list[Any]:
    """Modules that transformers records router logits of, where they return (logits, weights, choices)."""
    for module in model.modules():
        recorded = recorded_routers(module)
        if recorded is not None and recorded.index == 0 and recorded.layer_name is None:
            return [router for router in model.modules() if isinstance(router, recorded.target_class)]
    return []
